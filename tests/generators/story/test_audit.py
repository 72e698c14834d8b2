"""The auditor and the oracles are no rubber stamps: what is broken in a good prompt is found."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.story.reader import Fact, audit, read
from tests.generators.drafts import KINDS, STORIES, draft_of, fill, prompt_of, task_of

CHAPTERS = 26


@cache
def good(name: str = "story_retrieval", kind: str = "mixed", seed: int = 0) -> str:
    options = {"kind": kind} if name == "story_aggregation" else {}
    return prompt_of(fill(draft_of(name, f"audit {seed}", CHAPTERS, **options), 5))


def facts(prompt: str, *kinds: str) -> list[Fact]:
    return [fact for _, fact in read(prompt).facts(*kinds)]


def with_sentence(prompt: str, old: Fact, new: str) -> str:
    """The prompt with the sentence of a fact replaced."""
    assert prompt.count(old.sentence) == 1
    return prompt.replace(old.sentence, new)


def swapped(prompt: str, one: str, other: str) -> str:
    assert prompt.count(one) == prompt.count(other) == 1
    return prompt.replace(one, "\0").replace(other, one).replace("\0", other)


def verdict(name: str, prompt: str) -> str:
    """What the oracle makes of a prompt."""
    try:
        return task_of(name).oracle(prompt)
    except DataError as error:
        return f"DataError: {error}"


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("seed", range(8))
def test_a_good_story_has_no_contradiction(name: str, seed: int) -> None:
    assert audit(good(name, seed=seed)) == []
    assert task_of(name).audit(good(name, seed=seed)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distractors", [0, 2, 8])
def test_a_good_aggregation_has_no_contradiction(kind: str, distractors: int) -> None:
    for seed in range(4):
        draft = draft_of("story_aggregation", f"kinds {seed}", 40, kind=kind, distractors=distractors, events=10)
        assert audit(prompt_of(draft)) == []
        assert task_of("story_aggregation").oracle(prompt_of(draft)) == draft.answer


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(STORIES), st.integers(0, 2**32), st.integers(20, 60), st.integers(0, 8))
def test_every_story_passes_the_auditor_and_its_oracle(name: str, seed: int, size: int, distractors: int) -> None:
    draft = fill(draft_of(name, seed, size, distractors=distractors), 3)
    assert audit(prompt_of(draft)) == []
    assert task_of(name).oracle(prompt_of(draft)) == draft.answer


@pytest.mark.parametrize("kind", ["Sale", "GiftGiven", "Refused"])
def test_parting_with_what_was_never_acquired_is_found(kind: str) -> None:
    prompt = good()
    for fact in facts(prompt, kind):
        broken = with_sentence(prompt, fact, fact.sentence.replace(fact.thing, "never seen brass bell"))
        assert any("never seen brass bell is not the traveller's" in problem for problem in audit(broken))


@pytest.mark.parametrize("kind", ["Sale", "GiftGiven"])
def test_parting_with_a_thing_twice_is_found(kind: str) -> None:
    prompt = good()
    for fact in facts(prompt, kind):
        broken = with_sentence(prompt, fact, f"{fact.sentence} {fact.sentence}")
        assert any(f"{fact.thing} is not the traveller's" in problem for problem in audit(broken))


@pytest.mark.parametrize("kind", ["Purchase", "GiftReceived"])
def test_acquiring_a_thing_twice_is_found(kind: str) -> None:
    prompt = good()
    for fact in facts(prompt, kind):
        broken = with_sentence(prompt, fact, f"{fact.sentence} {fact.sentence}")
        assert any(f"{fact.thing} is acquired a second time" in problem for problem in audit(broken))


def test_something_old_told_of_as_new_is_found() -> None:
    prompt = good()
    bought = facts(prompt, "Purchase")[0]
    for fact in facts(prompt, "Seen", "Asked", "Hearsay"):
        if prompt.index(fact.sentence) > prompt.index(bought.sentence):
            broken = with_sentence(prompt, fact, fact.sentence.replace(fact.thing, bought.thing))
            # The article may now be wrong, but the sentence still says it.
            assert any("is told of as new" in problem for problem in audit(broken))


def test_spending_more_than_there_is_is_found() -> None:
    prompt = good()
    for fact in facts(prompt, "Purchase"):
        broken = with_sentence(prompt, fact, fact.sentence.replace(f" {fact.amount} ", " 99999 ", 1))
        assert broken != prompt or fact.sentence.startswith(str(fact.amount))
        if broken != prompt:
            assert any("the purse holds -" in problem for problem in audit(broken))


def test_a_smaller_purse_at_the_start_is_found() -> None:
    prompt = good()
    opening = read(prompt).setting_out
    broken = prompt.replace(opening.sentence, opening.sentence.replace(f"{opening.amount} crowns", "1 crown"))
    assert any("the purse holds -" in problem for problem in audit(broken))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda day: f"{day[0]}, {int(day[1]) % 28 + 1} {day[2]} {day[3]}", "was no|does not follow"),
        (lambda day: f"{day[0]}, {day[1]} {day[2]} {int(day[3]) + 1}", "was no|does not follow"),
        (lambda day: f"{'Monday' if day[0] != 'Monday' else 'Friday'}, {day[1]} {day[2]} {day[3]}", "was no"),
        (lambda day: "that day", "0 dates"),
        (lambda day: f"{day[0]}, {day[1]} {day[2]} {day[3]}, not {day[0]}, {day[1]} {day[2]} {day[3]}", "2 dates"),
    ],
)
def test_a_wrong_date_is_found(change: Callable[[tuple[str, ...]], str], problem: str) -> None:
    prompt = good()
    dates = re.findall(r"([A-Z][a-z]+day), (\d+) ([A-Z][a-z]+) (\d{4})", prompt)
    assert len(dates) == CHAPTERS
    for day in dates:
        broken = prompt.replace("{}, {} {} {}".format(*day), change(day))
        assert broken != prompt
        assert re.search(problem, "\n".join(audit(broken)))


def chapter(prompt: str, number: int) -> str:
    start = prompt.index(f"Chapter {number}\n\n")
    end = prompt.find(f"Chapter {number + 1}\n\n")
    return prompt[start : end if end > 0 else prompt.index("The story ends here.")]


@pytest.mark.parametrize("number", [1, 7, CHAPTERS - 1])
def test_a_chapter_told_twice_is_found(number: int) -> None:
    prompt = good()
    reported = chapter(prompt, number)
    assert audit(prompt.replace(reported, reported + reported))
    renumbered = reported.replace(f"Chapter {number}", f"Chapter {number + 1}")
    assert audit(prompt.replace(reported, reported + renumbered))


@pytest.mark.parametrize("number", [1, 7, CHAPTERS - 1])
def test_a_chapter_left_out_is_found(number: int) -> None:
    prompt = good()
    assert audit(prompt.replace(chapter(prompt, number), ""))


def test_chapters_that_swap_numbers_are_found() -> None:
    prompt = good()
    broken = swapped(prompt, "Chapter 4\n\n", "Chapter 9\n\n")
    assert "chapters are not numbered one by one" in audit(broken)
    # Their texts swapped, numbers kept: the days are out of order.
    fourth, ninth = chapter(prompt, 4), chapter(prompt, 9)
    broken = prompt.replace(fourth, "\0").replace(ninth, fourth.replace("Chapter 4", "Chapter 9"))
    broken = broken.replace("\0", ninth.replace("Chapter 9", "Chapter 4"))
    assert any("does not follow" in problem for problem in audit(broken))


@pytest.mark.parametrize("kind", ["Arrival", "Meeting"])
def test_a_missing_or_doubled_arrival_or_meeting_is_found(kind: str) -> None:
    prompt = good()
    for fact in facts(prompt, kind):
        assert any(f"0 events of kind {kind}" in p for p in audit(with_sentence(prompt, fact, "Nothing stirred.")))
        twice = with_sentence(prompt, fact, f"{fact.sentence} {fact.sentence}")
        assert any(f"2 events of kind {kind}" in p for p in audit(twice))


def test_a_story_without_a_beginning_is_found() -> None:
    prompt = good()
    with pytest.raises(DataError, match="setting out"):
        audit(prompt.replace(read(prompt).setting_out.sentence, "Nobody left home."))


@pytest.mark.parametrize("kind", ["Purchase", "GiftReceived"])
def test_retrieval_misses_an_acquisition(kind: str) -> None:
    # Whatever is asked of it: the chapter has no thing then, and the oracle says so where a thing is asked.
    hit = 0
    for seed in range(4):
        prompt = good(seed=seed)
        answer = verdict("story_retrieval", prompt)
        asked = set(re.findall(r"Which thing did .+? acquire in Chapter (\d+)", prompt))
        for page, fact in read(prompt).facts(kind):
            found = verdict("story_retrieval", with_sentence(prompt, fact, "Nothing stirred."))
            if str(page.number) in asked:
                hit += 1
                assert "tells 0 acquisitions" in found
            else:
                assert found == answer
    assert hit


@pytest.mark.parametrize("kind", ["Arrival", "Meeting", "Purchase"])
def test_retrieval_reads_another_fact_from_another_text(kind: str) -> None:
    prompt = good()
    answer = verdict("story_retrieval", prompt)
    words = {"Arrival": "At which place", "Meeting": "Whom", "Purchase": "Which thing"}[kind]
    asked = {int(n) for n in re.findall(rf"^\d+\. {words} .*Chapter (\d+)", prompt, re.M)}
    changed = 0
    for page, fact in read(prompt).facts(kind):
        if page.number in asked:
            said = fact.thing or fact.name
            broken = with_sentence(
                prompt, fact, fact.sentence.replace(said, {"Purchase": "huge brass bell"}.get(kind, "Nowhere Xan"))
            )
            found = verdict("story_retrieval", broken)
            assert found != answer
            assert "huge brass bell" in found or "Nowhere Xan" in found
            changed += 1
    assert changed


def test_multihop_reads_another_thing_when_acquisitions_change_places() -> None:
    for seed in range(6):
        prompt = good("story_multihop", seed=seed)
        answer = verdict("story_multihop", prompt)
        things = [fact.thing for fact in facts(prompt, "Purchase", "GiftReceived")]
        at = things.index(answer)
        for other in (things[at - 2], things[(at + 3) % len(things)]):
            assert (
                verdict("story_multihop", re.sub(rf"\b{answer}\b", other + "\0", prompt).replace(other + "\0", other))
                != answer
            )


def test_multihop_sees_an_acquisition_more_or_less() -> None:
    for seed in range(6):
        prompt = good("story_multihop", seed=seed)
        answer = verdict("story_multihop", prompt)
        acquired = facts(prompt, "Purchase", "GiftReceived")
        gold = next(fact for fact in acquired if fact.thing == answer)
        assert verdict("story_multihop", with_sentence(prompt, gold, "Nothing stirred.")) != answer
        between = f"{gold.sentence} {read(prompt).hero} was given a huge brass bell by a monk, with great good humour."
        assert verdict("story_multihop", with_sentence(prompt, gold, between)) == "huge brass bell"


def test_filtering_counts_the_chapters_without_a_purchase() -> None:
    for seed in range(2):
        prompt = good("story_filtering", seed=seed)
        hero = read(prompt).hero
        for fact in facts(prompt, "Purchase"):
            assert verdict("story_filtering", with_sentence(prompt, fact, "Nothing stirred.")).startswith("DataError")
        gold = verdict("story_filtering", prompt).split(", ")
        bought = f"{hero} bought a huge brass bell from a pedlar for 1 crown, paid on the spot."
        for number in gold:
            reported = chapter(prompt, int(number))
            broken = prompt.replace(reported, reported.rstrip() + f"\n\n{bought}\n\n")
            assert verdict("story_filtering", broken).startswith("DataError")
        # Moved from one chapter to another, the number is right and the answer another.
        page, fact = next(iter(read(prompt).facts("Purchase")))
        moved = with_sentence(prompt, fact, "Nothing stirred.")
        reported = chapter(moved, int(gold[0]))
        moved = moved.replace(reported, reported.rstrip() + f"\n\n{fact.sentence}\n\n")
        assert set(verdict("story_filtering", moved).split(", ")) == {str(page.number), *gold[1:]}


def test_spent_changes_with_every_price_that_counts() -> None:
    for seed in range(2):
        prompt = good("story_aggregation", "spent", seed)
        answer = int(verdict("story_aggregation", prompt))
        made = re.findall(r"pay for things made of (\S+)\?", prompt)[-1]
        for fact in facts(prompt, "Purchase", "Asked", "Hearsay", "GiftReceived", "Seen"):
            counts = fact.kind == "Purchase" and made in fact.thing.split()
            without = with_sentence(prompt, fact, "Nothing stirred.")
            assert int(verdict("story_aggregation", without)) == answer - (fact.amount if counts else 0)


def test_costly_changes_with_every_purchase_above_the_bound() -> None:
    for seed in range(2):
        prompt = good("story_aggregation", "costly", seed)
        answer = int(verdict("story_aggregation", prompt))
        made, bound = re.findall(r"pay for things made of (\S+) that cost more than (\d+) crown", prompt)[-1]
        for fact in facts(prompt, "Purchase", "GiftReceived", "Asked"):
            counts = fact.kind == "Purchase" and made in fact.thing.split() and fact.amount > int(bound)
            without = with_sentence(prompt, fact, "Nothing stirred.")
            assert int(verdict("story_aggregation", without)) == answer - (fact.amount if counts else 0)


def test_dearest_changes_when_its_purchase_goes_and_a_tie_is_refused() -> None:
    for seed in range(4):
        prompt = good("story_aggregation", "dearest", seed)
        answer = verdict("story_aggregation", prompt)
        bought = sorted(facts(prompt, "Purchase"), key=lambda fact: fact.amount)
        assert bought[-1].thing == answer
        without = verdict("story_aggregation", with_sentence(prompt, bought[-1], "Nothing stirred."))
        assert without != answer
        tied = with_sentence(
            prompt,
            bought[0],
            re.sub(rf"\b{bought[0].amount} crowns?", f"{bought[-1].amount} crowns", bought[0].sentence),
        )
        assert verdict("story_aggregation", tied) == "DataError: two things cost the most"


def test_kept_changes_when_something_comes_or_goes() -> None:
    for seed in range(2):
        prompt = good("story_aggregation", "kept", seed)
        answer = set(verdict("story_aggregation", prompt).split("\n"))
        made = re.findall(r"Which things made of (\S+) does", prompt)[-1]
        for fact in facts(prompt, "Sale", "GiftGiven", "Refused"):
            found = set(verdict("story_aggregation", with_sentence(prompt, fact, "Nothing stirred.")).split("\n"))
            lost = made in fact.thing.split() and fact.kind != "Refused"
            assert found == answer | ({fact.thing} if lost else set())
        for fact in facts(prompt, "Purchase", "GiftReceived"):
            if fact.thing in answer:
                gone = verdict("story_aggregation", with_sentence(prompt, fact, "Nothing stirred."))
                assert set(gone.split("\n")) - {""} == answer - {fact.thing}


def test_met_changes_with_the_meetings_and_a_tie_is_refused() -> None:
    for seed in range(4):
        prompt = good("story_aggregation", "met", seed)
        answer = verdict("story_aggregation", prompt)
        meetings = [fact for fact in facts(prompt, "Meeting") if fact.name == answer]
        assert len(meetings) == 6
        broken = prompt
        found = answer
        for fact in meetings:
            broken = with_sentence(broken, fact, "Nothing stirred.")
            found = verdict("story_aggregation", broken)
        assert found != answer


def test_purse_changes_with_every_sum_that_moves() -> None:
    prompt = good("story_aggregation", "purse")
    answer = int(verdict("story_aggregation", prompt))
    sign = {"Purchase": -1, "Sale": 1, "Wage": 1}
    for fact in facts(prompt, "Purchase", "Sale", "Wage", "Asked", "Hearsay", "Refused"):
        without = with_sentence(prompt, fact, "Nothing stirred.")
        assert int(verdict("story_aggregation", without)) == answer - sign.get(fact.kind, 0) * fact.amount


@pytest.mark.parametrize("name", STORIES)
def test_a_question_that_cannot_be_read_is_refused(name: str) -> None:
    prompt = good(name)
    at = prompt.rindex("The story ends here.")
    assert verdict(name, prompt[:at] + "The story ends here.\n\nWhat do you think of it?").startswith("DataError")
    with pytest.raises(DataError):
        task_of(name).oracle(prompt[:at])


@pytest.mark.parametrize("name", STORIES)
def test_an_oracle_never_fails_otherwise_than_by_saying_so(name: str) -> None:
    # Cut anywhere, a prompt is either read or refused.
    prompt = good(name)
    for i in range(0, len(prompt), len(prompt) // 40):
        verdict(name, prompt[:i] + prompt[i + 997 :])
        verdict(name, prompt[:i])
