"""Fixtures of the tests of publishing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from tests.cli.program import keep_tokenizers, run
from tests.hub.server import FakeHub, serving


@pytest.fixture(autouse=True, scope="package")
def kept_tokenizers() -> Iterator[None]:
    with keep_tokenizers():
        yield


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A small data set; read-only."""
    return _made(tmp_path_factory.mktemp("hub") / "data", "-l", "3k", "-l", "4k")


@pytest.fixture(scope="package")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Another one, which shares no length with the first but a task."""
    return _made(tmp_path_factory.mktemp("hub") / "other", "-l", "5k")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(tmp_path / "home", monkeypatch) as running:
        yield running


def _made(folder: Path, *lengths: str) -> Dataset:
    tasks = ("-t", "story_multihop", "-t", "ruler_vt")
    assert run("generate", *lengths, *tasks, "-n", "2", "-w", "1", "-o", folder).code == 0
    return open_dataset(str(folder))
