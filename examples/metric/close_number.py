"""A metric of one file: how near a number is to the right one.

Install it, and any task may name it::

    pip install examples/metric

For a metric of your own, change its name (here and in pyproject.toml) and what it returns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparse_tasks.evaluators.metrics import METRICS, Metric


def close_number(prediction: str | None, answers: Sequence[str]) -> float:
    """One less the relative error, at least 0; 0 where the answer is not a single number."""
    number = re.fullmatch(r"\s*(\d[\d,]*)\.?\s*", prediction or "")
    if number is None:
        return 0.0
    gold = int(answers[0])
    return max(0.0, 1 - abs(int(number[1].replace(",", "")) - gold) / gold)


METRICS.register("close_number", Metric(close_number))
