"""Needles in a haystack of keys and values, The Sparse Frontier's form (low dispersion, low scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.ruler.noise import offer_line
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Mark, Passage, Task, parameter

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_END = "The register ends here."


@dataclass(frozen=True)
class RulerNiah(Task):
    """Asks for the values of ``queries`` keys; all other lines are keys and values too.

    Keys and values are four groups of eight lower-case letters or digits (The Sparse Frontier's form of RULER's
    multi-query task, Hsieh et al. 2024, section 3). Its unit is the line.
    """

    queries: int = parameter(4, "number of keys asked for", 1, 64)

    name = "ruler_niah"
    summary = "the values of a few keys among key-value distractors"
    dispersion = "low"
    scope = "low"
    metric = "unordered_fraction"
    steerable = True
    in_groups = ()  # the paper's; RULER's own are the tasks ruler_niah_...

    def smallest(self) -> int:
        return self.queries

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [_line(*pair) for pair in _pairs(stream, 160)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        pairs = _pairs(stream.fork("pairs"), size)
        body = [Passage(_line(*pair)) for pair in pairs]
        place = stream.fork("place")
        gold = depth.slots(place, size, self.queries)
        place.shuffle(gold)
        keys = [pairs[i][0] for i in gold]
        answers = [f"{pairs[i][0]}: {pairs[i][1]}" for i in gold]
        more = stream.fork("more")

        one = len(keys) == 1
        ask = f"What is the value of {'this key' if one else f'each of these {len(keys)} keys'}?\n\n" + "\n".join(keys)
        form = ("one line" if one else f"{len(keys)} lines, one for each key") + (
            ", with the key, a colon, a blank and its value."
        )
        return Draft(
            intro="Below is a register of keys and their values, one a line.\n\n",
            body=body,
            preview=prompts.preview("a register", ask, form),
            question=prompts.question(_END, ask, form),
            answer="\n".join(answers),
            answers=answers,
            offers=[
                lambda: offer_line(more, body, lambda stream: _line(*_pairs(stream, 1)[0])),
                lambda: offer_line(more, body),
            ],
            marks=lambda: [
                Mark(body[i], 0, body[i], len(body[i].text) - 1, key) for i, key in zip(gold, keys, strict=True)
            ],
            drawn={"needles": size},
        )

    def oracle(self, prompt: str) -> str:
        question = prompt[prompt.rindex(f"\n{_END}\n") :] if f"\n{_END}\n" in prompt else ""
        keys = re.findall(r"^((?:[a-z0-9]{8}-){3}[a-z0-9]{8})$", question, re.M)
        if not keys:
            raise DataError("the question names no key")
        values: dict[str, str] = {}
        for key, value in re.findall(r"^The value of key ([a-z0-9-]+) is ([a-z0-9-]+)\.$", prompt, re.M):
            if key in values:
                raise DataError(f"key {key} stands twice")
            values[key] = value
        if missing := [key for key in keys if key not in values]:
            raise DataError(f"key {missing[0]} has no value")
        return "\n".join(f"{key}: {values[key]}" for key in keys)


def _line(key: str, value: str) -> str:
    return f"The value of key {key} is {value}.\n"


def _pairs(stream: Stream, n: int) -> list[tuple[str, str]]:
    # 32 characters of 36: two keys of one register are never the same (36 ** 32 is above 10 ** 49).
    text = stream.letters(_ALPHABET, 2 * n * 32)
    groups = [text[i : i + 8] for i in range(0, len(text), 8)]
    codes = ["-".join(groups[i : i + 4]) for i in range(0, len(groups), 4)]
    return list(zip(codes[::2], codes[1::2], strict=True))


TASKS.register(RulerNiah.name, RulerNiah)
