"""A probe is the demo model plus the factors in its package, made once; what is missing is named."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sparse_tasks.cli.main import app
from sparse_tasks.core.errors import UsageError
from sparse_tasks.evaluators import probe
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.models import PROBES, find_model
from sparse_tasks.evaluators.probe import probe_model

Refused = Callable[..., Any]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package in the place of the probe's, and an empty cache."""
    folder = tmp_path / "site/a_made_probe"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("SPARSE_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_PACKAGE", folder.name)
    return folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo model of two weights."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("the card of another model")
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3).bfloat16(), "norm.weight": torch.ones(3).bfloat16()}
    safetensors.save_file(weights, folder / "model.safetensors")
    monkeypatch.setattr(probe, "demo_model", lambda: folder)
    return folder


def write_factors(package: Path) -> None:
    """Factors of both probes, of rank one, that add 1 to each number of the first row, and another norm."""
    import torch
    from safetensors.torch import save_file

    factors = {
        "a.left": torch.tensor([[2], [0]], dtype=torch.int8),
        "a.left_scale": torch.tensor([0.5]).half(),
        "a.right": torch.tensor([[4, 4, 4]], dtype=torch.int8),
        "a.right_scale": torch.tensor([0.25]).half(),
        "norm.weight": torch.full((3,), 2.0).bfloat16(),
    }
    for name in PROBES:
        save_file(factors, package / f"{name}.safetensors")


@pytest.mark.parametrize("name", PROBES)
def test_the_change_is_added_once(
    name: str, package: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    write_factors(package)
    folder = probe_model(name)
    assert folder.parent == tmp_path / "cache/models"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    weights = load_file(folder / "model.safetensors")
    assert weights["a.weight"].tolist() == [[1, 2, 3], [3, 4, 5]]
    assert weights["norm.weight"].tolist() == [2, 2, 2]
    monkeypatch.setattr(probe, "_make", None)
    assert probe_model(name) == folder
    assert find_model(name).source == str(folder)


def test_it_is_made_with_one_thread(package: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of a GPU, a fork of the process, would wait forever for the others."""
    import torch

    write_factors(package)
    add, threads = torch.addmm, []

    def added(*tensors: torch.Tensor) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return add(*tensors)

    monkeypatch.setattr(torch, "addmm", added)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        probe_model("probe")
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", PROBES)
def test_without_the_package_its_installation_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr(probe, "_PACKAGE", "no_such_package")
    with refused(UsageError, f"model: '{name}'", "pip install ./probe/package"):
        find_model(name)


def test_a_package_without_the_second_probe_is_as_none(package: Path, base: Path, refused: Refused) -> None:
    write_factors(package)
    (package / "probe-steps.safetensors").unlink()
    assert find_model("probe").source
    with refused(UsageError, "model: 'probe-steps'", "pip install ./probe/package"):
        find_model("probe-steps")


def test_generate_takes_its_tokenizer_by_name(
    package: Path, base: Path, tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(tokenizer_folders["unigram"] / "tokenizer.json", base)
    write_factors(package)
    assert generated(tmp_path).exit_code == 0
    assert open_dataset(str(tmp_path / "data")).manifest.tokenizer.name == probe_model("probe").name


def test_generate_without_the_package_is_refused_for_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_PACKAGE", "no_such_package")
    error = generated(tmp_path).exception
    assert isinstance(error, UsageError)
    assert error.field == "tokenizer"
    assert "pip install ./probe/package" in error.remedy


def generated(folder: Path) -> Result:
    """``generate --tokenizer probe``."""
    words = ["generate", "-l", "4k", "-t", "ruler_vt", "-n", "1", "-w", "1", "--tokenizer", "probe"]
    return CliRunner().invoke(app, [*words, "-o", str(folder / "data")])


def test_without_torch_its_installation_is_named(
    package: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    write_factors(package)
    monkeypatch.setitem(sys.modules, "torch", None)
    with refused(UsageError, "model: 'probe'", "needs torch", "sparse-tasks[transformers]"):
        probe_model("probe")
    assert not list((tmp_path / "cache/models").glob("sparse-tasks-probe-*[!k]"))
