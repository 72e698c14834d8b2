"""Metrics by name, for parametrized tests."""

from sparse_tasks.evaluators.metrics import METRICS as REGISTRY
from sparse_tasks.evaluators.metrics import Metric

__all__ = ["LENIENT", "METRICS", "STRICT", "Metric"]

METRICS = {name: REGISTRY.get(name) for name in REGISTRY.names()}
LENIENT = {name for name, metric in METRICS.items() if metric.lenient}
STRICT = {name: metric for name, metric in METRICS.items() if not metric.lenient}
