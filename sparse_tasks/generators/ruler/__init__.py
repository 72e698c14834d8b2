"""RULER's synthetic tasks, three of them in the form of The Sparse Frontier."""

from sparse_tasks.generators.ruler import (
    cwe,
    fwe,
    niah,
    niah_multikey_1,
    niah_multikey_2,
    niah_multikey_3,
    niah_multiquery,
    niah_multivalue,
    niah_single_1,
    niah_single_2,
    niah_single_3,
    qa_1,
    qa_2,
    vt,
)

__all__ = [
    "cwe",
    "fwe",
    "niah",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multiquery",
    "niah_multivalue",
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "qa_1",
    "qa_2",
    "vt",
]
