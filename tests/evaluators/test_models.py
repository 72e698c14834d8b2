"""The model that is named is the one that is evaluated, and its record says which one it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators.models import Model, find_model

Refused = Callable[..., Any]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
EMPTY = hashlib.sha256(b"{}").hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub's library that holds one model's ``config.json``; returns the snapshot's folder."""
    repository = tmp_path / "hub/models--acme--small"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_a_folder_is_identified_by_its_configuration(model: Path) -> None:
    assert find_model(str(model)) == Model(str(model), str(model), None, EMPTY, None)


def test_a_folder_precedes_the_hub(model: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme/small").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    assert find_model("acme/small").revision is None


@pytest.mark.parametrize("name", ["acme/small", "acme/small@main", f"acme/small@{COMMIT}"])
def test_a_model_of_the_hub_is_identified_by_its_commit(name: str, hub: Path) -> None:
    assert find_model(name) == Model(name, "acme/small", COMMIT, EMPTY, None)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path, refused: Refused) -> None:
    with refused(UsageError, "model: ", str(tmp_path), "holds no config.json", "name a folder of a Hugging Face"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/such/model", "a" * 300, "~nobody-has-this/model"])
def test_a_missing_folder_is_refused(name: str, refused: Refused) -> None:
    with refused(UsageError, "model: ", repr(name), "name a folder", "ORG/NAME", "demo"):
        find_model(name)


def test_the_hub_offline_is_one_line(refused: Refused) -> None:
    with refused(UsageError, "model: ", "'no-such/model'", "is not in the cache and the Hub cannot be reached"):
        find_model("no-such/model")


def test_a_repository_without_a_configuration_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    def absent(*arguments: object, **options: object) -> str:
        raise EntryNotFoundError("404\nmore")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", absent)
    with refused(UsageError, "model: ", "'acme/weights'", "holds no config.json"):
        find_model("acme/weights")


def test_demo_is_a_name_and_not_a_folder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr("sparse_tasks.evaluators.demo.demo_model", lambda: model)
    assert find_model("demo") == Model("demo", str(model), None, EMPTY, None)
