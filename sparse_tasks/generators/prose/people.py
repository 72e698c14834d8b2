"""An unlimited supply of names from faker, in any of its locales."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_tasks.generators.prose.grammar import read_lexicon
from sparse_tasks.generators.prose.words import with_article
from sparse_tasks.generators.seeds import Stream

if TYPE_CHECKING:
    from faker import Faker

# Locales in which the family name comes first.
_FAMILY_FIRST = {"hu_HU", "ja_JP", "ko_KR", "vi_VN", "zh_CN", "zh_TW"}
# Locales without a blank between the names, if the text around them has none either.
_UNSPACED = {"ja_JP", "ko_KR", "zh_CN", "zh_TW"}
# An alias of a listed locale, which faker warns about.
_DEPRECATED = {"fr_QC"}
# Names drawn from faker for each locale, part and sex.
_POOL = 2_000
# Names are parsed back out of sentences, so they must not contain delimiters.
_FORBIDDEN = frozenset(',.;:!?“”–—()[]{}<>"/\\|\n\t0123456789')


@cache
def locales() -> tuple[str, ...]:
    """Locales for which faker has names of people; for others it would silently use English ones."""
    # Without importing faker, which would take most of the time of a listing.
    package = find_spec("faker")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("faker is not installed")
    folders = (Path(package.origin).parent / "providers" / "person").iterdir()
    names = {folder.name for folder in folders if (folder / "__init__.py").is_file()} - _DEPRECATED
    return tuple(sorted(name for name in names if "_" in name and not name.startswith("_")))


@dataclass(frozen=True, slots=True)
class Person:
    """A person; ``job`` is an occupation, in English with its article."""

    name: str
    first: str
    female: bool
    job: str


class People:
    """Draws people with distinct full names.

    Args:
        stream: Source of the draws.
        locale: A locale of faker, such as ``en_US`` or ``pl_PL``.
        jobs: Occupations in the male and female form; None: English ones, with their articles.
        in_full: Whether people are referred to by full name, as in texts without blanks; then first names of one letter
            are doubled, since names of two letters are often words of the text.
    """

    def __init__(
        self, stream: Stream, locale: str, jobs: Sequence[Sequence[str]] | None = None, in_full: bool = False
    ) -> None:
        self._stream = stream
        self._locale = locale
        self._jobs = _jobs() if jobs is None else jobs
        self._in_full = in_full
        self._names: set[str] = set()
        self._hero_first: str | None = None

    def hero(self) -> Person:
        """The protagonist, whose first name nobody else gets."""
        hero = self.person()
        self._hero_first = hero.first
        return hero

    def person(self) -> Person:
        """A new person."""
        stream = self._stream
        for tries in count():
            female = stream.below(2) == 0
            first = _capital(stream.choice(_pool(self._locale, "first_name", female)))
            if self._in_full and len(first) == 1:
                first += stream.choice(_letters(self._locale, female))
            # A locale may have fewer names than a long story has people, who then get another family name.
            lasts = _pool(self._locale, "last_name", female)
            last = "-".join(stream.choice(lasts) for _ in range(1 + tries // 20))
            blank = "" if self._in_full and self._locale in _UNSPACED else " "
            name = f"{_capital(last)}{blank}{first}" if self._locale in _FAMILY_FIRST else f"{first} {last}"
            if first != self._hero_first and name not in self._names:
                break
        self._names.add(name)
        return Person(name, name if self._in_full else first, female, stream.choice(self._jobs)[female])


@cache
def _pool(locale: str, part: str, female: bool) -> list[str]:
    """A sample of a locale's names, weighted by frequency, from which all stories draw."""
    faker = _faker(locale)
    faker.seed_instance(0)
    # Some locales have stray blanks.
    names = [" ".join(name.split()) for name in _drawn(faker.get_providers()[0], part, "female" if female else "male")]
    return [name for name in names if name and _FORBIDDEN.isdisjoint(name)]


@cache
def _faker(locale: str) -> Faker:
    from faker import Faker

    return Faker(locale, providers=["faker.providers.person"])


@cache
def _letters(locale: str, female: bool) -> list[str]:
    """First names of one letter."""
    return [name for name in _pool(locale, "first_name", female) if len(name) == 1]


def _drawn(provider: Any, part: str, sex: str) -> Sequence[str]:
    """Names as the provider's method draws them; in one batch, with the same result, if it only picks from a list."""
    from faker.providers.person import Provider

    method, listed = f"{part}_{sex}", getattr(provider, f"{part}s_{sex}", None)
    if listed is None and getattr(type(provider), part) is getattr(Provider, part):
        listed = getattr(provider, f"{part}s")
    if isinstance(listed, OrderedDict) and getattr(type(provider), method) is getattr(Provider, method):
        drawn: Sequence[str] = provider.random_elements(listed, _POOL, unique=False)
        return drawn
    return [str(getattr(provider, method)()) for _ in range(_POOL)]


def _capital(name: str) -> str:
    """A name with a capital; some locales have names in lower case."""
    return name[0].title() + name[1:]


@cache
def _jobs() -> list[tuple[str, str]]:
    return [(with_article(job),) * 2 for (job,) in read_lexicon(files(__package__) / "lexicon" / "jobs.txt")]
