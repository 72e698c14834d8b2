"""Prices, things and places."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import ENGLISH, Language, language


def crowns(amount: int) -> str:
    """A sum of money in words and figures, in English.

    >>> crowns(1), crowns(1200)
    ('1 crown', '1200 crowns')
    """
    return language().price(amount)


# Maximum price, so that a traveller can earn it.
_DEAR = 180


@dataclass(frozen=True, slots=True)
class Thing:
    """Something bought, given or looked at; names are unique within a story.

    Attributes:
        sort: The class of its noun, which determines articles and similar words.
    """

    name: str
    material: str
    worth: int
    sort: str = ""


@dataclass(frozen=True, slots=True)
class _Kind:
    material: str
    noun: str
    low: int
    high: int
    sort: str | None = None


@cache
def _kinds(tongue: Language) -> list[_Kind]:
    """Every noun in every material that suits it, with its prices in crowns."""
    stuff = [(material, group, float(factor)) for material, group, factor in tongue.lexicon("materials.tsv")]
    return [
        _Kind(material, noun, max(1, round(int(low) * factor)), max(2, round(int(high) * factor)), *sort)
        for noun, groups, low, high, *sort in tongue.lexicon("nouns.tsv")
        for material, group, factor in stuff
        if group in groups.split(",")
    ]


@cache
def materials(code: str = ENGLISH) -> tuple[str, ...]:
    """Materials in which at least thirty nouns are made, in the lexicon's order."""
    counts: dict[str, int] = {}
    for kind in _kinds(language(code)):
        counts[kind.material] = counts.get(kind.material, 0) + 1
    return tuple(material for material, count in counts.items() if count >= 30)


@cache
def _kinds_of(tongue: Language, material: str) -> list[_Kind]:
    return [kind for kind in _kinds(tongue) if kind.material == material]


class Things:
    """Draws things whose names are all different."""

    def __init__(self, stream: Stream, reserved: str | None = None, code: str = ENGLISH) -> None:
        self._stream = stream
        self._reserved = reserved
        self._tongue = language(code)
        self._kinds = _kinds(self._tongue)
        self._adjectives = self._tongue.lexicon("adjectives.txt")
        self._names: set[str] = set()

    def thing(self, material: str | None = None) -> Thing:
        """A new thing; without ``material`` it is made of anything but the reserved one."""
        stream, tongue = self._stream, self._tongue
        kind = stream.choice(_kinds_of(tongue, material) if material else self._kinds)
        while material is None and kind.material == self._reserved:
            kind = stream.choice(self._kinds)
        name, tries = "", 0
        while not name or name in self._names:
            adjective = self._adjective(kind)
            # After a few attempts an adjective is added, so that names never run out.
            if tries < 8 or not name:
                name = tongue.names["thing"].format(adjective=adjective, material=kind.material, noun=kind.noun)
            else:
                name = tongue.names["longer_thing"].format(adjective=adjective, name=name)
            tries += 1
        self._names.add(name)
        worth = stream.between(kind.low, kind.high)
        worth = worth if worth <= _DEAR else stream.between(_DEAR * 2 // 3, _DEAR)
        return Thing(name, kind.material, worth, tongue.sort(name, kind.sort))

    def _adjective(self, kind: _Kind) -> str:
        """An adjective that agrees with the noun: of several forms the one of its class."""
        forms = self._stream.choice(self._adjectives)
        return forms[0] if len(forms) == 1 else forms[self._tongue.sorts.index(kind.sort or "")]


class Places:
    """Draws places whose names are all different."""

    def __init__(self, stream: Stream, code: str = ENGLISH) -> None:
        self._stream = stream
        tongue = language(code)
        self._forms = tongue.names
        self._firsts, self._seconds, self._prefixes = (
            tongue.lexicon(f"place_{part}.txt") for part in ("first", "second", "prefix")
        )
        self._names: set[str] = set()

    def place(self) -> str:
        """A new place."""
        stream, forms = self._stream, self._forms
        while True:
            first, second = stream.choice(self._firsts)[0], stream.choice(self._seconds)[0]
            name = forms["place"].format(first=first, second=second)
            if stream.below(4) == 0 or name in self._names:
                name = forms["longer_place"].format(prefix=stream.choice(self._prefixes)[0], name=name)
            if name not in self._names:
                self._names.add(name)
                return name
