"""List tells all that can be asked for."""

from __future__ import annotations

import pytest

from sparse_tasks.core.tokenizers import BUILT_IN
from sparse_tasks.generators.presets import PRESETS
from sparse_tasks.generators.task import TASKS, parameters
from tests.cli.program import run


def test_json_has_every_task_with_its_parameters() -> None:
    listed = run("list", "--format", "json").json()
    assert [task["name"] for task in listed["tasks"]] == TASKS.names()
    for shown, task in zip(listed["tasks"], TASKS, strict=True):
        assert shown["groups"] == list(task.groups())
        assert (shown["ruler_metric"], shown["placeholders"]) == (task.ruler_metric, dict(task.placeholders))
        assert (shown["dispersion"], shown["scope"]) == (task.dispersion, task.scope)
        assert (shown["metric"], shown["max_new_tokens"]) == (task.metric, task.from_settings({}).budget())
        assert [p["name"] for p in shown["parameters"]] == [p.name for p in parameters(task)]
        assert all(p["range"] and p["help"] and p["default"] is not None for p in shown["parameters"])
    assert {name: preset["settings"] for name, preset in listed["presets"].items()} == {
        name: preset.settings for name, preset in PRESETS.items()
    }
    assert listed["tokenizers"] == BUILT_IN


@pytest.mark.parametrize("columns", ["40", "60", "80", "200"])
def test_names_can_be_copied_whole(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A name that is cut short on a narrow terminal cannot be typed.
    monkeypatch.setenv("COLUMNS", columns)
    finished = run("list")
    assert finished.code == 0
    assert finished.err == ""
    for task in TASKS:
        assert task.name in finished.out
        for p in parameters(task):
            assert f"{task.name}.{p.name}" in finished.out or f"{task.group()}.{p.name}" in finished.out
    for name in [*PRESETS, *BUILT_IN]:
        assert name in finished.out
    for metric in {task.metric for task in TASKS}:
        assert metric in finished.out
    for word in ("dispersion", "scope", "--set", "--preset", "--tokenizer"):
        assert word in finished.out
    assert "…" not in finished.out  # where a word is cut
    assert max(map(len, finished.out.splitlines())) <= int(columns)


def test_shared_parameters_of_a_group_are_listed_once() -> None:
    out = run("list").out
    assert out.count("\nstory.locale") == 1
    assert "story_retrieval.locale" not in out
    assert len(out.splitlines()) < 400
