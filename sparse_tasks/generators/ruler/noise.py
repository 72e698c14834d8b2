"""Filler: sentences unrelated to any question, and offers of more text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Offer, Passage


@cache
def read_lines(name: str) -> list[str]:
    """Lines of a data file of this room, without comments."""
    text = (files(__package__) / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def noise(stream: Stream) -> str:
    """A filler sentence on a line of its own."""
    return f"{stream.choice(read_lines('noise.txt'))}\n"


def offer_line(stream: Stream, body: list[Passage], line: Callable[[Stream], str] = noise) -> Offer:
    """An offer of a line, by default a filler sentence, after any passage."""
    text = line(stream)
    passage = stream.choice(body)
    return Offer([text], [], lambda: passage.followers.append(text))
