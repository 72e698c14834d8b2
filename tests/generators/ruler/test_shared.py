"""What RULER's tasks share: frames of prompts, places of the evidence, offers of more text."""

from __future__ import annotations

from collections import Counter

import pytest

from sparse_tasks.core.errors import DataError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.depth import Depth, parse_depth
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.task import TASKS
from tests.generators.drafts import context_of, depths, draft_of, farthest_from_uniform, fill, prompt_of, task_of
from tests.generators.requests import make_request

LINES = ("ruler_niah", "ruler_vt", "ruler_cwe")
NEEDLES = [name for name in TASKS.names() if name.startswith("ruler_niah_")]
ALL = [*LINES, "ruler_fwe", *NEEDLES]
HAYSTACKS = ("ruler_niah", "ruler_niah_single_1", "ruler_niah_multikey_1", "ruler_niah_multikey_2")


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("size", ["smallest", 40, 400])
def test_passages_are_lines(name: str, size: int | str) -> None:
    draft = draft_of(name, "lines", task_of(name).smallest() if size == "smallest" else int(size))
    assert draft.intro.endswith("\n\n")
    assert all(text == text.strip() + "\n" for text in draft.texts())
    assert "\n\n" not in context_of(draft).removeprefix(draft.intro)
    assert task_of(name).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("name", ALL)
def test_question_before_and_after_says_the_same(name: str) -> None:
    draft = draft_of(name, "frame", 40)
    assert draft.question.endswith(draft.preview.partition("\n\n")[2].strip())
    assert draft.preview.startswith("You will read a ")
    assert draft.preview.endswith("\n\n")


@pytest.mark.parametrize("name", ALL)
def test_an_unreadable_prompt_is_refused(name: str) -> None:
    draft = draft_of(name, "cut", 20)
    end = draft.question.partition("\n")[0]
    for question in ("", f"{end}\n\nWell?", draft.question.replace(end, "?")):
        with pytest.raises(DataError):
            task_of(name).oracle(prompt_of(draft).replace(draft.question, question))


@pytest.mark.parametrize("name", ["ruler_niah", "ruler_vt", *NEEDLES])
def test_gold_may_be_anywhere(name: str) -> None:
    # RULER's and its ports' is at one of forty depths, or always at the same place.
    places = []
    for seed in range(150):
        where = depths(fill(draft_of(name, f"position {seed}", 24), 3))
        places.append(where[seed % len(where)])
    assert len(set(places)) > 60
    assert farthest_from_uniform(places) < 0.16


@pytest.mark.nightly
@pytest.mark.parametrize("name", LINES)
def test_gold_may_be_anywhere_at_exact_length(name: str, qwen: PromptTokenizer) -> None:
    # What the fitter adds must not push the evidence to one side.
    request = make_request([4_096], [name])
    samples = [make_sample(request, qwen, request.tasks[0], 4_096, index) for index in range(24)]
    places = [span.depth for sample in samples for span in sample.evidence]
    assert 0.43 < sum(places) / len(places) < 0.57
    assert min(places) < 0.08
    assert max(places) > 0.92


@pytest.mark.parametrize("depth", ["0", "0.5", "1", "0.2-0.4"])
@pytest.mark.parametrize("name", HAYSTACKS)
def test_a_depth_is_respected_and_survives_filling(name: str, depth: str) -> None:
    span = parse_depth(depth)
    for seed in range(10):
        draft = draft_of(name, seed, 400, span)
        for _ in range(30):
            if (offer := draft.offers[0]()) is not None:
                offer.accept()
        assert all(span.low - 0.03 <= place <= span.high + 0.03 for place in depths(draft))


@pytest.mark.parametrize("name", ["ruler_niah", "ruler_niah_multiquery"])
def test_order_of_the_keys_says_nothing_about_their_places(name: str) -> None:
    # In RULER needles are in the order of the questions.
    drafts = [draft_of(name, f"order {seed}", 100) for seed in range(200)]
    places = [[context_of(draft).index(answer.rpartition(": ")[2]) for answer in draft.answers] for draft in drafts]
    assert 70 < sum(first < second for first, second, *_ in places) < 130


@pytest.mark.parametrize("name", ALL)
def test_offers_have_their_stated_cost(name: str) -> None:
    # Texts that come and go, as the fitter hears of them, are those that come and go.
    draft = draft_of(name, "offers", 60)
    for k in range(60):
        if (offer := draft.offers[k % len(draft.offers)]()) is None:
            continue
        before = Counter(draft.texts())
        offer.accept()
        after = Counter(draft.texts())
        assert after - before == Counter(offer.added) - Counter(offer.removed)
        assert before - after == Counter(offer.removed) - Counter(offer.added)
        assert task_of(name).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("name", ["ruler_cwe", "ruler_fwe"])
def test_evidence_is_every_place_of_every_answer(name: str) -> None:
    draft = fill(draft_of(name, "evidence", 60), 6)
    words = Counter(context_of(draft).split())
    marks = draft.marks()
    assert Counter(mark.label for mark in marks) == {word: words[word] for word in draft.answers}
    assert all(mark.first.text[mark.start : mark.end] == mark.label for mark in marks)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("ruler_niah", 40_000, {"queries": 16}),
        ("ruler_cwe", 100_000, {}),
        ("ruler_vt", 170_000, {"chains": 64, "hops": 32}),
    ],
)
def test_two_million_tokens_have_one_answer(name: str, size: int, settings: dict[str, int]) -> None:
    draft = draft_of(name, "long", size, Depth(), **settings)
    assert task_of(name).oracle(prompt_of(draft)) == draft.answer
    assert len(prompt_of(draft)) > 3_000_000
