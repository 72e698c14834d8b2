"""A sentence is matched with few phrasings, and the answer is that of all of them; dates are found anywhere."""

from __future__ import annotations

import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.generators.prose.phrasing import Phrasing, Phrasings
from sparse_tasks.generators.qa.phrases import facts
from sparse_tasks.generators.qa.reader import _SLOTS as QA_SLOTS
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import events
from sparse_tasks.generators.story.reader import reader_of

GRAMMARS = {"story": (events(), reader_of("en").slots), "qa": (facts(), QA_SLOTS)}
FILLED = {
    "price": "4 crowns",
    "a_item": "a red cup",
    "the_item": "the red cup",
    "his_item": "his red cup",
    "job": "a cook",
    **{p + slot: word for p in ("", "p") for slot, word in (("he", "she"), ("him", "her"), ("his", "her"))},
    "himself": "herself",
    "phimself": "herself",
    "hero": "\x01",
    "x": "\ue001",
    "a_job": "a cook",
    "product": "cups",
    "landmark": "bridge",
    "year": "1875",
    "river": "River Ada",
    "His": "Her",
}


@pytest.mark.parametrize("name", GRAMMARS)
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_phrasings_match_as_each_of_them_would(name: str, seed: int) -> None:
    rules, slots = GRAMMARS[name]
    everything = [
        Phrasing(kind, alternative, slots) for kind, rule in rules.items() for alternative in rule.alternatives
    ]
    stream = Stream("sentence", seed)
    sentence = stream.choice(list(rules.values())).expand(stream)
    for slot in {part.partition("}")[0] for part in sentence.split("{")[1:]}:
        sentence = sentence.replace(f"{{{slot}}}", FILLED.get(slot, "Ada May"))
    spaced = f" {sentence}"
    expected = [(one, match.groupdict()) for one in everything if (match := one.match(spaced))]
    assert expected
    found = Phrasings(everything)
    assert [(one, match.groupdict()) for one, match in found.matches(sentence)] == expected
    # Few words of a phrasing are left out of it.
    other = "Nothing of this kind is told here."
    assert found.matches(other) == []
    of_each = found.matches_of_each([other, sentence, other, other, sentence])
    assert {number: [(one, match.groupdict()) for one, match in each] for number, each in of_each.items()} == {
        1: expected,
        4: expected,
    }
    kinds = {expected[0][0].kind, "Nothing"}
    reported = [(one, match.groupdict()) for one, match in found.of(kinds).matches(sentence)]
    assert reported == [(one, groups) for one, groups in expected if one.kind in kinds]


def test_phrasing_without_a_sure_word_is_matched_with_every_sentence() -> None:
    _, slots = GRAMMARS["story"]
    bare = Phrasing("bare", (" {hero}", " slept."), slots)
    assert bare.word == ""
    assert [one for one, _ in Phrasings([bare]).matches("\x01 slept.")] == [bare]
    assert list(Phrasings([bare]).matches_of_each(["Snow fell.", "\x01 slept.", "\x01 slept."])) == [1, 2]


@settings(max_examples=300)
@given(st.text(alphabet=" \n.!?”“aB,", max_size=30))
def test_sentence_ends_at_the_first_mark_that_can_end_one(text: str) -> None:
    """The fast expression reads as the one does that says it plainly."""
    assert reader_of("en").sentence.findall(text) == re.findall(r"[^\n]+?[.!?]”?(?=\s)(?! [a-z])", text)


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("Monday, 3 May 1875 was fair.", [("Monday", date(1875, 5, 3))]),
        ("Friday, 1 May 1875, Sunday, 3 May 1875", [("Friday", date(1875, 5, 1)), ("Sunday", date(1875, 5, 3))]),
        ("A holiday, 3 May 1875", []),
        ("Day, 3 May 1875; day, 3 May 1875", []),
        ("MMonday, 3 May 1875; Xday, 3 May 18755", []),
    ],
)  # fmt: skip
def test_dates_are_found_with_their_weekdays(text: str, dates: list[tuple[str, date]]) -> None:
    assert reader_of("en").dates(text) == dates
