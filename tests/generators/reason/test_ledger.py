"""The ledger: replayed here from the events as told, by other means than the oracle's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.story.reader import read
from tests.generators.drafts import chapters_of, draft_of, fill, prompt_of, task_of

NAME = "reason_ledger"
MONEY = {"Purchase": -1, "Sale": 1, "Wage": 1}
GAIN = ("Purchase", "GiftReceived")
LOSS = ("Sale", "GiftGiven")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 30), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32))
def test_each_line_is_the_one_before_with_one_change(
    steps: int, more: int, things: int, distractors: int, seed: int
) -> None:
    draft = fill(draft_of(NAME, seed, steps + more, steps=steps, things=things, distractors=distractors), 2)
    prompt = prompt_of(draft)
    assert draft.answer == "\n".join(draft.answers) == task_of(NAME).oracle(prompt)
    assert task_of(NAME).audit(prompt) == []
    story = read(prompt)
    assert len(draft.answers) == len(draft.marks()) == steps
    lines = iter(draft.answers)
    purse, carried = story.setting_out.amount, list[str]()
    for page in story.pages:
        assert len(page.facts) == distractors + 1  # so that a change does not show by a chapter's length
        (*changes,) = (fact for fact in page.facts if fact.kind in (*MONEY, *GAIN, *LOSS))
        for fact in changes:
            chapter, _, state = next(lines).partition(": ")
            crowns, *names = state.split("; ")
            assert chapter == f"Chapter {page.number}"
            assert int(crowns) == purse + MONEY.get(fact.kind, 0) * fact.amount
            expected = [name for name in carried if fact.kind not in LOSS or name != fact.thing]
            expected += [fact.thing] if fact.kind in GAIN else []
            assert names == (expected or ["nothing"])
            assert len(expected) <= things
            purse, carried = int(crowns), expected
            assert purse >= 0
    assert next(lines, None) is None


def test_all_kinds_of_change_occur_and_lines_differ() -> None:
    kinds = set()
    for seed in range(10):
        draft = draft_of(NAME, seed, 30)
        kinds |= {fact.kind for page in read(prompt_of(draft)).pages for fact in page.facts}
        assert len(set(draft.answers)) == len(draft.answers)
    assert kinds >= {*MONEY, *GAIN, *LOSS, "Seen", "Asked", "Hearsay", "Refused"}


def test_a_story_that_was_changed_is_noticed() -> None:
    draft = draft_of(NAME, "changed", 40)
    prompt, task = prompt_of(draft), task_of(NAME)
    mark = draft.marks()[0]
    reported = mark.first.text[mark.start : mark.end]
    with pytest.raises(DataError, match=r"bring a change, which is not what the question says|is not carried"):
        task.oracle(prompt.replace(reported, "Nothing happened.", 1))
    number = len(chapters_of(prompt))
    assert task.audit(prompt.replace(f"Chapter {read(prompt).pages[-1].number}\n\n", f"Chapter {number + 999}\n\n"))


def test_the_budget_follows_from_the_steps() -> None:
    assert task_of(NAME).budget() == 512 + 16 * 46
    assert task_of(NAME, steps=400, things=1).budget() == 512 + 400 * 26
