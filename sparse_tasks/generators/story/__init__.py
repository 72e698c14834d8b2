"""Tasks over one simulated world."""

from sparse_tasks.generators.story import aggregation, filtering, multihop, retrieval

__all__ = ["aggregation", "filtering", "multihop", "retrieval"]
