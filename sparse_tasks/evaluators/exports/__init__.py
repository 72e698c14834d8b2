"""Exports of results and data sets to other projects' formats."""

from sparse_tasks.evaluators.exports.data import DATA_EXPORTS, DataExport
from sparse_tasks.evaluators.exports.export import EXPORTS, Export

__all__ = ["DATA_EXPORTS", "EXPORTS", "DataExport", "Export"]
