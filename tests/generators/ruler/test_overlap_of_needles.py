"""Needles that the question names by what everybody knows."""

from __future__ import annotations

import re

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.overlap import shared
from sparse_tasks.generators.ruler.needles import capitals
from sparse_tasks.generators.story.language import language
from tests.generators.drafts import context_of, draft_of, fill, prompt_of, task_of

NAMES = [
    f"ruler_niah_{name}" for name in ("single_1", "single_2", "single_3", "multikey_1", "multivalue", "multiquery")
]
BETWEEN = {"ruler_niah_multiquery": (0.15, 0.35)}  # each key costs words


@pytest.mark.parametrize("level", ["literal", "partial", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_question_and_needle_share_as_much_as_is_said(name: str, level: str) -> None:
    for seed in range(5):
        draft = fill(draft_of(name, seed, 30, overlap=level), 2)
        question = draft.question.split("\n\n")[1]
        needles = [mark.first.text[mark.start : mark.end] for mark in draft.marks()]
        measured = shared(question, needles, language().words)
        low, high = {"literal": (1, 1), "partial": BETWEEN.get(name, (0.4, 0.5)), "none": (0, 0)}[level]
        assert low <= measured <= high
        assert draft.drawn.get("overlap") == (None if level == "literal" else measured)
        assert task_of(name).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("level", ["partial", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_of_the_capitals_of_the_countries(name: str, level: str) -> None:
    draft = draft_of(name, "capitals", 40, overlap=level, distractors=5)
    countries = re.findall(r"the capital of ((?:the )?[A-Z][a-z]+(?: [A-Z][a-z]+)*)", draft.question)
    city = {country: city for city, country in capitals()}
    reported = re.findall(r"secret \w+ of ([A-Z][a-z]+) is (\S+)\.", context_of(draft))
    asked = [city[country] for country in countries]
    assert sorted(value for key, value in reported if key in asked) == sorted(draft.answers)
    assert len({key for key, _ in reported}.difference(asked)) == 5


def test_capitals_are_one_word_each_and_tell_their_country_alone() -> None:
    cities, countries = zip(*capitals(), strict=True)
    assert len(set(cities)) == len(set(countries)) == len(cities) > 80
    assert all(re.fullmatch(r"[A-Z][a-z]+", city) for city in cities)
    assert not set(cities) & {word for country in countries for word in country.split()}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"haystack": "needles"}, "needs keys that are words, in noise or essays"),
        ({"key_kind": "numbers"}, "needs keys that are words, in noise or essays"),
        ({"queries": 16, "values": 2, "distractors": 64}, None),
    ],
)
def test_where_a_capital_would_stand_out_it_is_refused(settings: dict[str, object], why: str | None) -> None:
    settings = settings | {"overlap": "none"}
    if why is None:
        assert task_of("ruler_niah_single_2", **settings).settings()["overlap"] == "none"
        return
    with pytest.raises(UsageError, match=rf"ruler_niah_single_2\.overlap.*none.*{why}; take literal"):
        task_of("ruler_niah_single_2", **settings)


@pytest.mark.parametrize("name", ["ruler_niah_multikey_2", "ruler_niah_multikey_3"])
def test_needles_among_needles_are_literal(name: str) -> None:
    with pytest.raises(UsageError, match="overlap"):
        task_of(name, overlap="none")


def test_what_was_recorded_before_stays() -> None:
    assert "overlap" not in task_of("ruler_niah_single_1").settings()
    assert task_of("ruler_niah_single_1", overlap="none").settings()["overlap"] == "none"
