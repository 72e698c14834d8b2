"""A metric in one file: how close a number is to the right one.

Once installed, any task may use it::

    pip install examples/metric

For a metric of your own, change its name (here and in pyproject.toml) and what it returns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparse_tasks.evaluators.metrics import METRICS, Metric


def close_number(prediction: str | None, answers: Sequence[str]) -> float:
    """One minus the relative error, at least 0; 0 if the answer is not a single number."""
    number = re.fullmatch(r"\s*(\d[\d,]*)\.?\s*", prediction or "")
    if number is None:
        return 0.0
    gold = int(answers[0])
    return max(0.0, 1 - abs(int(number[1].replace(",", "")) - gold) / gold)


METRICS.register("close_number", Metric(close_number))
