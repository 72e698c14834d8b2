"""Metrics by name, for parametrized tests, and a form of their answers."""

from sparse_tasks.evaluators.metrics import METRICS as REGISTRY
from sparse_tasks.evaluators.metrics import Metric

__all__ = ["LENIENT", "METRICS", "STRICT", "Metric", "numbered"]

METRICS = {name: REGISTRY.get(name) for name in REGISTRY.names()}
LENIENT = {name for name, metric in METRICS.items() if metric.lenient}
STRICT = {name: metric for name, metric in METRICS.items() if not metric.lenient}


def numbered(entries: list[str]) -> str:
    """Entries as a numbered list."""
    return "\n".join(f"{number}. {entry}" for number, entry in enumerate(entries, start=1))
