"""English words that may be shown to anybody: those of ``wonderwords`` without the profane ones."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from sparse_tasks.generators.seeds import Stream

__all__ = ["described", "listed", "set_aside"]

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
    """The entries of one of the package's lists."""
    return frozenset((files("wonderwords") / "assets" / name).read_text(encoding="utf-8").splitlines())


def described(stream: Stream) -> str:
    """A noun with an adjective, as one word (``wakeful-lantern``): one of some six million."""
    profane = listed("profanitylist.txt")
    while True:
        adjective, noun = stream.choice(_plain("adjectivelist.txt")), stream.choice(_plain("nounlist.txt"))
        # Two decent words may make an indecent one.
        if profane.isdisjoint((f"{adjective} {noun}", f"{adjective}{noun}", f"{adjective}-{noun}")):
            return f"{adjective}-{noun}"


@cache
def _plain(name: str) -> list[str]:
    return sorted(
        word for word in listed(name) - listed("profanitylist.txt") if re.fullmatch(r"[a-z]{3,}", word, re.ASCII)
    )


def set_aside() -> list[str]:
    """Words for examples, which are in none of the package's lists."""
    return _SET_ASIDE.split()
