"""Fixtures of the tests of methods: Triton's interpreter, with larger tiles where its time depends on their number."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.attention.interpreter import quick_interpreter


@pytest.fixture(autouse=True, scope="package")
def quick() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders of the kernel's own tiles are for the tests of kernels."""
    if find_spec("triton") is not None:
        monkeypatch.setattr("sparse_tasks.attention.kernels.triton.window_scores.TILE", 256)
