"""What every export promises: the same bytes for the same run, text that stays data, no clock."""

from __future__ import annotations

import inspect
import json
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
import yaml

from sparse_tasks.evaluators.exports import EXPORTS
from sparse_tasks.evaluators.exports.parts import LEVEL, dataset_id, file_name, model_id, task_id, variant
from sparse_tasks.evaluators.results import SCORES_SCHEMA
from sparse_tasks.evaluators.statistics import mean_interval
from tests.evaluators.exports.conftest import HOSTILE, Scored
from tests.schemas.validation import problems


def test_the_run_of_these_tests_is_of_the_form_that_is_written(scored: Scored) -> None:
    assert problems(scored.run, "run-1.0") == []
    assert problems(scored.result, "result-1.0") == []
    assert [wrong for prediction in scored.predictions for wrong in problems(prediction, "prediction-1.0")] == []
    assert set(scored.scores[0]) == set(SCORES_SCHEMA.names)


def test_the_reported_level_is_that_of_the_intervals() -> None:
    assert inspect.signature(mean_interval).parameters["level"].default == LEVEL


@pytest.mark.parametrize("name", EXPORTS.names())
def test_inputs_are_unchanged_and_the_bytes_are_the_same(name: str, scored: Scored) -> None:
    before = json.dumps([scored.run, scored.result, scored.scores, scored.predictions])
    assert scored.files(EXPORTS.get(name)) == scored.files(EXPORTS.get(name))
    assert json.dumps([scored.run, scored.result, scored.scores, scored.predictions]) == before


@pytest.mark.parametrize("name", EXPORTS.names())
def test_hostile_text_stays_data_and_paths_stay_inside(name: str, hostile: Scored) -> None:
    for path, content in hostile.files(EXPORTS.get(name)).items():
        for kind in (PurePosixPath(path), PureWindowsPath(path)):
            assert not kind.is_absolute()
            assert ".." not in kind.parts
            assert str(kind).isprintable()
        assert len(path) < 400
        text = content.decode("ascii")
        if path.endswith(".yaml"):
            assert yaml.safe_load(text)[0]["dataset"]["id"] == HOSTILE.partition("@")[0]
        elif path.endswith(".json"):
            assert HOSTILE in json.dumps(json.loads(text), ensure_ascii=False).replace("\\n", "\n").replace(
                "\\t", "\t"
            ).replace('\\"', '"').replace("\\\\", "\\")
        else:
            for line in text.splitlines():
                json.loads(line)


@pytest.mark.parametrize("name", EXPORTS.names())
def test_local_paths_are_not_exported(name: str, scored: Scored) -> None:
    scored.run["model"] |= {"name": "/home/somebody/models/tiny", "revision": None}
    scored.run["dataset"] |= {"name": "/home/somebody/data/stories", "revision": None}
    scored.run["command_line"] = ["sparse-tasks", "evaluate", "/home/somebody/data/stories"]
    for path, content in scored.files(EXPORTS.get(name)).items():
        assert "somebody" not in path
        assert b"somebody" not in content
    assert (model_id(scored.settings), dataset_id(scored.settings)) == ("tiny", "stories")


@pytest.mark.parametrize("name", ["every_eval_ever", "lm_eval"])
def test_numbers_that_json_does_not_know_are_refused(name: str, scored: Scored) -> None:
    scored.result["configs"][0]["mean"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        scored.files(EXPORTS.get(name))


def test_dense_and_sparse_never_share_a_name(scored: Scored) -> None:
    place = "story_retrieval", 65536
    assert task_id(scored.settings, *place) == "story_retrieval_64k@quest-0.9"
    scored.run["attention"] = {"method": "vertical_slash+quest", "sparsity": 0.75, "arguments": {}}
    assert task_id(scored.settings, *place) == "story_retrieval_64k@vertical_slash+quest-0.75"
    scored.run["attention"] = {"method": "quest", "sparsity": None, "arguments": {"budget": 512}}
    assert task_id(scored.settings, *place) == "story_retrieval_64k@quest-budget=512"
    scored.run["attention"] = {"method": "dense", "sparsity": 0.0, "arguments": {}}
    assert (task_id(scored.settings, *place), variant(scored.settings)) == ("story_retrieval_64k", "")


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a/b", "a\\b", "-rf", "a b", "caf\u00e9", "x" * 300, "a\n", "CON:", "\ud800"]
)
def test_a_file_name_is_one_plain_part_of_a_path(text: str) -> None:
    name = file_name(text)
    assert name != text
    assert name.isascii()
    assert len(name) < 120
    assert not set(name) & set('/\\:*?"<>|\n ')
    assert not name.startswith((".", "-"))
    assert file_name(name) == name


def test_two_texts_never_share_a_file_name() -> None:
    assert len({file_name(text) for text in ("a/b", "a\\b", "a b", "a_b", "a__b", ".a_b")}) == 6
    assert file_name("story_retrieval_64k@vertical_slash+quest-0.75") == "story_retrieval_64k@vertical_slash+quest-0.75"


@pytest.mark.parametrize(
    ("attention", "named"),
    [
        ({"method": "quest", "sparsity": 0.9, "arguments": {"quest.page": 32}}, "quest-0.9-page=32"),
        ({"method": "quest", "sparsity": None, "arguments": {"tokens": 512}}, "quest-tokens=512"),
        ({"method": "a+quest", "sparsity": 0.5, "arguments": {"quest.page": 32}}, "a+quest-0.5-quest.page=32"),
        ({"method": "quest", "sparsity": None, "arguments": {}}, "quest"),
    ],
)
def test_runs_of_other_budgets_have_other_names(scored: Scored, attention: dict[str, Any], named: str) -> None:
    scored.run["attention"] = attention
    assert variant(scored.settings) == named
    assert task_id(scored.settings, "story_retrieval", 65536) == f"story_retrieval_64k@{named}"
