"""Names from faker, in any of its locales, without end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import lexicon

__all__ = ["People", "Person", "locales"]

# Locales in which the family name comes first.
_FAMILY_FIRST = {"hu_HU", "ja_JP", "ko_KR", "vi_VN", "zh_CN", "zh_TW"}
# Another name of a locale that is listed too; faker warns of it.
_DEPRECATED = {"fr_QC"}
# A name is quoted in sentences and read back out of them, so it holds none of what delimits it there.
_FORBIDDEN = frozenset(',.;:!?“”–—()[]{}<>"/\\|\n\t0123456789')


@cache
def locales() -> tuple[str, ...]:
    """The locales for which faker has names of people (elsewhere it would quietly fall back on English ones)."""
    import faker.providers.person
    from faker.utils.loading import list_module

    names = set(list_module(faker.providers.person)) - _DEPRECATED
    return tuple(sorted(name for name in names if "_" in name))


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in the story; ``job`` is an occupation with its article."""

    name: str
    first: str
    female: bool
    job: str


class People:
    """Draws people whose full names are all different.

    Args:
        stream: Where the draws come from.
        locale: A locale of faker, such as ``en_US`` or ``pl_PL``.
    """

    def __init__(self, stream: Stream, locale: str) -> None:
        self._stream = stream
        self._family_first = locale in _FAMILY_FIRST
        self._faker = _faker(locale)
        self._faker.seed_instance(stream.word())
        self._names: set[str] = set()
        self._firsts: set[str] = set()

    def hero(self) -> Person:
        """The protagonist, whose first name nobody else will bear."""
        hero = self.person()
        self._firsts.add(hero.first)
        return hero

    def person(self) -> Person:
        """Somebody new."""
        female = self._stream.below(2) == 0
        first, last = self._name(female)
        # A locale may have fewer names than a long story has people: then they get a second family name.
        for tries in range(10_000):
            if tries >= 20:
                last = f"{last}-{self._name(female)[1]}" if tries % 20 == 0 else self._name(female)[1]
            name = f"{last} {first}" if self._family_first else f"{first} {last}"
            if first not in self._firsts and name not in self._names and _FORBIDDEN.isdisjoint(name):
                break
            first, last = self._name(female)
        self._names.add(name)
        return Person(name, first, female, self._stream.choice(_jobs()))

    def _name(self, female: bool) -> tuple[str, str]:
        faker = self._faker
        if female:
            first, last = faker.first_name_female(), faker.last_name_female()
        else:
            first, last = faker.first_name_male(), faker.last_name_male()
        # Some locales bring stray blanks and a name in lower case; at the head of a sentence that would change.
        first = " ".join(first.split())
        return first[0].title() + first[1:], " ".join(last.split())


@cache
def _faker(locale: str) -> Any:
    from faker import Faker

    return Faker(locale)


@cache
def _jobs() -> list[str]:
    from sparse_tasks.generators.story.words import with_article

    return [with_article(job) for (job,) in lexicon("jobs.txt")]
