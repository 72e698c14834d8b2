"""English words of ``wonderwords`` without the profane ones, and what the tasks on lists of words share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.seeds import Stream

# Neither nouns nor adjectives nor verbs.
_SET_ASIDE = (
    "seldom often perhaps indeed always never twice thrice rather quite almost hardly nearly elsewhere nowhere hence "
    "thus therefore meanwhile afterwards beforehand already besides instead otherwise together sometimes usually "
    "rarely quickly slowly gladly badly softly loudly boldly kindly calmly abroad aloud apart indoors outdoors "
    "nonetheless although because unless until whereas beneath between among throughout toward within without during "
    "despite except alongside likewise moreover furthermore hereby whenever wherever whoever whatever however later"
)


@cache
def listed(name: str) -> frozenset[str]:
    """Entries of one of the package's lists."""
    return frozenset((files("wonderwords") / "assets" / name).read_text(encoding="utf-8").splitlines())


@cache
def plain(*names: str) -> list[str]:
    """Decent words of some lists, of three letters or more."""
    words = frozenset[str]().union(*map(listed, names)) - listed("profanitylist.txt")
    return sorted(word for word in words if re.fullmatch(r"[a-z]{3,}", word))


def joined(stream: Stream, first: Sequence[str], second: Sequence[str], without: frozenset[str] = frozenset()) -> str:
    """Two words as one (``wakeful-lantern``), neither of them in ``without``."""
    profane = listed("profanitylist.txt")
    while True:
        one, other = stream.choice(first), stream.choice(second)
        # Two decent words may make an indecent one.
        if without.isdisjoint((one, other)) and profane.isdisjoint((f"{one} {other}", one + other, f"{one}-{other}")):
            return f"{one}-{other}"


def described(stream: Stream) -> str:
    """A noun with an adjective, as one word: one of some six million."""
    return joined(stream, plain("adjectivelist.txt"), plain("nounlist.txt"))


def set_aside() -> list[str]:
    """Words for examples, which are in none of the package's lists."""
    return _SET_ASIDE.split()


def most_frequent(words: Iterable[str], n: int) -> str:
    """The ``n`` most frequent words, sorted; a DataError if they are fewer, or tie with the next."""
    counts = Counter(words).most_common()
    if not 0 < n <= len(counts) or (n < len(counts) and counts[n - 1][1] == counts[n][1]):
        raise DataError(f"{n} most frequent words cannot be told from the next")
    return ", ".join(sorted(word for word, _ in counts[:n]))
