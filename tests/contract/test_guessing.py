"""No answer can be guessed: without reading the context, scores are almost zero.

Drafts do for this, of the smallest size that a task allows, where there is least to choose from. Tasks on texts of
others are left out: what these ask, and how many choices they offer, is not ours.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from sparse_tasks.generators.task import TASKS, Draft, parameters
from tests.generators.drafts import ALL_LOCALES, draft_of, task_of

pytestmark = pytest.mark.slow  # without coverage tracing: the code has its own tests

SAMPLES = 200
MOST = 0.05
OURS = [name for name in TASKS.names() if not TASKS.get(name).texts.get("corpus")]
NIGHTLY = pytest.mark.nightly
KINDS = [
    pytest.param(name, {p.name: choice}, id=f"{name} {p.name}={choice}", marks=NIGHTLY if p.name == "language" else ())
    for name in OURS
    for p in parameters(TASKS.get(name))
    if p.choices and p.name != "locale"
    for choice in p.choices()
    if choice != p.default  # which test_no_task_can_be_guessed has
]
WITH_NAMES = [name for name in OURS if any(p.name == "locale" for p in parameters(TASKS.get(name)))]
LOCALES = [locale for locale in ALL_LOCALES if locale != "en_US"]  # the default

Asked = tuple[str, tuple[str, ...]]
"""A question and the entries of its answer."""


def asked(draft: Draft) -> Asked:
    return draft.question, tuple(sorted(draft.answers))


def drafts(name: str, samples: int = SAMPLES, **settings: object) -> list[Draft]:
    size = task_of(name, **settings).smallest()
    return [draft_of(name, f"guess {i}", size, **settings) for i in range(samples)]


def guessed(samples: Sequence[Asked]) -> dict[str, float]:
    """Shares of the samples that three ways to guess get right: all of an answer, nothing for a part."""
    bits: dict[str, int] = {}  # by word: a question is the set of its words, as one number
    questions = [
        sum(1 << bits.setdefault(word, len(bits)) for word in set(_WORD.findall(question))) for question, _ in samples
    ]
    answers = [answer for _, answer in samples]
    alike = [
        max((j for j in range(len(samples)) if j != i), key=lambda j: (own & questions[j]).bit_count())
        for i, own in enumerate(questions)
    ]
    right = {
        "the most frequent answer": Counter(answers).most_common(1)[0][1],
        "the answer to the question most alike": sum(
            answers[j] == answer for j, answer in zip(alike, answers, strict=True)
        ),
        "what the question names": sum(
            all(_names(question, entry) for entry in answer) for question, answer in samples
        ),
    }
    return {guess: hits / len(samples) for guess, hits in right.items()}


# Chinese letters are words of their own.
_WORD = re.compile(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+")


def _names(question: str, entry: str) -> bool:
    """Whether a question says an entry, in a word of its own where there are blanks between words."""
    edge = "" if "\u4e00" <= entry[0] <= "\u9fff" else r"\b"
    return bool(re.search(rf"{edge}{re.escape(entry)}{edge}", question))


@pytest.mark.parametrize("name", OURS)
def test_no_task_can_be_guessed(name: str) -> None:
    shares = guessed([asked(draft) for draft in drafts(name)])
    assert max(shares.values()) < MOST, shares


@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_no_kind_of_question_can_be_guessed(name: str, settings: dict[str, object]) -> None:
    shares = guessed([asked(draft) for draft in drafts(name, **settings)])
    assert max(shares.values()) < MOST, shares


@pytest.mark.nightly
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("name", WITH_NAMES)
def test_no_locale_can_be_guessed(name: str, locale: str) -> None:
    shares = guessed([asked(draft) for draft in drafts(name, locale=locale)])
    assert max(shares.values()) < MOST, shares


@pytest.mark.nightly
@pytest.mark.parametrize("locale", LOCALES)
def test_the_person_met_most_cannot_be_guessed(locale: str) -> None:
    shares = guessed([asked(draft) for draft in drafts("story_aggregation", locale=locale, kind="met")])
    assert max(shares.values()) < MOST, shares


@pytest.mark.parametrize("chapters", [1, 2])
def test_few_chapters_cannot_be_guessed(chapters: int) -> None:
    shares = guessed([asked(draft) for draft in drafts("story_filtering", chapters=chapters)])
    assert max(shares.values()) < MOST, shares


@pytest.mark.nightly
def test_no_relation_of_the_articles_can_be_guessed() -> None:
    by_relation = defaultdict[str, list[Asked]](list)
    for draft in drafts("qa_biographies", 20 * SAMPLES):
        by_relation[draft.drawn["relations"][-1]].append(asked(draft))
    assert len(by_relation) == 16
    for relation, samples in by_relation.items():
        shares = guessed(samples[:SAMPLES])
        assert max(shares.values()) < MOST, (relation, len(samples), shares)


@pytest.mark.parametrize(
    ("samples", "guess", "share"),
    [
        ([("How many?", (str(i % 6),)) for i in range(60)], "the most frequent answer", 1 / 6),
        (
            [(f"What did firm {i} {'Hatters' if i % 2 else 'Weavers'} make?", (str(i % 2),)) for i in range(60)],
            "the answer to the question most alike",
            1.0,
        ),
        ([(f"Was it {i} or {-i}?", (str(i),)) for i in range(60)], "what the question names", 1.0),
        ([(f"Which of {i}?", (f"1{i}", "of")) for i in range(60)], "what the question names", 0.0),
    ],
)
def test_a_guess_is_noticed(samples: list[Asked], guess: str, share: float) -> None:
    assert guessed(samples)[guess] == pytest.approx(share)
