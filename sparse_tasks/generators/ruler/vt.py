"""Variable tracking: all variables that resolve to a value (high dispersion, low scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.noise import noise, offer_noise
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Mark, Passage, Task, parameter

__all__ = ["RulerVt"]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_END = "The log ends here."


@dataclass(frozen=True)
class RulerVt(Task):
    """Asks for the variables that hold one value, assigned directly or through others.

    ``chains`` chains of ``hops`` hops each, so ``hops + 1`` variables a chain, scattered in order over filler sentences
    (RULER, Hsieh et al. 2024, section 3, with the parameters of The Sparse Frontier). Its unit is the filler sentence.
    """

    chains: int = parameter(8, "number of chains of assignments", 1, 64)
    hops: int = parameter(4, "assignments from variable to variable in a chain", 1, 32)

    name: ClassVar[str] = "ruler_vt"
    summary: ClassVar[str] = "all variables that resolve to a value"
    dispersion: ClassVar[str] = "high"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "set_iou"
    steerable: ClassVar[bool] = False

    def smallest(self) -> int:
        return 0

    def units(self, size: int) -> int:
        return size

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [noise(stream) for _ in range(160)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        names = _names(stream.fork("names"), self.chains * (self.hops + 1))
        values = [str(value) for value in stream.fork("values").sample(range(10_000, 100_000), self.chains)]
        # The statements of all chains are interleaved at random, each chain's in its own order.
        turns = [chain for chain in range(self.chains) for _ in range(self.hops + 1)]
        stream.fork("turns").shuffle(turns)
        chains: list[list[str]] = [[] for _ in range(self.chains)]
        statements: list[Passage] = []
        asked: list[tuple[str, Passage]] = []
        for name, chain in zip(names, turns, strict=True):
            value = f"VAR {chains[chain][-1]}" if chains[chain] else values[chain]
            chains[chain].append(name)
            statements.append(Passage(f"VAR {name} = {value}\n"))
            if chain == 0:
                asked.append((name, statements[-1]))
        filler = stream.fork("filler")
        body = [Passage(noise(filler)) for _ in range(size + len(statements))]
        places = sorted(stream.fork("places").sample(range(len(body)), len(statements)))
        for place, statement in zip(places, statements, strict=True):
            body[place] = statement
        ask = (
            f"Which variables have the value {values[0]}, either assigned directly or through other variables? "
            f"There are {self.hops + 1} of them."
        )
        form = "the names of the variables, separated by commas."
        return Draft(
            intro="Below is a log in which variables are assigned between unrelated sentences.\n\n",
            body=body,
            preview=prompts.preview("a log", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(chains[0]),
            answers=chains[0],
            offers=[lambda: offer_noise(filler, body)],
            marks=lambda: [Mark(passage, 0, passage, len(passage.text) - 1, name) for name, passage in asked],
        )

    def oracle(self, prompt: str) -> str:
        asked = re.search(r"Which variables have the value (\d+), ", prompt[prompt.rfind(f"\n{_END}\n") :])
        if asked is None:
            raise DataError("the question names no value")
        held: dict[str, str] = {}
        for name, other, value in re.findall(r"^VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d+))$", prompt, re.M):
            if name in held:
                raise DataError(f"variable {name} is assigned twice")
            if other and other not in held:
                raise DataError(f"variable {other} is used before it is assigned")
            held[name] = held[other] if other else value
        return ", ".join(name for name, value in held.items() if value == asked[1])


def _names(stream: Stream, n: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < n:
        names[stream.letters(_ALPHABET, 5)] = None
    return list(names)


TASKS.register(RulerVt.name, RulerVt)
