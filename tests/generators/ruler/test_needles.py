"""RULER's eight needle tasks."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.corpora import find_corpora
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS
from tests.generators.drafts import context_of, draft_of, farthest_from_uniform, fill, prompt_of, task_of
from tests.generators.requests import make_request

NAMES = [name for name in TASKS.names() if name.startswith("ruler_niah_")]
ESSAYS = "ruler_niah_multikey_1"
NOISE = "ruler_niah_single_1"
NEEDLES = "ruler_niah_multikey_2"
NEEDLE = re.compile(r"\b(The|A) secret (word|number|UUID) of ([a-z0-9-]+) is ([a-z0-9-]+)\.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single_1", ("noise", "words", "numbers", 1, 1, 0)),
        ("single_2", ("essay", "words", "numbers", 1, 1, 0)),
        ("single_3", ("essay", "words", "uuids", 1, 1, 0)),
        ("multikey_1", ("essay", "words", "numbers", 1, 1, 3)),
        ("multikey_2", ("needles", "words", "numbers", 1, 1, 0)),
        ("multikey_3", ("needles", "uuids", "uuids", 1, 1, 0)),
        ("multivalue", ("essay", "words", "numbers", 1, 4, 0)),
        ("multiquery", ("essay", "words", "numbers", 4, 1, 0)),
    ],
)
def test_defaults_are_rulers(name: str, expected: tuple[object, ...]) -> None:
    s = task_of(f"ruler_niah_{name}").settings()
    assert (s["haystack"], s["key_kind"], s["value_kind"], s["queries"], s["values"], s["distractors"]) == expected


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.sampled_from(["noise", "essay", "needles"]),
    st.sampled_from(["words", "numbers", "uuids"]),
    st.sampled_from(["words", "numbers", "uuids"]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(0, 40),
    st.integers(0, 2**32),
)
def test_answers_are_the_values_that_stand_in_the_text(
    haystack: str, key: str, value: str, queries: int, values: int, distractors: int, more: int, seed: int
) -> None:
    chosen = {"haystack": haystack, "key_kind": key, "value_kind": value}
    numbers = {"queries": queries, "values": values, "distractors": distractors}
    task = task_of(NOISE, **chosen, **numbers)
    draft = fill(draft_of(NOISE, seed, task.smallest() + more, **chosen, **numbers), 2)
    found: dict[str, list[str]] = {}
    for _, _, owner, code in NEEDLE.findall(context_of(draft)):
        found.setdefault(owner, []).append(code)
    assert all(len(codes) == values for codes in found.values()) or haystack == "needles"
    if haystack != "needles":
        assert len(found) == queries + distractors
    asked = re.split(", | and ", draft.fields["keys"])
    assert len(asked) == queries
    assert draft.answers == [code for owner in asked for code in found[owner]]
    assert draft.answer == ", ".join(draft.answers) == task_of(ESSAYS).oracle(prompt_of(draft))
    every = [code for codes in found.values() for code in codes] + list(found)
    assert len(set(every)) == len(every)
    completion = draft.completion
    assert completion is not None
    completed = (completion.intro or "") + "".join(draft.texts()) + completion.question + completion.prefix
    assert task_of(ESSAYS).oracle(completed) == draft.answer


def test_codes_have_the_forms_of_rulers() -> None:
    pairs = NEEDLE.findall(context_of(draft_of(NEEDLES, "forms", 300)))
    assert len(pairs) == 301
    for _, noun, key, value in pairs:
        assert noun == "number"
        assert re.fullmatch(r"[a-z]{3,}-[a-z]{3,}", key)
        assert re.fullmatch(r"[1-9][0-9]{6}", value)
    for _, noun, key, value in NEEDLE.findall(context_of(draft_of("ruler_niah_multikey_3", "forms", 200))):
        assert noun == "UUID"
        assert {UUID(key).version, UUID(value).version} == {4}
        assert {UUID(key).variant, UUID(value).variant} == {UUID(value).variant}


# --- positions of needles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ruler_niah_multiquery", "ruler_niah_multivalue"])
def test_order_of_needles_varies(name: str) -> None:
    # In RULER needles are in the order of the questions.
    rising = 0
    for seed in range(200):
        draft = draft_of(name, f"order {seed}", 20)
        context = context_of(draft)
        places = [context.index(answer) for answer in draft.answers]
        rising += places[0] < places[1]
        if name == "ruler_niah_multivalue":
            # Values of one key are in text order.
            assert places == sorted(places)
    assert rising == 200 if name == "ruler_niah_multivalue" else 70 < rising < 130


def test_distractors_stand_anywhere_too() -> None:
    found = []
    for seed in range(100):
        draft = draft_of(ESSAYS, f"distractors {seed}", 24)
        context = context_of(draft)
        needles = [m for m in NEEDLE.finditer(context) if m[3] != draft.fields["keys"]]
        assert len(needles) == 3
        found += [m.start() / len(context) for m in needles]
    assert farthest_from_uniform(found) < 0.11


def test_needles_stand_between_sentences() -> None:
    for seed in range(40):
        text = context_of(draft_of("ruler_niah_multiquery", f"between {seed}", 20, Depth()))
        for match in NEEDLE.finditer(text):
            before, after = text[: match.start()], text[match.end() :]
            assert before[-1] == "\n" or re.search(r"[.!?;:]$", before.rstrip(" "))
            assert after[0] in " \n"


def test_a_needle_may_be_first_and_last() -> None:
    context = context_of(draft_of("ruler_niah_single_2", "first", 30, Depth(0, 0)))
    assert context.startswith("Below is a text. Somewhere in it a secret number is mentioned.\n\nThe secret number of ")
    context = context_of(draft_of("ruler_niah_single_2", "last", 30, Depth(1, 1)))
    assert NEEDLE.search(context.rstrip().rpartition(". ")[2]) or context.rstrip().endswith(
        draft_of("ruler_niah_single_2", "last", 30, Depth(1, 1)).answer + "."
    )


# --- what the oracle finds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_needle_less_or_more_is_noticed(name: str) -> None:
    draft = draft_of(name, "broken", 12)
    prompt, task = prompt_of(draft), task_of(name)
    needle = next(m[0] for m in NEEDLE.finditer(prompt) if draft.answers[0] in m[0])
    another = needle.replace(draft.answers[0], "1234")
    less, more, twice = (prompt.replace(needle, new) for new in ("", f"{needle} {another}", f"{needle} {needle}"))
    if name == "ruler_niah_multivalue":
        # The number of values of a key is not given, so the answer changes.
        assert task.oracle(less) == draft.answer.replace(f"{draft.answers[0]}, ", "")
        assert set(task.oracle(more).split(", ")) == {*draft.answers, "1234"}
        with pytest.raises(DataError, match="a value occurs twice"):
            task.oracle(twice)
        return
    with pytest.raises(DataError, match="has no value"):
        task.oracle(less)
    for broken in (more, twice):
        with pytest.raises(DataError, match=r"there are several|some keys have|occurs twice"):
            task.oracle(broken)


# --- essays of one's own --------------------------------------------------------------------------------------


def write(path: Path, paragraphs: int) -> Path:
    text = "\n\n".join(
        f"Paragraph {i} begins here. It says nothing, as such paragraphs do. So ends number {i}."
        for i in range(paragraphs)
    )
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("paragraphs", "repeated"), [(4_000, False), (120, True)])
def test_a_file_is_used_in_order_from_a_place_that_is_drawn(
    paragraphs: int, repeated: bool, qwen: PromptTokenizer, tmp_path: Path
) -> None:
    corpora = find_corpora({"essays": str(write(tmp_path / "essays.txt", paragraphs))})
    request = make_request(["8k"], ["ruler_niah_single_2"], corpora=corpora)
    starts = set()
    for index in range(6):
        sample = make_sample(request, qwen, request.tasks[0], 8_192, index)
        order = [int(n) for n in re.findall(r"Paragraph (\d+) begins", sample.context)]
        starts.add(order[0])
        steps = [(b - a) % paragraphs for a, b in pairwise(order)]
        assert max(steps) <= 12  # some paragraphs may be left out
        assert (len(set(order)) < len(order)) == repeated
        assert f'"repeated": {str(repeated).lower()}' in sample.params
        assert corpora["essays"].sha256 in sample.params
    assert len(starts) == 6


def test_a_file_that_is_used_by_no_haystack_changes_nothing(qwen: PromptTokenizer, tmp_path: Path) -> None:
    corpora = find_corpora({"essays": str(write(tmp_path / "essays.txt", 400))})
    chosen = ["ruler_niah_single_1", "ruler_niah_single_2"]
    with_file, without = make_request(["4k"], chosen, corpora=corpora), make_request(["4k"], chosen)
    noise, essays = (
        [make_sample(request, qwen, request.tasks[i], 4_096, 0) for request in (with_file, without)] for i in (0, 1)
    )
    assert noise[0] == noise[1]
    assert essays[0] != essays[1]
