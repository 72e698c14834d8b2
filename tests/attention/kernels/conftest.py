"""Shared by tests of kernels: Triton's interpreter, memory that is poison until it is written, seeds."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.attention.interpreter import quick_interpreter


@pytest.fixture(autouse=True, scope="package")
def quick() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch.empty gives is NaN, or the largest integer."""
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(strict, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture
def seed() -> int:
    """Another at each run; a test that fails shows it, and ``SPARSE_TASKS_SEED`` gives it again."""
    value = int(os.environ.get("SPARSE_TASKS_SEED") or secrets.randbelow(2**31))
    sys.stdout.write(f"SPARSE_TASKS_SEED={value}\n")
    return value
