"""Execution: the program is run here as Python, over boxes read by other means than the oracle's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.task import Draft
from tests.generators.drafts import context_of, draft_of, fill, prompt_of, task_of

NAME = "reason_execute"


def boxes(draft: Draft) -> dict[int, int]:
    held = {}
    for line in context_of(draft).splitlines()[2:]:
        if numbers := re.findall(r"\d+", line):
            box = re.search(r"[Bb]ox (\d+)", line)
            assert box is not None
            numbers.remove(box[1])
            (held[int(box[1])],) = map(int, numbers)
    return held


def run(draft: Draft) -> list[str]:
    """What the program writes, turned into Python line by line."""
    held, written = boxes(draft), list[str]()
    program = re.findall(r"^    (.+)$", draft.question, re.M)
    names = re.findall(r"^([a-h]) = ", "\n".join(program), re.M)
    code = []
    for line in program:
        text = re.sub(r"repeat (\d+) times:", r"for step in range(\1):", line)
        text = text.replace("the number in the box whose number is box", "held[box]; seen.append(box)")
        text = re.sub(r"if n leaves the remainder (\d+) when divided by (\d+)", r"if n % \2 == \1", text)
        text = re.sub(r"if box is more than (\d+)", r"if box > \1", text)
        text = re.sub(r"write a line with .*", f"write(f'{{box}}: {', '.join(f'{{{name}}}' for name in names)}')", text)
        code.append(text)
    seen: list[int] = []
    exec("\n".join(code), {"held": held, "write": written.append, "seen": seen, "range": range})
    assert len(set(seen)) == len(seen) == len(written)  # no number is taken twice
    return written


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(0, 80), st.integers(1, 8), st.integers(0, 2**32))
def test_gold_is_what_the_program_writes(steps: int, more: int, totals: int, seed: int) -> None:
    size = task_of(NAME, steps=steps).smallest() + more
    draft = fill(draft_of(NAME, seed, size, steps=steps, totals=totals), 3)
    assert sorted(boxes(draft)) == list(range(1, size + 1))
    assert run(draft) == draft.answers
    assert len(draft.answers) == len(draft.marks()) == steps
    assert draft.answer == "\n".join(draft.answers) == task_of(NAME).oracle(prompt_of(draft))


def test_numbers_lead_anywhere() -> None:
    held = boxes(draft_of(NAME, "spread", 400, steps=200))
    numbers = sorted(held.values())
    assert numbers[0] < 10
    assert 150 < numbers[200] < 250
    assert numbers[-1] > 390


def test_a_box_less_or_with_two_numbers_is_noticed() -> None:
    draft = draft_of(NAME, "changed", 60)
    prompt, mark = prompt_of(draft), draft.marks()[0]
    reported = mark.first.text
    box = re.search(r"[Bb]ox (\d+)", reported)
    assert box is not None
    with pytest.raises(DataError, match="59 boxes are told of"):
        task_of(NAME).oracle(prompt.replace(reported, "", 1))
    with pytest.raises(DataError, match="holds two numbers"):
        task_of(NAME).oracle(
            prompt.replace(reported, f"{reported}Box {box[1]} holds the number {int(mark.label) + 1}.\n", 1)
        )
