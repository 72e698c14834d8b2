"""Metrics, each in its module."""

from sparse_tasks.evaluators.metrics.metric import METRICS, Metric

__all__ = ["METRICS", "Metric"]
