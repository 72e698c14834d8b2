"""Requests: what users write is checked, all of it, before anything is made; what they mean is what they get."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.length import LONGEST
from sparse_tasks.generators.corpora import Corpus, find_corpora
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.presets import PRESETS, Preset
from sparse_tasks.generators.request import Request, check_workers
from sparse_tasks.generators.task import TASKS, Task, parameters
from sparse_tasks.generators.wording import Template
from tests.generators.requests import make_request

STORY = [task.name for task in TASKS if "story" in task.groups()]
# What needs no corpus; of all tasks, of RULER's, and where none is named.
MADE = [task.name for task in TASKS if "corpus" not in task.texts]
RULER = [name for name in MADE if "ruler" in TASKS.get(name).groups()]
DEFAULTS = [*STORY, "ruler_cwe", "ruler_niah", "ruler_vt"]
STEERED = [name for name in MADE if TASKS.get(name).steerable]
UNSTEERED = [name for name in MADE if not TASKS.get(name).steerable]


def names(request: Request) -> list[str]:
    return [task.name for task in request.tasks]


def only(request: Request) -> Task:
    (task,) = request.tasks
    return task


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field", "value", "remedy"),
    [
        ({"lengths": ["64x"]}, "length", "64x", "is not a length; write tokens as 65536, 64k or 1M"),
        ({"lengths": ["64k", "3M"]}, "length", "3M", "is out of range"),
        ({"lengths": [0]}, "length", 0, "is out of range"),
        ({"lengths": []}, "length", "", "is missing; name at least one, such as 64k"),
        ({"tasks": ["story_multihopp"]}, "task", "story_multihopp", "did you mean 'story_multihop'?"),
        ({"tasks": ["Story_Multihop"]}, "task", "Story_Multihop", "did you mean 'story_multihop'?"),
        ({"tasks": ["stories"]}, "task", "stories", "is unknown"),
        ({"tasks": ["rular"]}, "task", "rular", "did you mean 'ruler'?"),
        ({"tasks": ["story", "xyzzy"]}, "task", "xyzzy", "choose from all, "),
        ({"tasks": [""]}, "task", "", "choose from all, "),
        ({"samples": 0}, "samples", 0, "is out of range; choose from 1 to 1000000"),
        ({"samples": -5}, "samples", -5, "is out of range"),
        ({"samples": 1_000_001}, "samples", 1_000_001, "is out of range"),
        ({"seed": -1}, "seed", -1, "is out of range; choose from 0 to 2**63 - 1"),
        ({"seed": 2**63}, "seed", 2**63, "is out of range"),
        ({"max_new_tokens": 0}, "max-new-tokens", 0, "is out of range; choose from 1 to 1000000"),
        ({"max_new_tokens": 1_000_001}, "max-new-tokens", 1_000_001, "is out of range"),
        ({"question_position": "before"}, "question-position", "before", "choose from after, both"),
        ({"question_position": "aftre"}, "question-position", "aftre", "did you mean 'after'?"),
        ({"preset": "papers"}, "preset", "papers", "did you mean 'paper'?"),
        ({"preset": "xyzzy"}, "preset", "xyzzy", "choose from hard, ladder, paper"),
        ({"depth": "deep"}, "depth", "deep", "is not a depth; write uniform, a number from 0 to 1"),
        ({"depth": "1.5"}, "depth", "1.5", "is not a depth"),
        ({"settings": {"hops": 3}}, "set", "hops=3", "names no task; write TASK.PARAMETER=VALUE"),
        ({"settings": {"": ""}}, "set", "=", "names no task; write TASK.PARAMETER=VALUE"),
        ({"settings": {"story_multihopp.hops": 3}}, "set", "story_multihopp.hops", "did you mean 'story_multihop'?"),
        ({"settings": {"all.locale": "de_DE"}}, "set", "all.locale", "names no task or group: 'all'"),
        ({"settings": {".hops": 3}}, "set", ".hops", "names no task or group: ''"),
        ({"settings": {"story_multihop.hop": 3}}, "set", "story_multihop.hop", "did you mean 'hops'?"),
        ({"settings": {"story_multihop.": 3}}, "set", "story_multihop.", "sets no parameter of story_multihop: ''"),
        ({"settings": {"story_multihop.metric": "x"}}, "set", "story_multihop.metric", "sets no parameter of"),
        ({"settings": {"story_multihop.hops.x": 3}}, "set", "story_multihop.hops.x", "sets no parameter of"),
        ({"settings": {"story.hops": 3}}, "set", "story.hops", "sets no parameter of story: 'hops'"),
        ({"settings": {"story_multihop.hops": "three"}}, "story_multihop.hops", "three", "is not a whole number"),
        ({"settings": {"story_multihop.hops": 1.5}}, "story_multihop.hops", 1.5, "whole number; choose from 1..16"),
        ({"settings": {"story_multihop.hops": 0}}, "story_multihop.hops", 0, "is out of range; choose from 1..16"),
        ({"settings": {"story_multihop.hops": "17"}}, "story_multihop.hops", "17", "is out of range"),
        ({"settings": {"story_multihop.locale": "en_UK"}}, "story_multihop.locale", "en_UK", "did you mean '"),
        ({"settings": {"story_aggregation.kind": "sum"}}, "story_aggregation.kind", "sum", "choose from "),
    ],
)  # fmt: skip
def test_bad_input_names_field_value_and_remedy(
    options: dict[str, Any], field: str, value: object, remedy: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make_request(**({"lengths": ["8k"]} | options))
    assert (caught.value.field, caught.value.value) == (field, value)
    assert remedy in caught.value.remedy


def test_a_parameter_of_a_task_that_is_not_generated_is_refused() -> None:
    # It would be ignored silently, and the user would believe to have set it.
    for path in ("story_multihop.hops", "story.distractors"):
        with pytest.raises(UsageError, match=f"set: {path!r} sets a parameter of .* which is not one of the tasks"):
            make_request(["8k"], ["ruler"], settings={path: 3})


@pytest.mark.parametrize("path", ["story.locale", "story_multihop.locale"])
def test_a_locale_that_faker_does_not_know_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="is unknown; ") as caught:
        make_request(["8k"], settings={path: "xx_XX"})
    assert caught.value.field.endswith(".locale")


@pytest.mark.parametrize("workers", [0, -1, 1025])
def test_a_number_of_workers_out_of_range_is_refused(workers: int) -> None:
    with pytest.raises(UsageError, match=f"workers: {workers} is out of range; choose from 1 to 1024"):
        check_workers(workers)


def test_workers_default_to_the_available_cores() -> None:
    assert check_workers(3) == 3
    assert check_workers(None) >= 1


# --- tasks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], lambda: DEFAULTS),
        (["all"], lambda: MADE),
        (["story"], lambda: STORY),
        (["ruler"], lambda: RULER),
        (["ruler", "story"], lambda: [*STORY, *RULER]),
        (["ruler_vt", "story_multihop"], lambda: ["story_multihop", "ruler_vt"]),
        (["ruler_vt", "ruler"], lambda: RULER),
        (["ruler_vt", "ruler_vt"], lambda: ["ruler_vt"]),
        (["ruler_vt", "story"], lambda: [*STORY, "ruler_vt"]),
    ],
)  # fmt: skip
def test_tasks_come_once_each_in_the_order_of_the_registry(
    chosen: list[str], expected: Callable[[], list[str]]
) -> None:
    assert names(make_request(["8k"], chosen)) == expected()


def test_rulers_group_holds_rulers_thirteen_tasks() -> None:
    grouped = {task.name for task in TASKS if "ruler" in task.groups()}
    assert grouped == set(PRESETS["ruler"].max_new_tokens)
    assert len(grouped) == 13
    assert grouped - set(RULER) == {"ruler_qa_1", "ruler_qa_2"}
    # The paper's form of the multi-query task is asked for by its name.
    assert "ruler_niah" not in grouped


# --- lengths and the rest -----------------------------------------------------------------------------------


def test_lengths_are_sorted_and_each_is_made_once() -> None:
    assert make_request(["64k", 8192, "8k", "1M", 65536, LONGEST]).lengths == (8_192, 65_536, 2**20, LONGEST)


def test_defaults_are_the_papers() -> None:
    request = make_request(["8k"])
    assert request == make_request(
        [8_192], seed=42, tokenizer="qwen2.5", chat_template="auto", preset="paper", question_position="both"
    )
    assert all(task == type(task)() for task in request.tasks)
    assert set(request.depths) == {Depth()}
    assert request.notices == ()


def test_the_extremes_are_allowed() -> None:
    request = make_request([1], samples=1_000_000, seed=2**63 - 1, max_new_tokens=1_000_000)
    assert (request.samples, request.seed, set(request.budgets)) == (1_000_000, 2**63 - 1, {1_000_000})
    assert set(make_request([1], samples=1, seed=0, max_new_tokens=1).budgets) == {1}


def test_the_answer_budget_is_subtracted_only_on_request() -> None:
    task = only(make_request(["8k"], ["ruler_vt"]))
    plain = make_request(["8k"], ["ruler_vt"])
    assert plain.target(task, 8_192) == 8_192
    assert plain.new_tokens(task) == task.max_new_tokens
    inclusive = make_request(["8k"], ["ruler_vt"], length_includes_output=True)
    assert inclusive.target(task, 8_192) == 8_192 - task.max_new_tokens
    both = make_request(["8k"], ["ruler_vt"], length_includes_output=True, max_new_tokens=100)
    assert (both.target(task, 8_192), both.new_tokens(task)) == (8_092, 100)


# --- presets and settings -----------------------------------------------------------------------------------


def test_settings_may_be_texts_or_values() -> None:
    for value in (3, "3"):
        assert (
            only(make_request(["8k"], ["story_multihop"], settings={"story_multihop.hops": value})).settings()["hops"]
            == 3
        )


def test_a_groups_setting_reaches_all_its_tasks_and_no_others() -> None:
    request = make_request(["8k"], settings={"story.locale": "de_DE"})
    others = len(DEFAULTS) - len(STORY)
    assert [task.settings().get("locale") for task in request.tasks] == ["de_DE"] * len(STORY) + [None] * others


def test_a_tasks_setting_wins_over_its_groups_in_any_order() -> None:
    pair = [("story.locale", "de_DE"), ("story_multihop.locale", "fr_FR")]
    for order in (pair, pair[::-1]):
        request = make_request(["8k"], ["story"], settings=dict(order))
        locales = {task.name: task.settings()["locale"] for task in request.tasks}
        assert locales == dict.fromkeys(STORY, "de_DE") | {"story_multihop": "fr_FR"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_what_it_says(preset: str) -> None:
    request = make_request(["8k"], preset=preset)
    by_name = {task.name: task.settings() for task in request.tasks}
    for path, value in PRESETS[preset].settings.items():
        owner, _, parameter = path.partition(".")
        for name, settings in by_name.items():
            if owner in (name, name.partition("_")[0]):
                assert str(settings[parameter]) == value
    # The paper's parameters are the defaults; a harder preset changes every task, an easier one what is too hard.
    if preset in ("paper", "hard"):
        assert all((task == type(task)()) == (preset == "paper") for task in request.tasks)


def test_a_preset_serves_a_choice_of_tasks_too() -> None:
    assert only(make_request(["8k"], ["ruler_vt"], preset="hard")).settings()["chains"] == 16


def test_what_the_user_sets_wins_over_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(["8k"], ["story_multihop"], preset="hard", settings={"story_multihop.hops": 2})
    assert only(request).settings()["hops"] == 2
    assert only(request).settings()["distractors"] == 4
    # Even what is set for a whole group wins over what the preset sets for a task.
    monkeypatch.setitem(
        PRESETS, "other", Preset("another", {"story_multihop.distractors": "7", "story.distractors": "6"})
    )
    group = make_request(["8k"], ["story"], preset="other", settings={"story.distractors": 1})
    assert {task.settings()["distractors"] for task in group.tasks} == {1}
    untouched = make_request(["8k"], ["story"], preset="other")
    assert [task.settings()["distractors"] for task in untouched.tasks] == [6, 6, 7, 6]


def test_every_parameter_can_be_set_by_its_path() -> None:
    for task in map(TASKS.get, MADE):
        for p in parameters(task):
            default = str(p.default)
            request = make_request(["8k"], [task.name], settings={f"{task.name}.{p.name}": default})
            assert only(request) == task()


# --- depth --------------------------------------------------------------------------------------------------


def test_there_are_tasks_of_both_sorts() -> None:
    assert STEERED
    assert UNSTEERED


@pytest.mark.parametrize("name", UNSTEERED)
def test_steering_a_task_whose_evidence_is_everywhere_is_refused(name: str) -> None:
    for chosen in ([name], [name, "all"], [STEERED[0], name]):
        with pytest.raises(
            UsageError, match=re.escape(f"depth: '0.5' cannot steer {name}, whose evidence is everywhere")
        ):
            make_request(["8k"], chosen, depth="0.5")


@pytest.mark.parametrize("chosen", [[], ["all"], ["story", "ruler"]])
def test_in_a_group_such_tasks_are_left_alone_with_a_notice(chosen: list[str]) -> None:
    request = make_request(["8k"], chosen, depth="0.2-0.4")
    for task in request.tasks:
        assert request.depth(task) == (Depth(0.2, 0.4) if task.steerable else Depth())
    # Others say which tasks are left out for want of a corpus.
    assert [notice for notice in request.notices if notice.startswith("--depth")] == [
        f"--depth does not steer {task.name}: its evidence is everywhere"
        for task in request.tasks
        if not task.steerable
    ]


@pytest.mark.parametrize("depth", ["uniform", "0-1"])
def test_a_uniform_depth_steers_nothing(depth: str) -> None:
    for chosen in ([], [name for name in UNSTEERED if name.startswith(("story", "ruler"))]):
        request = make_request(["8k"], chosen, depth=depth)
        assert request.notices == ()
        assert set(request.depths) == {Depth()}


def test_notices_are_no_part_of_what_is_asked_for() -> None:
    request = make_request(["8k"], depth="0.5")
    assert request.notices
    assert "notices" not in str(request.describe())


# --- description --------------------------------------------------------------------------------------------


def test_the_description_has_everything_that_decides_about_the_words() -> None:
    request = make_request(
        ["8k", "64k"], ["ruler_vt", "story_multihop"], 7, seed=5, max_new_tokens=99, settings={"story_multihop.hops": 3}
    )
    described = request.describe()
    assert list(described["tasks"]) == ["story_multihop", "ruler_vt"]
    assert described["tasks"]["story_multihop"] == {
        "version": TASKS.get("story_multihop").version,
        "parameters": only(make_request([1], ["story_multihop"])).settings() | {"hops": 3},
        "depth": "uniform",
        "max_new_tokens": 99,
    }
    rest = {name: value for name, value in described.items() if name != "tasks"}
    assert rest == {
        "lengths": [8_192, 65_536],
        "samples": 7,
        "seed": 5,
        "length_includes_output": False,
        "question_position": "both",
    }


@pytest.mark.parametrize(
    "option",
    [
        {"lengths": [8_193]},
        {"tasks": ["ruler_vt"]},
        {"samples": 99},
        {"seed": 43},
        {"max_new_tokens": 77},
        {"length_includes_output": True},
        {"preset": "hard"},
        {"settings": {"story.distractors": 1}},
        {"depth": "0.5", "tasks": ["story_multihop"]},
        {"question_position": "after"},
    ],
)
def test_another_request_has_another_description(option: dict[str, Any]) -> None:
    assert make_request(**({"lengths": [8_192]} | option)).describe() != make_request([8_192]).describe()


# --- RULER's preset -------------------------------------------------------------------------------------------


def test_rulers_preset_has_its_budgets_reading_of_length_and_order() -> None:
    request = make_request(["8k"], ["ruler"], preset="ruler")
    budgets = {task.name: request.new_tokens(task) for task in request.tasks}
    assert {name: budget for name, budget in budgets.items() if "niah" not in name} == {
        "ruler_cwe": 120,
        "ruler_fwe": 50,
        "ruler_vt": 30,
    }
    assert {budget for name, budget in budgets.items() if "niah" in name} == {128}
    assert {task.name: request.target(task, 8_192) for task in request.tasks} == {
        name: 8_192 - budget for name, budget in budgets.items()
    }
    assert request.completed
    assert request.question_position == "after"
    assert request.describe()["completed"] is True


def test_what_the_user_says_of_positions_and_budgets_wins_over_rulers() -> None:
    request = make_request(["8k"], ["ruler_fwe"], preset="ruler", question_position="both", max_new_tokens=9)
    assert (request.question_position, request.new_tokens(only(request))) == ("both", 9)


def test_another_preset_says_nothing_of_completions() -> None:
    for preset in ("paper", "hard"):
        described = make_request(["8k"], preset=preset).describe()
        assert "completed" not in described
        assert described["question_position"] == "both"


# --- essays and templates -------------------------------------------------------------------------------------


def essays(path: Path) -> Corpus:
    path.write_text("It rained in the morning. Nobody minded.\n\n" * 200)
    return find_corpora({"essays": str(path)})["essays"]


def test_essays_are_part_of_the_key_of_those_that_use_them(tmp_path: Path) -> None:
    corpus = essays(tmp_path / "essays.txt")
    request = make_request(["8k"], ["ruler"], corpora={"essays": corpus})
    users = {task.name for task in request.tasks if task.settings().get("essays")}
    assert users == {
        name for name in RULER if name.startswith("ruler_niah_") and TASKS.get(name)().settings()["haystack"] == "essay"
    }
    assert request.corpora == (corpus,)


def test_essays_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    corpus = essays(tmp_path / "essays.txt")
    for chosen in ([], ["story"], ["ruler_niah_single_1"], ["ruler_niah_multikey_3", "ruler_vt"]):
        with pytest.raises(UsageError, match="is not used by any of the tasks"):
            make_request(["8k"], chosen, corpora={"essays": corpus})
    # A haystack can be made one of essays.
    named = make_request(
        ["8k"],
        ["ruler_niah_single_1"],
        corpora={"essays": corpus},
        settings={"ruler_niah_single_1.haystack": "essay"},
    )
    assert only(named).settings()["essays"] == corpus.sha256


def test_a_template_is_part_of_the_description() -> None:
    template = Template(intro="Look:\n", question="Which hold {value}? {format}")
    request = make_request(["8k"], ["ruler_vt", "ruler_cwe"], templates={"ruler_vt": template})
    described = request.describe()["tasks"]
    assert described["ruler_vt"]["template"] == {"intro": "Look:\n", "question": "Which hold {value}? {format}"}
    assert "template" not in described["ruler_cwe"]


def test_a_template_for_nothing_that_is_made_is_refused() -> None:
    template = Template(intro="Look:\n", question="Which hold {value}? {format}")
    with pytest.raises(UsageError, match="is for none of the tasks to generate"):
        make_request(["8k"], ["ruler_cwe"], templates={"ruler_vt": template})


def test_a_template_that_does_not_say_how_to_answer_is_refused_unless_answers_have_no_tags() -> None:
    templates = {"ruler_vt": Template(intro="Look:\n", question="Which hold {value}?")}
    with pytest.raises(UsageError, match="does not say how to answer"):
        make_request(["8k"], ["ruler_vt"], templates=templates)
    make_request(["8k"], ["ruler_vt"], preset="ruler", templates=templates)
