"""Questions on stories that share no word with what answers them."""

from __future__ import annotations

import re
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.overlap import content, shared
from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.prose.roman import from_roman, roman
from sparse_tasks.generators.story.language import language, languages
from tests.generators.drafts import draft_of, fill, prompt_of, task_of

NAMES = ("story_retrieval", "story_multihop")
LANGUAGES = languages("apart_place", "apart_multihop")
TELLING = {
    "apart_place": ("Arrival",),
    "apart_person": ("Meeting", "Reunion"),
    "apart_thing": ("Purchase", "GiftReceived"),
    "apart_multihop": ("Purchase", "GiftReceived"),
}


def words_of(rule: Rule) -> str:
    """All words that a grammar has."""
    parts = [part if isinstance(part, str) else words_of(part) for way in rule.alternatives for part in way]
    return " ".join(parts)


def test_every_language_asks_in_other_words() -> None:
    assert set(LANGUAGES) == set(languages())


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("key", TELLING)
def test_no_sentence_that_answers_has_a_word_of_the_question(key: str, code: str) -> None:
    tongue = language(code)
    form = tongue.say[key]
    for text in [form] if isinstance(form, str) else form.values():
        asked = content(text.replace("{section}", "XIV").replace("{count}", "3"), tongue.words)
        assert len(asked) >= 4
        assert not asked & content(tongue.sentence("chapter", n=14), tongue.words)
        for kind in TELLING[key]:
            reported = re.sub(r"\{\w+\}", " ", words_of(tongue.events[kind]))
            assert not asked & content(reported, tongue.words), kind


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_that_of_the_literal_question(name: str, code: str) -> None:
    for seed in range(6):
        draft = fill(draft_of(name, seed, 14, overlap="none", language=code), 1)
        prompt = prompt_of(draft)
        assert task_of(name).oracle(prompt) == draft.answer
        # Names and things are drawn, and may be those of the question's words: hardly ever.
        assert draft.drawn["overlap"] < 0.02
        literal = draft_of(name, seed, 14, language=code)
        assert "overlap" not in literal.drawn
        assert literal.answer == draft.answer
        if name == "story_multihop":
            evidence = [mark.first.text[mark.start : mark.end] for mark in literal.marks()]
            assert shared(literal.question.split("\n\n")[1], evidence, language(code).words) > 0.15


@pytest.mark.parametrize("code", LANGUAGES)
def test_several_hops_are_counted_back_from_the_chapter(code: str) -> None:
    values = []
    for seed in range(6):
        draft = draft_of("story_multihop", seed, 20, overlap="none", hops=3, language=code)
        assert task_of("story_multihop").oracle(prompt_of(draft)) == draft.answer
        assert len(draft.marks()) == 1 + 4  # the heading, and an acquisition a hop
        values.append(draft.drawn["overlap"])
    assert fmean(values) < 0.05


@pytest.mark.parametrize(
    ("section", "what"), [("I", "nothing is acquired"), ("IIX", "go together"), ("MM", "go together")]
)
def test_a_question_about_no_chapter_is_noticed(section: str, what: str) -> None:
    draft = draft_of("story_multihop", "changed", 8, overlap="none")
    asked = draft.question.split("of section ")[1].split(" ")[0]
    with pytest.raises(DataError, match=what):
        task_of("story_multihop").oracle(prompt_of(draft).replace(f"of section {asked} ", f"of section {section} "))


@given(st.integers(1, 9_999))
def test_roman_numbers_are_read_back(number: int) -> None:
    assert from_roman(roman(number)) == number


@pytest.mark.parametrize("letters", ["", "IIII", "IIX", "VX", "14", "ivy", "IM"])
def test_other_letters_are_no_number(letters: str) -> None:
    with pytest.raises(ValueError, match="no Roman number"):
        from_roman(letters)
