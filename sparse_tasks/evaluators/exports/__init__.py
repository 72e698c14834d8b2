"""Results and data sets in the formats of others."""

from sparse_tasks.evaluators.exports.data import DATA_EXPORTS, DataExport
from sparse_tasks.evaluators.exports.export import EXPORTS, Export

__all__ = ["DATA_EXPORTS", "EXPORTS", "DataExport", "Export"]
