"""Prices, things and places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import lexicon


def crowns(amount: int) -> str:
    """A sum of money in words and figures.

    >>> crowns(1), crowns(1200)
    ('1 crown', '1200 crowns')
    """
    return "1 crown" if amount == 1 else f"{amount} crowns"


# Nothing is worth more, so that a traveller can earn what a thing costs.
_DEAR = 180


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that is bought, given or looked at; no two of a story have the same name."""

    name: str
    material: str
    worth: int


@dataclass(frozen=True, slots=True)
class _Kind:
    material: str
    noun: str
    low: int
    high: int


@cache
def _kinds() -> list[_Kind]:
    """Every noun in every material that suits it, with its prices in crowns."""
    stuff = [(material, group, float(factor)) for material, group, factor in lexicon("materials.tsv")]
    return [
        _Kind(material, noun, max(1, round(int(low) * factor)), max(2, round(int(high) * factor)))
        for noun, groups, low, high in lexicon("nouns.tsv")
        for material, group, factor in stuff
        if group in groups.split(",")
    ]


@cache
def materials() -> tuple[str, ...]:
    """Materials in which at least thirty nouns are made, in the lexicon's order."""
    counts: dict[str, int] = {}
    for kind in _kinds():
        counts[kind.material] = counts.get(kind.material, 0) + 1
    return tuple(material for material, count in counts.items() if count >= 30)


@cache
def _kinds_of(material: str) -> list[_Kind]:
    return [kind for kind in _kinds() if kind.material == material]


@cache
def _adjectives() -> list[str]:
    return [adjective for (adjective,) in lexicon("adjectives.txt")]


class Things:
    """Draws things whose names are all different."""

    def __init__(self, stream: Stream, reserved: str | None = None) -> None:
        self._stream = stream
        self._reserved = reserved
        self._names: set[str] = set()

    def thing(self, material: str | None = None) -> Thing:
        """A new thing; without ``material`` it is made of anything but the reserved one."""
        stream = self._stream
        kind = stream.choice(_kinds_of(material) if material else _kinds())
        while material is None and kind.material == self._reserved:
            kind = stream.choice(_kinds())
        name = plain = f"{kind.material} {kind.noun}"
        tries = 0
        while name == plain or name in self._names:
            adjective = stream.choice(_adjectives())
            # After a few tries the name grows by an adjective, so that names never run out.
            name = f"{adjective} {plain}" if tries < 8 else f"{adjective} {name}"
            tries += 1
        self._names.add(name)
        worth = stream.between(kind.low, kind.high)
        return Thing(name, kind.material, worth if worth <= _DEAR else stream.between(_DEAR * 2 // 3, _DEAR))


class Places:
    """Draws places whose names are all different."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._names: set[str] = set()

    def place(self) -> str:
        """A new place."""
        stream = self._stream
        while True:
            name = f"{stream.choice(lexicon('place_first.txt'))[0]} {stream.choice(lexicon('place_second.txt'))[0]}"
            if stream.below(4) == 0 or name in self._names:
                name = f"{stream.choice(lexicon('place_prefix.txt'))[0]} {name}"
            if name not in self._names:
                self._names.add(name)
                return name
