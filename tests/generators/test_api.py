"""Generating from Python gives what the command line writes."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import datasets
import pytest

import sparse_tasks
from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.request import GenerateOptions
from sparse_tasks.generators.table import SCHEMA
from tests.cli.program import contents, keep_tokenizers, run


@pytest.fixture(autouse=True, scope="module")
def kept_tokenizers() -> Any:
    with keep_tokenizers():
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_memory_and_folder_hold_the_same(tmp_path: Path) -> None:
    ask: dict[str, Any] = {"length": ["3k", 3500], "tasks": ["ruler_niah", "story_multihop"], "samples": 2}
    memory = sparse_tasks.generate(**ask)
    folder = sparse_tasks.generate(**ask, output=tmp_path / "data")
    assert isinstance(memory, datasets.DatasetDict)
    assert list(memory) == list(folder)
    assert list(memory) == ["story_multihop_3k", "ruler_niah_3k", "story_multihop_3500", "ruler_niah_3500"]
    for name, data in memory.items():
        assert data.num_rows == 2
        assert data.features == folder[name].features
        assert data.features.arrow_schema.equals(SCHEMA)
        assert data.to_list() == folder[name].to_list()


def test_command_line_writes_the_same_folder(tmp_path: Path) -> None:
    sparse_tasks.generate("3k", ["story"], 1, output=tmp_path / "python")
    assert run("generate", "-l", "3k", "-t", "story", "-n", "1", "-w", "1", "-o", tmp_path / "shell").code == 0
    assert contents(tmp_path / "python") == contents(tmp_path / "shell")


def test_overwritten_folder_is_read_anew(tmp_path: Path) -> None:
    # datasets caches what it has read; the new samples must not be the old ones.
    seeds = [
        sparse_tasks.generate("2k", "ruler_niah", 1, seed=seed, output=tmp_path / "data", overwrite=True)
        for seed in (1, 2)
    ]
    assert [data["ruler_niah_2k"][0]["seed"] for data in seeds] == [1, 2]


def test_folder_may_have_the_name_of_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sparse_tasks.generate("2k", "ruler_niah", 1, output="json")["ruler_niah_2k"].num_rows == 1


@pytest.mark.parametrize("length", ["2k", "2K", 2048, "2048", ["2k"], ("2k", 2048)])
def test_length_may_be_written_in_any_way(length: Any) -> None:
    data = sparse_tasks.generate(length, "ruler_niah", 1)
    assert list(data) == ["ruler_niah_2k"]
    assert data["ruler_niah_2k"][0]["length"] == 2048


def test_depth_may_be_a_number() -> None:
    data = sparse_tasks.generate("2k", "ruler_niah", 1, depth=0.5)["ruler_niah_2k"][0]
    assert '"depth": "0.5"' in data["params"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 0}, "length: 0 "),
        ({"length": []}, "length: '' is missing"),
        ({"length": True}, "length: True"),
        ({"tasks": "stori"}, "task: 'stori' is unknown; did you mean 'story'"),
        ({"workers": 0}, "workers: 0 "),
        ({"depth": 2}, "depth: '2' "),
        ({"tokenizer": "qwen"}, "tokenizer: 'qwen'"),
        ({"settings": {"ruler_niah.queries": 2.5}}, "ruler_niah.queries: 2.5 is not a whole number"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    ask = {"length": "2k", "tasks": ["ruler_niah"], "samples": 1, "output": tmp_path / "data"} | options
    with pytest.raises(UsageError) as error:
        sparse_tasks.generate(**ask)
    assert str(error.value).startswith(words)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("options", "field"), [({"on": "auto"}, "on"), ({"output": "s3://bucket/data"}, "output")])
def test_samples_of_a_cluster_need_a_folder_to_be_loaded_from(options: dict[str, str], field: str) -> None:
    with pytest.raises(UsageError, match=f"{field}: "):
        sparse_tasks.generate("2k", ["ruler_niah"], 1, **options)


def test_every_part_of_a_request_can_be_asked_for() -> None:
    ours = inspect.signature(sparse_tasks.generate).parameters
    theirs = {field.name: field.default for field in dataclasses.fields(GenerateOptions)}
    # Here a template is a file that is still to be read, too.
    read = {"lengths", "templates"}
    assert set(ours) == set(theirs) - read | {"length", "template", "workers", "output", "overwrite", "encoder", "on"}
    for name, default in theirs.items():
        assert name in read or ours[name].default == (None if default is dataclasses.MISSING else default)
    documented = sparse_tasks.generate.__doc__ or ""
    assert all(f"{name}: " in documented for name in ours)
