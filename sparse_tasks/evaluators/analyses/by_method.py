"""What each method answered, with the runs that asked the same of a model taken together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pandas as pd

__all__ = ["METHOD", "by_method", "some"]

METHOD: Final = ["model", "attention", "asked"]
"""What runs have in common that are taken together."""

_SAMPLE: Final = [*METHOD, "length", "task", "dataset", "id"]
_VALUES: Final = ["score", "dense", "prefill_sparsity", "decode_sparsity"]


def by_method(samples: pd.DataFrame) -> pd.DataFrame:
    """The answers of sparse attention, a row a sample of each model, method and sparsity, in an order of their own.

    Runs over different data sets add up. A sample that several runs of the same kind answered counts once, with the
    mean of its scores, so that nothing looks surer than it is.

    Args:
        samples: ``Runs.samples``, in any order.
    """
    sparse = samples.loc[samples["attention"] != "dense", [*_SAMPLE, *_VALUES]]
    sparse = sparse.sort_values([*_SAMPLE, "score"], ignore_index=True)
    if sparse.duplicated(_SAMPLE).any():
        sparse = sparse.groupby(_SAMPLE, observed=True, dropna=False, as_index=False)[_VALUES].mean()
    return sparse


def some(names: Iterable[object]) -> str:
    """Names for a message, the first few of many."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
