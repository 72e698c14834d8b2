"""Answers of each method, with the runs of the same model, method and sparsity taken together."""

from __future__ import annotations

from typing import Final

import pandas as pd

__all__ = ["METHOD", "by_method"]

METHOD: Final = ["model", "attention", "asked"]
"""Columns that are equal in runs that are taken together."""

_SAMPLE: Final = [*METHOD, "length", "task", "dataset", "id"]
_VALUES: Final = ["score", "dense", "prefill_sparsity", "decode_sparsity"]


def by_method(samples: pd.DataFrame) -> pd.DataFrame:
    """Answers of sparse attention, sorted: a row for each sample of each model, method and sparsity.

    Runs over different data sets add up. A sample that several such runs answered counts once, with its mean score, so
    that nothing looks surer than it is.
    """
    sparse = samples.loc[samples["attention"] != "dense", [*_SAMPLE, *_VALUES]]
    sparse = sparse.sort_values([*_SAMPLE, "score"], ignore_index=True)
    if sparse.duplicated(_SAMPLE).any():
        sparse = sparse.groupby(_SAMPLE, observed=True, dropna=False, as_index=False)[_VALUES].mean()
    return sparse
