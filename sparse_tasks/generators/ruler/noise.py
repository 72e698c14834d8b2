"""Filler sentences that have nothing to do with any question."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Offer, Passage

__all__ = ["noise", "offer_noise"]


@cache
def _lines() -> list[str]:
    text = (files(__package__) / "noise.txt").read_text(encoding="utf-8")
    return [f"{line}\n" for line in text.splitlines() if line and not line.startswith("#")]


def noise(stream: Stream) -> str:
    """A sentence on a line of its own."""
    return stream.choice(_lines())


def offer_noise(stream: Stream, body: list[Passage]) -> Offer:
    """A line of noise behind any passage."""
    text, passage = noise(stream), stream.choice(body)
    return Offer([text], [], lambda: passage.followers.append(text))
