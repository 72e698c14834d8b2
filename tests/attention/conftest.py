"""Kernels run in Triton's interpreter. Without torch nothing here can run: each file is skipped unread, and says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported, which transformers does, too

import pytest

try:
    import torch  # noqa: F401
except ImportError:
    WITHOUT_TORCH = True
else:
    WITHOUT_TORCH = False


class _Skipped(pytest.Item):
    def runtest(self) -> None:
        pytest.skip("torch is not installed; pip install '.[attention,transformers]'")


class _File(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        yield _Skipped.from_parent(self, name="needs torch")


class _Folder(pytest.File):
    """A folder taken for a file: its own conftest, which imports torch, is not read."""

    def collect(self) -> Iterator[pytest.Collector]:
        for path in sorted(self.path.glob("test_*.py")):
            yield _File.from_parent(self, path=path)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return _File.from_parent(parent, path=module_path) if WITHOUT_TORCH else None


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    skipped = WITHOUT_TORCH and path != Path(__file__).parent
    return _Folder.from_parent(parent, path=path) if skipped else None
