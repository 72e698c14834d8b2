"""Reads a story back out of a prompt, and replays it: what the oracles and the auditor work on.

The reader knows the phrasing (the grammar files, turned into patterns) and nothing of the simulation or the narrator:
whatever they got wrong shows here.
"""

from __future__ import annotations

import re
from calendar import month_name
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, lru_cache
from itertools import pairwise

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.prose.phrasing import Phrasing, Phrasings, Slots
from sparse_tasks.generators.story.grammar import events

_NAME = r"[^,.;:!?“”–]+?"
_THING = r"[a-z][a-z' -]*?"
_SLOTS = Slots(
    {
        "a_item": rf"[Aa]n? (?P<thing>{_THING})",
        "the_item": rf"[Tt]he (?P<thing>{_THING})",
        "his_item": rf"(?:[Hh]is|[Hh]er) (?P<thing>{_THING})",
        "price": r"(?P<amount>\d+) crowns?",
        "place": rf"(?P<place>{_NAME})",
        "person": rf"(?P<person>{_NAME})",
        "other": rf"(?P<other>{_NAME})",
        "seller": _NAME,
        "buyer": _NAME,
        "giver": _NAME,
        "recipient": _NAME,
        "job": r"[Aa]n? [a-z][A-Za-z' -]*?",
        "hero": "\x01",
        **dict.fromkeys(("he", "phe"), "s?he"),
        **dict.fromkeys(("him", "phim"), "(?:him|her)"),
        **dict.fromkeys(("his", "phis"), "(?:his|her)"),
        **dict.fromkeys(("himself", "phimself"), "(?:himself|herself)"),
    }
)
# Elements that tell of the same kind of event: whoever was met before is met again.
_SAME = {"Reunion": "Meeting"}
# Stands for the traveller's name while a sentence is matched, so that the patterns serve every story.
_HERO = "\x01"
_TITLE = re.compile(r"^This is the story of (?P<name>.+), called (?P<first>.+) from here on, told in chapters", re.M)
_HEADING = re.compile(r"^Chapter (\d+)\n\n", re.M)
_END = re.compile(r"^The story ends here\.", re.M)
# Up to the first mark that ends a sentence; what may come before is in one class of characters, which is searched fast.
_CLOSE = r"[.!?]”?(?=\s)(?! [a-z])"
_SENTENCE = re.compile(rf"[^\n][^\n.!?]*(?:(?!{_CLOSE})[.!?][^\n.!?]*)*{_CLOSE}")
# These begin with a text, for which expressions are searched much faster than for a class of characters.
_DATE = re.compile(r"day, (\d{1,2}) ([A-Z][a-z]+) (\d{4})\b")
_WEEKDAY = re.compile(r"\b[A-Z][a-z]+$")
_LETTERS = 20  # of a weekday, at most
_MONTHS = list(month_name)


@dataclass(frozen=True, slots=True)
class Fact:
    """One event as told: its kind, and what the sentence names."""

    kind: str
    sentence: str
    thing: str = ""
    amount: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A chapter as told."""

    number: int
    dates: list[tuple[str, date]]
    facts: list[Fact]

    def only(self, kind: str) -> Fact:
        """The one fact of a kind.

        Raises:
            DataError: There is none, or more than one.
        """
        facts = [fact for fact in self.facts if fact.kind == kind]
        if len(facts) != 1:
            raise DataError(f"chapter {self.number} tells {len(facts)} events of kind {kind}, not one")
        return facts[0]


@dataclass(frozen=True, slots=True)
class Story:
    """A story as told, with the question that follows it."""

    hero: str
    setting_out: Fact
    pages: list[Page]
    question: str

    def facts(self, *kinds: str) -> Iterator[tuple[Page, Fact]]:
        """The facts of these kinds, in order."""
        for page in self.pages:
            for fact in page.facts:
                if fact.kind in kinds:
                    yield page, fact


@lru_cache(maxsize=1)  # an oracle and the auditor read the same prompt, one after the other
def read(prompt: str) -> Story:
    """The story that a prompt tells.

    Raises:
        DataError: The prompt holds no story.
    """
    title = _TITLE.search(prompt)
    headings = list(_HEADING.finditer(prompt))
    ends = list(_END.finditer(prompt))
    if title is None or not headings or not ends:
        raise DataError("the prompt holds no whole story: title, chapters or end are missing")
    last = ends[-1].start()
    hero = title["first"]
    starts = [heading.start() for heading in headings] + [last]
    pages = []
    for heading, end in zip(headings, starts[1:], strict=True):
        text = prompt[heading.end() : end]
        pages.append(Page(int(heading[1]), _dates(text), list(_facts(text, hero))))
    opening = list(_facts(prompt[title.start() : starts[0]], hero))
    if [fact.kind for fact in opening] != ["SettingOut"]:
        raise DataError("the story does not begin with one setting out")
    return Story(hero, opening[0], pages, prompt[last:])


def audit(prompt: str) -> list[str]:
    """Replays the story that a prompt tells; every contradiction found, in words."""
    story = read(prompt)
    wrong: list[str] = []
    if any(after.number != page.number + 1 for page, after in pairwise(story.pages)):
        wrong.append("chapters are not numbered one by one")
    purse, owned, taken = story.setting_out.amount, set[str](), set[str]()
    yesterday: date | None = None
    for page in story.pages:
        where = f"chapter {page.number}"
        counts = Counter(fact.kind for fact in page.facts)
        for kind in ("Arrival", "Meeting"):
            if counts[kind] != 1:
                wrong.append(f"{where}: {counts[kind]} events of kind {kind}")
        if len(page.dates) != 1:
            wrong.append(f"{where}: {len(page.dates)} dates")
        for weekday, day in page.dates:
            if f"{day:%A}" != weekday:
                wrong.append(f"{where}: {day} was no {weekday}")
            if yesterday is not None and day != yesterday + timedelta(days=1):
                wrong.append(f"{where}: {day} does not follow {yesterday}")
            yesterday = day
        for fact in page.facts:
            if fact.kind in ("Purchase", "GiftReceived"):
                if fact.thing in taken:
                    wrong.append(f"{where}: {fact.thing} is acquired a second time")
                owned.add(fact.thing)
                taken.add(fact.thing)
            elif fact.kind in ("Sale", "GiftGiven", "Refused"):
                if fact.thing not in owned:
                    wrong.append(f"{where}: {fact.thing} is not the traveller's ({fact.kind})")
                if fact.kind != "Refused":
                    owned.discard(fact.thing)
            elif fact.thing in taken:
                wrong.append(f"{where}: {fact.thing} is the traveller's or was, and is told of as new ({fact.kind})")
            purse += {"Purchase": -fact.amount, "Sale": fact.amount, "Wage": fact.amount}.get(fact.kind, 0)
            if purse < 0:
                wrong.append(f"{where}: the purse holds {purse}")
    return wrong


def _dates(text: str) -> list[tuple[str, date]]:
    return [
        (f"{weekday[0]}day", date(int(found[3]), _MONTHS.index(found[2]), int(found[1])))
        for found in _DATE.finditer(text)
        if (weekday := _WEEKDAY.search(text[max(0, found.start() - _LETTERS) : found.start()]))
    ]


def _facts(text: str, hero: str) -> Iterator[Fact]:
    """The events that sentences tell of; the traveller's name is masked while they are matched."""
    matches = _phrasings().matches
    for sentence in _SENTENCE.findall(_named(hero).sub(_HERO, text)):
        sentence = sentence.lstrip()
        # Every piece of a phrasing brings the blank that precedes it, the first one too.
        if found := matches(f" {sentence}"):
            phrasing, match = found[0]
            groups = match.groupdict()
            # Somebody's family name may be the traveller's first name, so the mask comes off what was read too.
            who = (groups.get("place") or groups.get("person") or groups.get("other") or "").replace(_HERO, hero)
            told = sentence.replace(_HERO, hero)
            yield Fact(phrasing.kind, told, groups.get("thing") or "", int(groups.get("amount") or 0), who)


@lru_cache(maxsize=1)
def _named(hero: str) -> re.Pattern[str]:
    """Where a text names the traveller."""
    return re.compile(rf"{re.escape(hero)}(?<![^\s“]{re.escape(hero)})(?![^\s,.;:!?’”'–])")


@cache
def _phrasings() -> Phrasings:
    """All phrasings of events."""
    return Phrasings(
        Phrasing(_SAME.get(kind, kind), alternative, _SLOTS)
        for kind, rule in events().items()
        for alternative in rule.alternatives
    )
