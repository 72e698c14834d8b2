"""Reads a story back out of a prompt, and replays it: what the oracles and the auditor work on.

The reader knows the phrasing (the grammar files, compiled to patterns), but not the simulation or the narrator, so it
exposes their mistakes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.prose.phrasing import Phrasing, Phrasings, Slots
from sparse_tasks.generators.story.language import Language, language, languages

# No name holds a mark of punctuation.
_NAME = r"[^,.;:!?“”„–¿¡，。；：！？、（）]+?"
# Elements for the same kind of event: people met before are met again.
_SAME = {"Reunion": "Meeting"}
# Replaces the traveller's name while a sentence is matched, so that patterns work for every story.
_HERO = "\x01"


class Fact(NamedTuple):
    """One event as told: its kind, and what the sentence names."""

    kind: str
    sentence: str
    thing: str = ""
    amount: int = 0
    name: str = ""


@dataclass(eq=False)
class Page:
    """A chapter as told, read lazily.

    Attributes:
        number: Its number.
    """

    number: int
    _text: str
    _hero: str
    _reader: Reader

    @cached_property
    def dates(self) -> list[tuple[str, date]]:
        """Its dates, each with the stated weekday."""
        return self._reader.dates(self._text)

    @cached_property
    def facts(self) -> list[Fact]:
        """All that happens, in order."""
        return self._reader.facts(self._text, self._hero)

    def of(self, *kinds: str) -> list[Fact]:
        """The facts of these kinds, in order."""
        if "facts" in self.__dict__:
            return [fact for fact in self.facts if fact.kind in kinds]
        return self._reader.facts(self._text, self._hero, kinds)

    def only(self, kind: str) -> Fact:
        """The one fact of a kind.

        Raises:
            DataError: There is none, or more than one.
        """
        facts = self.of(kind)
        if len(facts) != 1:
            raise DataError(f"chapter {self.number} tells {len(facts)} events of kind {kind}, not one")
        return facts[0]


@dataclass(frozen=True, slots=True)
class Story:
    """A story as told, with the question that follows it."""

    tongue: Language
    hero: str
    setting_out: Fact
    pages: list[Page]
    question: str

    def facts(self, *kinds: str) -> Iterator[tuple[Page, Fact]]:
        """The facts of these kinds, in order."""
        for page in self.pages:
            for fact in page.of(*kinds):
                yield page, fact


@lru_cache(maxsize=1)  # an oracle and the auditor read the same prompt, one after the other
def read(prompt: str) -> Story:
    """The story that a prompt tells.

    Raises:
        DataError: The prompt holds no story.
    """
    for reader in map(reader_of, languages()):
        if title := reader.title.search(prompt):
            return reader.read(prompt, title)
    raise DataError("the prompt holds no whole story: title, chapters or end are missing")


def audit(prompt: str) -> list[str]:
    """Replay the story of a prompt, and return every contradiction in words."""
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
            if story.tongue.weekdays[day.weekday()] != weekday:
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


class Reader:
    """Reads stories of one language.

    Attributes:
        title: Matches the sentence in which a story names its traveller.
        sentence: Matches a sentence.
        slots: What the slots of the grammars may be.
    """

    def __init__(self, tongue: Language) -> None:
        self._tongue = tongue
        self.title = re.compile(rf"^{tongue.pattern('opening')}$", re.M)
        # Patterns that begin with literal characters are searched fast.
        self._heading = re.compile(rf"\n{tongue.pattern('chapter')}\n\n")
        # Any of several questions follows the story like the first one.
        openings = [tongue.pattern(key) for key in ("over", "next") if key in tongue.say]
        self._over = re.compile(rf"\n(?:{'|'.join(openings)})(?![^\n])")
        # Up to the first mark that ends a sentence; what may come before is in one class of characters, which is
        # searched fast.
        body, stop, end = rf"[^\n{tongue.stops}]*", f"[{tongue.stops}]", tongue.end
        self.sentence = re.compile(rf"[^\n]{body}(?:(?!{end}){stop}{body})*{end}")
        edge = r"\b" if tongue.blank else ""
        self._date = re.compile(tongue.pattern("date", weekday=tongue.weekdays, month=tongue.months) + edge)
        self.slots = _slots(tongue)
        phrasings = (
            Phrasing(_SAME.get(kind, kind), alternative, self.slots, tongue.blank)
            for kind, rule in tongue.events.items()
            for alternative in rule.alternatives
        )
        self._phrasings = Phrasings(phrasings, tongue.blank)
        self._by_kinds: dict[tuple[str, ...] | None, Phrasings] = {None: self._phrasings}

    def read(self, prompt: str, title: re.Match[str]) -> Story:
        """The story that a prompt tells, behind its title."""
        headings = list(self._heading.finditer(prompt))
        ends = list(self._over.finditer(prompt))
        if not headings or not ends:
            raise DataError("the prompt holds no whole story: title, chapters or end are missing")
        last = ends[-1].start()
        hero = title.groupdict().get("first") or title["name"]
        starts = [heading.start() for heading in headings] + [last]
        pages = [
            Page(int(heading["n"]), prompt[heading.end() : end], hero, self)
            for heading, end in zip(headings, starts[1:], strict=True)
        ]
        opening = self.facts(prompt[title.start() : starts[0]], hero)
        if [fact.kind for fact in opening] != ["SettingOut"]:
            raise DataError("the story does not begin with one setting out")
        return Story(self._tongue, hero, opening[0], pages, prompt[last:])

    def dates(self, text: str) -> list[tuple[str, date]]:
        """The dates in a text, each with the stated weekday."""
        months, words = self._tongue.months, bool(self._tongue.blank)
        return [
            (found["weekday"], date(int(found["year"]), months.index(found["month"]) + 1, int(found["day"])))
            for found in self._date.finditer(text)
            if not (words and text[found.start() - 1 : found.start()].isalnum())  # not part of a word
        ]

    def facts(self, text: str, hero: str, kinds: tuple[str, ...] | None = None) -> list[Fact]:
        """The events in a text, in order; only some kinds, or all.

        The traveller's name is masked while sentences are matched.
        """
        masked = _named(hero, self._tongue.blank).sub(_HERO, text)
        sentences = [sentence.lstrip() for sentence in self.sentence.findall(masked)]
        plain = [self._tongue.unsounded(sentence, _HERO) for sentence in sentences]
        facts = []
        for number, found in self._phrasings_of(kinds).matches_of_each(plain).items():
            if kinds is not None:
                # The reading among all kinds.
                found = self._phrasings.matches(plain[number])
            phrasing, match = found[0]
            if kinds is None or phrasing.kind in kinds:
                groups = match.groupdict()
                # Somebody's family name may be the traveller's first name, so the mask comes off what was read too.
                who = (groups.get("place") or groups.get("person") or groups.get("other") or "").replace(_HERO, hero)
                text = sentences[number].replace(_HERO, hero)
                facts.append(Fact(phrasing.kind, text, groups.get("item") or "", int(groups.get("count") or 0), who))
        return facts

    def _phrasings_of(self, kinds: tuple[str, ...] | None) -> Phrasings:
        if kinds not in self._by_kinds:
            self._by_kinds[kinds] = self._phrasings.of(kinds or ())
        return self._by_kinds[kinds]


@cache
def reader_of(code: str) -> Reader:
    """The reader of a language."""
    return Reader(language(code))


def _slots(tongue: Language) -> Slots:
    """What the slots of a language's grammars may be."""
    slots = dict.fromkeys(("job", *(f"{party}{end}" for party in _PARTIES for end in tongue.parties)), _NAME)
    slots |= {name: f"(?P<{name}>{_NAME})" for name in ("place", "person", "other")}
    slots |= {"hero": _HERO, "price": tongue.pattern("price")}
    for name in tongue.pronouns[True]:
        words = [pronouns[name] for pronouns in tongue.pronouns.values()]
        slots |= dict.fromkeys((name, f"P{name}" if name[0].isupper() else f"p{name}"), _either(words))
    for name, form in tongue.things.items():
        forms = [form] if isinstance(form, str) else form.values()
        words = [
            each.format_map({"thing": "", "sort": sort, **pronouns})
            for each in forms
            for sort in (tongue.sorts_of_nouns if "{sort}" in each else [""])
            for pronouns in tongue.pronouns.values()
        ]
        slots[name] = _either(words) + (f"(?P<item>{tongue.thing})" if any("{thing}" in each for each in forms) else "")
    return Slots(slots)


_PARTIES = ("seller", "buyer", "giver", "recipient")


def _either(words: list[str]) -> str:
    """A pattern for any of some words, possibly capitalised."""
    alternatives = []
    for word in dict.fromkeys(words):
        first = word[:1]
        cased = f"[{first.upper()}{first.lower()}]" if first.upper() != first.lower() else re.escape(first)
        alternatives.append(cased + re.escape(word[1:]))
    return alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"


@lru_cache(maxsize=1)
def _named(hero: str, blank: str) -> re.Pattern[str]:
    """A pattern for the traveller's name in a text, as a whole word in languages with blanks."""
    name = re.escape(hero)
    return re.compile(rf"{name}(?<![^\s“„¿¡]{name})(?![^\s,.;:!?’”“'–])" if blank else name)
