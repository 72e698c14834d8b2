"""Execution: the trace of a small program that goes from one value in the context to the next (both axes high)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.reason.sentences import Grammars, asked
from sparse_tasks.generators.reason.task import ReasonTask
from sparse_tasks.generators.ruler.noise import offer_line
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Mark, Passage, parameter

_SPECIMENS = 160
_INTRO = "Below is a list of numbered boxes, in no order, with the number that each of them holds.\n\n"
_END = "The list ends here."
_BOXES = Grammars("boxes")
_NAMES = "abcdefgh"  # of totals


@dataclass(frozen=True)
class ReasonExecute(ReasonTask):
    """Asks for the trace of a program whose every step opens the box that follows from the step before.

    The number in a box says where to go next, and is added to one of ``totals`` totals, by its remainder. No box is
    opened twice, so that each step takes a number that the trace has not told yet. Its unit is the box.
    """

    totals: int = parameter(2, "totals that the program keeps; the number in a box says which one grows", 1, 8)

    name: ClassVar[str] = "reason_execute"
    summary: ClassVar[str] = "the trace of a program whose steps depend on values in the context"

    def line_tokens(self) -> int:
        return 12 + 10 * self.totals

    def smallest(self) -> int:
        return self.steps + 4

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [_sentence(stream, 1 + stream.below(size), _number(stream, size)) for _ in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        path = stream.fork("path").sample(range(1, size + 1), self.steps + 1)
        numbers = stream.fork("numbers")
        held = {box: _number(numbers, size) for box in range(1, size + 1)}
        held |= {box: (following - box) % size for box, following in pairwise(path)}
        totals = [numbers.between(10, 99) for _ in range(self.totals)]
        ask = _ask(self.steps, size, path[0], totals)
        lines = []
        for box, following in pairwise(path):
            totals[held[box] % self.totals] += held[box]
            lines.append(f"{following}: {', '.join(map(str, totals))}")
        prose, filler = stream.fork("prose"), stream.fork("filler")
        passages = {box: Passage(_sentence(prose, box, number)) for box, number in held.items()}
        body = list(passages.values())
        stream.fork("order").shuffle(body)
        form = (
            f'the lines that the program writes, each on a line of its own: "BOX: {", ".join(_NAMES[: self.totals])}".'
        )
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a list of boxes", ask, form),
            question=prompts.question(_END, ask, form),
            answer="\n".join(lines),
            answers=lines,
            offers=[lambda: offer_line(filler, body)],
            marks=lambda: [
                Mark(passages[box], 0, passages[box], len(passages[box].text) - 1, str(held[box])) for box in path[:-1]
            ],
            drawn={"boxes": size},
        )

    def oracle(self, prompt: str) -> str:
        held: dict[int, int] = {}
        for _, slots in _BOXES.read(prompt, _INTRO, _END):
            if held.setdefault(int(slots["box"]), int(slots["number"])) != int(slots["number"]):
                raise DataError(f"box {slots['box']} holds two numbers")
        program = asked(r"There are (\d+) boxes.*\n\n((?: .+\n)+)", prompt, _END)
        if int(program[1]) != len(held):
            raise DataError(f"{len(held)} boxes are told of, which is not what the question says")
        state = {name: int(value) for name, value in re.findall(r"^ *(\w+) = (\d+)$", program[2], re.M)}
        (times,) = re.findall(r"repeat (\d+) times", program[2])
        names = [name for name in state if name != "box"]
        lines = []
        for _ in range(int(times)):
            if state["box"] not in held:
                raise DataError(f"there is no box {state['box']}")
            number = held[state["box"]]
            state[names[number % len(names)]] += number
            state["box"] += number
            if state["box"] > len(held):
                state["box"] -= len(held)
            lines.append(f"{state['box']}: {', '.join(str(state[name]) for name in names)}")
        return "\n".join(lines)


def _ask(steps: int, boxes: int, first: int, totals: list[int]) -> str:
    """The program, in plain words and signs."""
    names = _NAMES[: len(totals)]
    if len(totals) == 1:
        adds = [f"{names[0]} = {names[0]} + n"]
    else:
        adds = [
            f"if n leaves the remainder {i} when divided by {len(names)}: {name} = {name} + n"
            for i, name in enumerate(names)
        ]
    program = [
        f"box = {first}",
        *(f"{name} = {total}" for name, total in zip(names, totals, strict=True)),
        f"repeat {steps} times:",
        "    n = the number in the box whose number is box",
        *(f"    {line}" for line in adds),
        "    box = box + n",
        f"    if box is more than {boxes}: box = box - {boxes}",
        f"    write a line with box, a colon and {', '.join(names)}",
    ]
    lines = "".join(f"    {line}\n" for line in program)
    return (
        f"What does this program write, step by step? There are {boxes} boxes, numbered from 1 on.\n\n{lines.rstrip()}"
    )


def _number(stream: Stream, boxes: int) -> int:
    """A number that leads from any box to another."""
    return stream.between(1, boxes - 1)


def _sentence(stream: Stream, box: int, number: int) -> str:
    return _BOXES.sentence(stream, "Box", box=box, number=number)


TASKS.register(ReasonExecute.name, ReasonExecute)
