"""Results in the formats of others."""

from sparse_tasks.evaluators.exports.export import EXPORTS, Export

__all__ = ["EXPORTS", "Export"]
