"""Story aggregation: sums, extremes and final states."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.generators.story.reader import read
from sparse_tasks.generators.story.words import materials
from tests.generators.drafts import KINDS, draft_of, prompt_of, task_of

NAME = "story_aggregation"
MIXED = {"spent", "costly", "dearest", "kept", "met"}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.sampled_from(KINDS), st.integers(2, 64), st.integers(0, 50), st.integers(0, 8), st.integers(0, 2**32))
def test_the_oracle_finds_the_answer_at_any_size(
    kind: str, events: int, more: int, distractors: int, seed: int
) -> None:
    draft = draft_of(NAME, seed, events + 1 + more, kind=kind, events=events, distractors=distractors)
    assert task_of(NAME).oracle(prompt_of(draft)) == draft.answer
    assert draft.answer
    assert draft.marks()
    assert draft.drawn["kind"] == kind
    json.dumps(draft.drawn)


def test_mixed_asks_every_kind_except_the_purse_equally() -> None:
    kinds = Counter(draft_of(NAME, seed, 10).drawn["kind"] for seed in range(250))
    assert set(kinds) == MIXED
    assert min(kinds.values()) > 25


def test_mixed_asks_of_many_materials() -> None:
    found = Counter()
    for seed in range(200):
        asked = re.findall(r"things made of (\S+?)[ ?]", draft_of(NAME, seed, 10).question)
        found.update(set(asked))
    assert len(found) > 45
    assert set(found) <= set(materials())


@pytest.mark.parametrize("kind", ["spent", "costly"])
def test_the_material_is_named_as_often_where_it_does_not_count(kind: str) -> None:
    # A search for the word finds twice what is asked for.
    for seed in range(20):
        draft = draft_of(NAME, seed, 40, kind=kind, events=8)
        made = re.findall(r"made of (\S+?)[ ?]", draft.question)[0]
        facts = [fact for _, fact in read(prompt_of(draft)).facts(*("Purchase", *MISLEADING))]
        counting = [f for f in facts if f.kind == "Purchase" and made in f.thing.split()]
        misleading = [f for f in facts if f.kind != "Purchase" and made in f.thing.split()]
        assert len(counting) == 8
        assert len(misleading) == 8
        assert len([f for f in facts if f.kind == "Purchase"]) > 8
        if kind == "spent":
            assert int(draft.answer) == sum(f.amount for f in counting)


MISLEADING = ("Seen", "Asked", "Hearsay", "GiftReceived")


def test_misleading_events_are_of_several_sorts() -> None:
    kinds = Counter()
    for seed in range(20):
        draft = draft_of(NAME, seed, 40, kind="spent", events=8, distractors=0)
        made = re.findall(r"made of (\S+?)[ ?]", draft.question)[0]
        kinds.update(f.kind for _, f in read(prompt_of(draft)).facts(*MISLEADING) if made in f.thing.split())
    assert set(kinds) == set(MISLEADING)


def test_sums_are_the_same_size_at_every_length() -> None:
    # The arithmetic must not get harder with the length, so that lengths can be compared.
    means = []
    for size in (20, 60, 180):
        sums = [int(draft_of(NAME, seed, size, kind="spent").answer) for seed in range(20)]
        means.append(sum(sums) / len(sums))
    assert max(means) < 2 * min(means)


def test_any_number_of_purchases_costs_more_than_the_bound() -> None:
    counted = Counter[int]()
    for seed in range(150):
        draft = draft_of(NAME, seed, 12, kind="costly")
        bound = int(re.findall(r"more than (\d+) crowns? each", draft.question)[0])
        amounts = [int(mark.label) for mark in draft.marks()]
        # A price that is the bound itself is not more than it, and no price is in doubt.
        assert bound + 1 >= min(amounts)
        assert int(draft.answer) == sum(amount for amount in amounts if amount > bound)
        counted[sum(amount > bound for amount in amounts)] += 1
    assert set(counted) == {1, 2, 3, 4, 5, 6}
    assert max(counted.values()) / 150 < 0.4


def test_the_dearest_purchase_is_one_although_higher_prices_are_named() -> None:
    higher = 0
    for seed in range(40):
        draft = draft_of(NAME, seed, 30, kind="dearest")
        story = read(prompt_of(draft))
        paid = sorted(fact.amount for _, fact in story.facts("Purchase"))
        assert paid[-1] > paid[-2]
        named = [fact.amount for _, fact in story.facts("Asked", "Hearsay", "Refused", "Sale")]
        higher += max(named) > paid[-1]
    assert higher / 40 > 0.6


def test_the_dearest_purchase_is_not_told_by_its_material() -> None:
    found = Counter()
    for seed in range(80):
        found.update(set(draft_of(NAME, seed, 12, kind="dearest").answer.split()) & set(materials()))
    # Gold is dear; if gold were always dearest, there would be no need to read the prices.
    assert max(found.values()) / 80 < 0.2


def test_kept_is_never_empty_and_never_everything() -> None:
    sizes = Counter()
    for seed in range(80):
        draft = draft_of(NAME, seed, 16, kind="kept")
        made = re.findall(r"made of (\S+?)[ ?]", draft.question)[0]
        facts = [f for _, f in read(prompt_of(draft)).facts("Purchase", "GiftReceived") if made in f.thing.split()]
        assert len(facts) == 6
        assert 1 <= len(draft.answers) <= 5
        assert set(draft.answers) < {fact.thing for fact in facts}
        sizes[len(draft.answers)] += 1
        assert draft.metric == "set_iou"
    assert set(sizes) == {1, 2, 3, 4, 5}


def test_kept_things_were_bought_or_given_among_failed_attempts() -> None:
    acquired, refused = Counter(), 0
    for seed in range(40):
        draft = draft_of(NAME, seed, 16, kind="kept")
        story = read(prompt_of(draft))
        acquired.update(f.kind for _, f in story.facts("Purchase", "GiftReceived") if f.thing in draft.answers)
        refused += sum(fact.thing in draft.answers for _, fact in story.facts("Refused"))
    assert min(acquired["Purchase"], acquired["GiftReceived"]) > 15
    # A declined offer is as close to the thing as a sale.
    assert refused > 40


@pytest.mark.parametrize("events", [2, 3, 6, 16])
def test_one_person_is_met_more_often_than_anybody_else(events: int) -> None:
    runners_up = []
    for seed in range(12):
        draft = draft_of(NAME, seed, 50, kind="met", events=events)
        often = Counter(fact.name for _, fact in read(prompt_of(draft)).facts("Meeting")).most_common(2)
        assert often[0] == (draft.answer, events)
        assert often[1][1] < events
        runners_up.append(often[1][1])
        assert len(draft.marks()) == events
    # The second follows closely.
    assert max(runners_up) == max(events - 1, 1)


def test_whom_one_hears_of_most_is_not_always_whom_one_met_most() -> None:
    other = 0
    for seed in range(40):
        draft = draft_of(NAME, seed, 60, kind="met")
        heard = Counter(fact.name for _, fact in read(prompt_of(draft)).facts("Hearsay")).most_common(1)
        other += bool(heard) and heard[0][0] != draft.answer
    assert other > 20


def test_the_purse_takes_every_sum() -> None:
    for seed in range(10):
        draft = draft_of(NAME, seed, 30, kind="purse")
        story = read(prompt_of(draft))
        moved = list(story.facts("Purchase", "Sale", "Wage"))
        assert len(draft.marks()) == len(moved)
        assert int(draft.answer) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_all_over_the_story(kind: str) -> None:
    numbers = []
    for seed in range(12):
        draft = draft_of(NAME, seed, 60, kind=kind)
        where = {id(passage): i / len(draft.body) for i, passage in enumerate(draft.body)}
        numbers += [where[id(mark.first)] for mark in draft.marks()]
    quarters = Counter(min(int(4 * share), 3) for share in numbers)
    assert set(quarters) == {0, 1, 2, 3} or kind == "dearest"
