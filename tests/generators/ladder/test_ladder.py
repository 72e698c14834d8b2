"""Ladders: four levels of one question, whose golds follow from the story."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.scoring import gold_score
from sparse_tasks.generators.sampling import check_count, make_sample
from sparse_tasks.generators.story.language import language, languages
from tests.generators.drafts import context_of, draft_of, fill, task_of
from tests.generators.requests import make_request

NAMES = [f"ladder_{name}" for name in ("aggregation", "filtering", "multihop", "multivalue", "retrieval")]
LANGUAGES = languages()
LEVELS = ["all", "given", "retrieve", "compute"]


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(2, 8), st.integers(2, 5), st.integers(0, 20), st.integers(0, 2**32))
def test_every_level_has_its_gold_by_the_oracle(
    name: str, code: str, events: int, gifts: int, more: int, seed: int
) -> None:
    task = task_of(name)  # it knows nothing of the sample
    size = task_of(name, events=events, gifts=gifts).smallest() + more
    draft = fill(draft_of(name, seed, size, events=events, gifts=gifts, language=code), 1)
    assert [turn.level for turn in draft.turns] == LEVELS
    assert [turn.history for turn in draft.turns] == [0, 0, 0, 1]
    whole, given_, parts, compute = draft.turns
    assert whole.answer == given_.answer == compute.answer == draft.answer
    assert parts.answer != whole.answer
    assert "{" not in "".join(turn.question for turn in draft.turns)
    for turn in draft.turns:
        assert task.verify(context_of(draft) + turn.question, turn.answer, turn.answers) is None
        assert gold_score(turn.metric, turn.answer, turn.answers) == 1.0
    assert task.audit(context_of(draft) + draft.question) == []


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_are_the_sentences_of_the_evidence(name: str, code: str) -> None:
    heading = re.compile(rf"^({language(code).pattern('chapter')})[:：]\s*(.+)$", re.M)
    for seed in range(5):
        draft = draft_of(name, seed, 14, language=code)
        whole, given_, *_ = draft.turns
        lines = heading.findall(given_.question)
        marks = whole.marks()
        assert [line[-1] for line in lines] == [mark.first.text[mark.start : mark.end] for mark in marks]
        assert given_.question.endswith(whole.question.partition("\n\n")[2])
        assert {line[0] for line in lines} <= {passage.text.strip() for passage in draft.body}


def test_golds_are_what_the_parts_say() -> None:
    """Computed here from the gold of the parts alone."""
    for seed in range(20):
        golds = {name: [turn.answer for turn in draft_of(name, seed, 16).turns] for name in NAMES}
        whole, _, parts, _ = golds["ladder_retrieval"]
        assert int(whole) == sum(int(line.partition(": ")[2]) for line in parts.splitlines())
        whole, _, parts, _ = golds["ladder_aggregation"]
        assert int(whole) == sum(int(line.partition(": ")[2]) for line in parts.splitlines())
        whole, _, parts, _ = golds["ladder_multivalue"]
        assert whole == sorted(parts.splitlines())[0]
        whole, _, parts, _ = golds["ladder_multihop"]
        assert (whole, len(parts.splitlines())) == (parts.splitlines()[0], 3)
        whole, _, parts, _ = golds["ladder_filtering"]
        assert whole.split(", ") == [line.partition(": ")[0] for line in parts.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_a_question_of_no_level_is_noticed(name: str) -> None:
    draft = draft_of(name, 0, 14)
    with pytest.raises(DataError, match="no known level"):
        task_of(name).oracle(context_of(draft) + "The story ends here.\n\nWhy?")


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_counted_and_checked(name: str, qwen: PromptTokenizer) -> None:
    request = make_request([4_500], [name], preset="ladder")
    sample = make_sample(request, qwen, request.tasks[0], 4_500, 0)
    check_count(request, qwen, sample)
    assert [turn.level for turn in sample.turns] == LEVELS
    whole, _, parts, compute = sample.turns
    assert compute.input_tokens > parts.input_tokens > 0
    assert whole.input_tokens == sample.input_tokens


def test_the_preset_makes_ladders_unless_tasks_are_named() -> None:
    request = make_request([4_500], preset="ladder")
    assert [task.name for task in request.tasks] == NAMES
    assert request.question_position == "after"
    assert [task.name for task in make_request([4_500], ["ladder_multihop"], preset="ladder").tasks] == [
        "ladder_multihop"
    ]
    assert not any(task.name in NAMES for task in make_request([4_500]).tasks)
