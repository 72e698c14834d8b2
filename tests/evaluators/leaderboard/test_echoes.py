"""Echoes are answers that a model cannot have read: gold of other samples, and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.evaluators.leaderboard.echoes import Echoes, too_many
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.words import Places, Things

ENTRIES = 8


@dataclass(frozen=True)
class Row:
    id: str
    answers: list[str]
    prompt: str = "Nothing of this is told here."


def echoes(rows: Iterable[Row]) -> Echoes:
    return Echoes((row.id, row.answers) for row in rows)


def stories(seed: str, samples: int = 120) -> list[Row]:
    """Samples that ask for things and places out of many, as a story does."""
    rows = []
    for number in range(samples):
        stream = Stream(seed, number)
        things, places = Things(stream.fork("things")), Places(stream.fork("places"))
        reported = [things.thing().name for _ in range(60)] + [places.place() for _ in range(40)]
        asked = stream.sample(reported, ENTRIES)
        prompt = " ".join(f"On that day they came upon the {one}, and nobody wondered." for one in reported)
        rows.append(Row(f"story-{seed}-{number}", asked, prompt))
    return rows


def needles(samples: int = 120) -> list[Row]:
    """Samples that ask for a number, one of many."""
    draw = random.Random(3)
    rows = []
    for number in range(samples):
        numbers = [str(draw.randrange(10**6, 10**7)) for _ in range(50)]
        rows.append(Row(f"needle-{number}", numbers[:1], " ".join(f"One of them is {one}." for one in numbers)))
    return rows


@pytest.fixture(scope="module")
def reported() -> list[Row]:
    return stories("told")


@pytest.fixture(scope="module")
def golds(reported: list[Row]) -> Echoes:
    return echoes([*reported, *needles()])


def answered(entries: list[str]) -> str:
    return "<answer>" + "\n".join(entries) + "</answer>"


def test_an_answer_of_another_sample_is_an_echo(reported: list[Row], golds: Echoes) -> None:
    for one, other in zip(reported, [*reported[1:], reported[0]], strict=True):
        found = golds.look(one, answered(other.answers))
        assert found
        assert set(found) <= set(other.answers)


def test_the_key_to_all_answers_is_an_echo_everywhere(reported: list[Row], golds: Echoes) -> None:
    key = "\n".join(answer for one in reported for answer in one.answers)
    for one in [*reported[::10], *needles()[::10]]:
        assert 1 <= len(golds.look(one, key)) <= 5


def test_right_answers_and_prompts_are_not_echoes(reported: list[Row], golds: Echoes) -> None:
    for one in [*reported, *needles()]:
        assert golds.look(one, answered(one.answers)) == []
        assert golds.look(one, one.prompt) == []


def test_inventions_rarely_echo(reported: list[Row], golds: Echoes) -> None:
    """Eight things and places per answer, from the same lexicon but other stories."""
    others = stories("invented")
    echoing = sum(bool(golds.look(one, answered(other.answers))) for one, other in zip(reported, others, strict=True))
    assert not too_many(echoing, len(reported))


@pytest.mark.parametrize("gold", ["Anna", "46", "12345", "1813", "river", "the", "an elegant", "1,234"])
def test_golds_with_few_bits_are_not_echoes(gold: str) -> None:
    rows = [Row("a", [gold]), *(Row(f"b{n}", [f"a{n} b{n}"]) for n in range(3))]
    assert echoes(rows).look(rows[1], f"It was {gold}.") == []


NUMBER = "7187765"


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("f47ac10b-58cc-4372-a567-0e02b2c3d479", "F47AC10B-58CC-4372-A567-0E02B2C3D479"),
        ("WQSFP", "the variables are wqsfp and others"),
        ("pwwnvq", "pwwnvq."),
        (NUMBER, "It is 7,187,765!"),
        (NUMBER, "\uff17\uff11\uff18\uff17\uff17\uff16\uff15"),
        (NUMBER, "so " * 300_000 + NUMBER),  # at the end of a long output
        ("abcdefgh-12345678: zyxwvuts-87654321", "zyxwvuts-87654321"),
    ],
)
def test_a_code_is_an_echo_however_it_is_written(gold: str, text: str) -> None:
    rows = [Row("a", [gold]), Row("b", ["4242"])]
    assert echoes(rows).look(rows[1], text) == [gold]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row("b", ["4242"]), f"1{NUMBER} {NUMBER}0"),  # not the whole word
        (Row("b", [f"{NUMBER} and 6925772"]), NUMBER),  # part of its own gold
        (Row("b", ["4242"], "They counted 7,187,765 sheep."), NUMBER),  # in its own prompt, written otherwise
    ],
)
def test_other_numbers_and_the_samples_own_are_not_echoes(row: Row, text: str) -> None:
    assert echoes([Row("a", [NUMBER]), row]).look(row, text) == []


def test_gold_of_many_samples_is_common() -> None:
    rows = [*(Row(f"a{n}", ["7187765"]) for n in range(4)), Row("b", ["4242"])]
    assert echoes(rows).look(rows[-1], "7187765") == []
    assert echoes(rows[1:]).look(rows[-1], "7187765") == ["7187765"]


def test_samples_of_another_data_set_can_echo() -> None:
    assert echoes([Row("a", ["7187765"])]).look(Row("stranger", []), "7187765") == ["7187765"]


@given(text=st.text(max_size=300), answers=st.lists(st.text(max_size=60), max_size=4))
def test_any_text_and_gold_are_accepted(text: str, answers: list[str]) -> None:
    rows = [Row("a", answers), Row("b", [text or "x"], prompt=text)]
    golds = echoes(rows)
    for one in rows:
        found = golds.look(one, text)
        assert len(found) <= 5
        assert set(found) <= {answer for other in rows if other is not one for answer in other.answers}
    assert golds.look(rows[1], text) == []  # its own prompt tells it


@pytest.mark.parametrize(
    ("echoing", "samples", "expected"), [(0, 0, False), (2, 2, False), (3, 9, True), (3, 300, False), (4, 399, True)]
)
def test_two_echoes_are_tolerated_and_one_in_a_hundred(echoing: int, samples: int, expected: bool) -> None:
    assert too_many(echoing, samples) == expected


def test_real_tasks_echo_only_if_answers_are_swapped(rows: list[dict[str, Any]], gold: dict[str, str]) -> None:
    samples = [Row(row["id"], row["answers"], row["prompt"]) for row in rows]
    golds = echoes(samples)
    for one, other in zip(samples, [*samples[1:], samples[0]], strict=True):
        assert golds.look(one, gold[one.id]) == []
        assert golds.look(one, re.sub(r"\s+", " ", one.prompt)) == []
        assert golds.look(one, gold[other.id])


def test_words_of_the_prompt_in_any_order_are_not_echoes(reported: list[Row], golds: Echoes) -> None:
    draw = random.Random(5)
    for one in reported:
        words = one.prompt.split()
        assert golds.look(one, " ".join(draw.sample(words, 300))) == []
