"""Variable tracking: all variables that resolve to a value (high dispersion, low scope)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.noise import noise, offer_line
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Completion, Draft, Mark, Passage, Task, parameter

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_INTRO = "Below is a log in which variables are assigned between unrelated sentences.\n\n"
_END = "The log ends here."


@dataclass(frozen=True)
class RulerVt(Task):
    """Asks for the variables that hold one value, assigned directly or through others.

    ``chains`` chains of ``hops`` hops each, so ``hops + 1`` variables a chain, scattered in order over filler sentences
    (RULER, Hsieh et al. 2024, section 3, with the parameters of The Sparse Frontier). Its unit is the filler sentence.
    """

    chains: int = parameter(8, "number of chains of assignments", 1, 64)
    hops: int = parameter(4, "assignments from variable to variable in a chain", 1, 32)

    name = "ruler_vt"
    summary = "all variables that resolve to a value"
    dispersion = "high"
    scope = "low"
    metric = "set_iou"
    steerable = False
    ruler_metric = "string_match_all"
    placeholders: ClassVar[Mapping[str, str]] = {
        "value": "the value asked for",
        "count": "number of variables that have it",
        "example_log": "a short log, as an example, without the newline at its end",
        "example_value": "the value asked for in the example",
        "example_answer": "the variables that have it, separated by commas",
    }
    needed = ("value",)

    def smallest(self) -> int:
        return 0

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [noise(stream) for _ in range(160)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        names = _names(stream.fork("names"), self.chains * (self.hops + 1))
        values = _values(stream.fork("values"), self.chains)
        fields = {"value": values[0], "count": str(self.hops + 1)}
        fields |= self._example(stream.fork("example"), names, values)
        # The statements of all chains are interleaved at random, each chain's in its own order.
        turns = [chain for chain in range(self.chains) for _ in range(self.hops + 1)]
        stream.fork("turns").shuffle(turns)
        chains: list[list[str]] = [[] for _ in range(self.chains)]
        statements: list[Passage] = []
        gold: list[tuple[str, Passage]] = []
        for name, chain in zip(names, turns, strict=True):
            value = f"VAR {chains[chain][-1]}" if chains[chain] else values[chain]
            chains[chain].append(name)
            statements.append(Passage(f"VAR {name} = {value}\n"))
            if chain == 0:
                gold.append((name, statements[-1]))
        filler = stream.fork("filler")
        body = [Passage(noise(filler)) for _ in range(size + len(statements))]
        places = sorted(stream.fork("places").sample(range(len(body)), len(statements)))
        for place, statement in zip(places, statements, strict=True):
            body[place] = statement
        ask = self._ask(values[0])
        form = "the names of the variables, separated by commas."
        return Draft(
            intro=_INTRO,
            body=body,
            preview=prompts.preview("a log", ask, form),
            question=prompts.question(_END, ask, form),
            answer=", ".join(chains[0]),
            answers=chains[0],
            offers=[lambda: offer_line(filler, body)],
            marks=lambda: [Mark(passage, 0, passage, len(passage.text) - 1, name) for name, passage in gold],
            completion=self.complete(fields),
            fields=fields | {"format": prompts.answer_format(form)},
        )

    def complete(self, fields: Mapping[str, str]) -> Completion:
        example = ""
        if "example_log" in fields:
            value = fields["example_value"]
            answer = f"{self._ask(value)}\n\n{_opening(value)} {fields['example_answer']}."
            solved = f"{_INTRO}{fields['example_log']}\n{_END}\n\n{answer}"
            example = f"Here is an example first.\n\n{solved}\n\nNow comes the log that you will be asked about.\n\n"
        value = fields["value"]
        return prompts.completion("a log", example + _INTRO, _END, self._ask(value), _opening(value))

    def oracle(self, prompt: str) -> str:
        question = re.search(r"Which variables have the value (\d+), ", prompt[prompt.rfind(f"\n{_END}\n") :])
        if question is None:
            raise DataError("the question names no value")
        values: dict[str, str] = {}
        log = prompt[max(prompt.rfind(_INTRO), 0) :]  # behind the example, where there is one
        for name, other, value in re.findall(r"^VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d+))$", log, re.M):
            if name in values:
                raise DataError(f"variable {name} is assigned twice")
            if other and other not in values:
                raise DataError(f"variable {other} is used before it is assigned")
            values[name] = values[other] if other else value
        return ", ".join(name for name, value in values.items() if value == question[1])

    def _ask(self, value: str) -> str:
        return (
            f"Which variables have the value {value}, either assigned directly or through other variables? "
            f"There are {self.hops + 1} of them."
        )

    def _example(self, stream: Stream, names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
        """A chain of other variables with another value, with a line of noise before each of its statements."""
        chain = [name for name in _names(stream, len(names) + self.hops + 1) if name not in names][: self.hops + 1]
        value = next(value for value in _values(stream, len(values) + 1) if value not in values)
        lines = [noise(stream) + f"VAR {chain[0]} = {value}"]
        lines += [noise(stream) + f"VAR {name} = VAR {other}" for other, name in pairwise(chain)]
        return {"example_log": "\n".join(lines), "example_value": value, "example_answer": ", ".join(chain)}


def _opening(value: str) -> str:
    return f"By the log, the variables with the value {value} are"


def _values(stream: Stream, n: int) -> list[str]:
    return [str(value) for value in stream.sample(range(10_000, 100_000), n)]


def _names(stream: Stream, n: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < n:
        names[stream.letters(_ALPHABET, 5)] = None
    return list(names)


TASKS.register(RulerVt.name, RulerVt)
