"""The folder loads with datasets in every way that people use; continuous integration runs this with 4.8 and 5.2."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.table import SCHEMA
from tests.generators.requests import make_request

TASKS = ["story_filtering", "story_multihop", "ruler_niah"]


@pytest.fixture(scope="module")
def folder(qwen: PromptTokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("loading") / "data"
    generate_folder(make_request(["3k", "5000"], TASKS, samples=3), qwen, path)
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize("length", ["3k", "5000"])
@pytest.mark.parametrize("task", TASKS)
def test_configuration_of_a_task_and_length(folder: str, task: str, length: str) -> None:
    data = datasets.load_dataset(folder, f"{task}_{length}", split="test")
    assert data.num_rows == 3
    assert set(data["task"]) == {task}
    assert set(data["length"]) == {3072 if length == "3k" else 5000}
    assert data["index"][:] == [0, 1, 2]


def test_configuration_of_a_length_holds_all_tasks(folder: str) -> None:
    data = datasets.load_dataset(folder, "5000", split="test")
    assert sorted(data["task"]) == sorted(TASKS * 3)


def test_streaming_gives_the_same_rows(folder: str) -> None:
    streamed = list(datasets.load_dataset(folder, "ruler_niah_3k", split="test", streaming=True))
    assert streamed == datasets.load_dataset(folder, "ruler_niah_3k", split="test").to_list()


def test_data_dir_names_a_length_as_kvpress_does(folder: str) -> None:
    data = datasets.load_dataset(folder, data_dir="3072", split="test")
    assert sorted(data["task"]) == sorted(TASKS * 3)
    assert {"context", "question", "answer_prefix", "answer", "task", "max_new_tokens"} <= set(data.column_names)


def test_features_are_the_declared_columns(folder: str) -> None:
    loaded = datasets.load_dataset(folder, "story_filtering_5000", split="test")
    declared = datasets.load_dataset_builder(folder, "story_filtering_5000").info.features
    assert loaded.features == declared == datasets.Features.from_arrow_schema(SCHEMA)
    assert loaded.column_names == SCHEMA.names


def test_names_of_configurations(folder: str) -> None:
    names = datasets.get_dataset_config_names(folder)
    assert names == [f"{task}_3k" for task in TASKS] + ["3k"] + [f"{task}_5000" for task in TASKS] + ["5000"]
