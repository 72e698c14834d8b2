"""A task in one file: how many people live in the largest town?

Once installed with its metric, it works like the built-in ones::

    pip install examples/metric examples/task
    sparse-tasks generate --length 4k --task census_largest

For a task of your own, change its name (here and in pyproject.toml), the lines and the question that ``compose``
writes, and ``oracle``, which must find the answer in the prompt alone. The package makes lengths exact; a task does not
count tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Mark, Offer, Passage, Task, parameter


@dataclass(frozen=True)
class CensusLargest(Task):
    """Asks for the number of inhabitants of the largest town in a census with one town per line."""

    population: int = parameter(1_000_000, "inhabitants of the largest town, at least", 100_000, 10_000_000)

    name: ClassVar[str] = "census_largest"
    summary: ClassVar[str] = "the number of inhabitants of the largest town"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "high"
    metric: ClassVar[str] = "close_number"  # of examples/metric
    steerable: ClassVar[bool] = True

    def smallest(self) -> int:
        return 1

    def units(self, size: int) -> int:
        return size

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return [_line(stream, stream.below(self.population)) for _ in range(100)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        body = [Passage(_line(stream, stream.below(self.population))) for _ in range(size)]
        inhabitants = self.population + stream.below(self.population)
        largest = body[depth.slot(stream, size)]
        largest.text = _line(stream, inhabitants)

        def offer_town() -> Offer:
            text, passage = _line(stream, stream.below(self.population)), stream.choice(body)
            return Offer([text], [], lambda: passage.followers.append(text))

        ask = "How many inhabitants does the largest town have?"
        return Draft(
            intro="Below is a census, one town a line.\n\n",
            body=body,
            preview=prompts.preview("a census", ask, "the number."),
            question=prompts.question("The census ends here.", ask, "the number."),
            answer=str(inhabitants),
            answers=[str(inhabitants)],
            offers=[offer_town],  # ways to make the draft longer
            marks=lambda: [
                Mark(largest, 0, largest, len(largest.text) - 1, str(inhabitants))
            ],  # the text that contains the label
        )

    def oracle(self, prompt: str) -> str:
        numbers = [int(number) for number in re.findall(r"^The town of \w+ has (\d+) inhabitants\.$", prompt, re.M)]
        if not numbers or numbers.count(max(numbers)) != 1:
            raise DataError("the census has no single largest town")
        return str(max(numbers))


def _line(stream: Stream, inhabitants: int) -> str:
    name = stream.letters("abcdefghijklmnopqrstuvwxyz", 6).capitalize()
    return f"The town of {name} has {inhabitants} inhabitants.\n"


TASKS.register(CensusLargest.name, CensusLargest)
