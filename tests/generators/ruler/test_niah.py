"""Needles in a haystack of needles."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from tests.generators.drafts import context_of, draft_of, fill, prompt_of, task_of

NAME = "ruler_niah"
CODE = r"[a-z0-9]{8}(?:-[a-z0-9]{8}){3}"
LINE = re.compile(rf"^The value of key ({CODE}) is ({CODE})\.$", re.M)


def register(text: str) -> dict[str, str]:
    pairs = LINE.findall(text)
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def asked(question: str) -> list[str]:
    return re.findall(rf"^({CODE})$", question, re.M)


def oracle(prompt: str) -> str:
    return task_of(NAME).oracle(prompt)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(0, 200), st.integers(0, 2**32))
def test_values_are_those_of_the_register(queries: int, more: int, seed: int) -> None:
    draft = fill(draft_of(NAME, seed, queries + more, queries=queries), 3)
    values, keys = register(context_of(draft)), asked(draft.question)
    assert len(keys) == len(set(keys)) == queries
    assert draft.answers == [f"{key}: {values[key]}" for key in keys]
    assert draft.answer == "\n".join(draft.answers) == oracle(prompt_of(draft))
    # The fitter also adds needles: as many as offered.
    assert len(values) == queries + more + 3


def test_characters_are_drawn_evenly() -> None:
    characters = Counter(
        "".join(code for pair in LINE.findall(context_of(draft_of(NAME, "even", 2_000))) for code in pair)
    )
    counts = [characters[c] for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    assert sum(counts) == 2_000 * 64
    assert max(counts) < 1.12 * min(counts)


@pytest.mark.parametrize("queries", [1, 4])
def test_the_question_gives_the_number_of_keys(queries: int) -> None:
    question = draft_of(NAME, queries, 20, queries=queries).question
    if queries == 1:
        assert "What is the value of this key?" in question
        assert "one line, with the key" in question
    else:
        assert "What is the value of each of these 4 keys?" in question
        assert "4 lines, one for each key" in question


def test_another_value_gives_another_answer() -> None:
    draft = draft_of(NAME, "value", 60)
    prompt = prompt_of(draft)
    for answer in draft.answers:
        value = answer.split(": ")[1]
        broken = prompt.replace(value, "a" * 8 + value[8:])
        assert oracle(broken) == draft.answer.replace(value, "a" * 8 + value[8:]) != draft.answer
        # Values of other keys may change.
    other = next(pair for pair in LINE.findall(prompt) if pair[0] not in draft.answer)
    assert oracle(prompt.replace(other[1], other[1][::-1])) == draft.answer


def test_a_duplicate_key_is_found() -> None:
    draft = draft_of(NAME, "twice", 60)
    prompt = prompt_of(draft)
    pairs = LINE.findall(prompt)
    for key, _ in [pairs[0], pairs[7], pairs[59]]:
        again = f"The value of key {key} is {pairs[3][1]}.\n"
        with pytest.raises(DataError, match="stands twice"):
            oracle(prompt.replace("\nThe register ends here.", f"\n{again}\nThe register ends here."))


def test_a_key_without_a_value_is_found() -> None:
    draft = draft_of(NAME, "none", 60)
    prompt = prompt_of(draft)
    line = f"The value of key {asked(draft.question)[2]} is"
    with pytest.raises(DataError, match="has no value"):
        oracle(re.sub(re.escape(line) + r" \S+\n", "", prompt))


def test_evidence_is_the_line_of_each_key() -> None:
    draft = fill(draft_of(NAME, "evidence", 40), 5)
    for mark, key, answer in zip(draft.marks(), asked(draft.question), draft.answers, strict=True):
        said = mark.first.text[mark.start : mark.end]
        assert mark.label == key
        assert said == f"The value of key {key} is {answer.partition(': ')[2]}."
