"""A ledger: the purse and the things carried, day after day of a terse story (high dispersion, high scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.people import People
from sparse_tasks.generators.prose.words import with_article
from sparse_tasks.generators.reason.task import ReasonTask
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import events, lexicon, scenes
from sparse_tasks.generators.story.language import language
from sparse_tasks.generators.story.narrator import FILLER
from sparse_tasks.generators.story.reader import Fact, Story, read
from sparse_tasks.generators.story.words import Thing, Things, crowns
from sparse_tasks.generators.story.world import Event
from sparse_tasks.generators.task import TASKS, Draft, Mark, Offer, Passage, parameter

_SPECIMENS = 160
_END = "The story ends here."
_SENTENCES = (4, 2, 1, 0)  # of filler paragraphs, from large to small; 0 is a short sentence alone
_FIRST = 100  # the first chapter's number is drawn up to this one
_MONEY = ("Purchase", "Sale", "Wage")  # what moves crowns
_MOVES = (*_MONEY, "GiftReceived", "GiftGiven")  # what changes the purse or the things carried
_IN, _OUT = ("Purchase", "GiftReceived"), ("Sale", "GiftGiven")


@dataclass(frozen=True)
class ReasonLedger(ReasonTask):
    """Asks for the purse and all things carried at the end of each chapter in which either changes.

    A traveller sets out with a purse. In ``steps`` chapters one thing happens that changes what is owned, among
    ``distractors`` events that only look like it; in all others those alone are told. No more than ``things`` are
    carried at a time, so that lines do not grow. Its unit is the chapter, of one day each.
    """

    things: int = parameter(3, "most things that are carried at a time", 1, 12)
    distractors: int = parameter(1, "events a chapter that only look like a change", 0, 8)

    name: ClassVar[str] = "reason_ledger"
    summary: ClassVar[str] = "the purse and the things carried after each change, day by day"

    def line_tokens(self) -> int:
        return 16 + 10 * self.things

    def smallest(self) -> int:
        return self.steps + 1

    def specimens(self, stream: Stream, size: int) -> list[str]:
        journey = _Journey(stream, self.things)
        changes = max(1, min(_SPECIMENS, _SPECIMENS * self.steps // size))
        return [journey.chapter(i, i < changes, self.distractors).text for i in range(_SPECIMENS)]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        journey = _Journey(stream.fork("journey"), self.things)
        first = stream.fork("first").between(1, _FIRST)
        changing = set(stream.fork("changing").sample(range(size), self.steps))
        body = [journey.chapter(first + i, i in changing, self.distractors) for i in range(size)]
        ask, form = _ask(journey.first, self.steps)
        filler = stream.fork("filler")
        return Draft(
            intro=journey.intro,
            body=body,
            preview=prompts.preview("a story", ask, form),
            question=prompts.question(_END, ask, form),
            answer="\n".join(journey.lines),
            answers=journey.lines,
            offers=[partial(journey.filler, filler, body, sentences) for sentences in _SENTENCES],
            marks=lambda: journey.marks,
            drawn={"chapters": size},
        )

    def oracle(self, prompt: str) -> str:
        story = read(prompt)
        purse, carried, lines = story.setting_out.amount, list[str](), list[str]()
        for page in story.pages:
            moves = page.of(*_MOVES)
            for fact in moves:
                purse += _paid(fact)
                if fact.kind in _IN:
                    carried.append(fact.thing)
                elif fact.kind in _OUT:
                    if fact.thing not in carried:
                        raise DataError(f"chapter {page.number}: {fact.thing} is not carried ({fact.kind})")
                    carried.remove(fact.thing)
            if moves:
                lines.append(_line(page.number, purse, carried))
        stated = re.search(r"In exactly (\d+) chapters ", story.question)
        if stated is None or int(stated[1]) != len(lines):
            raise DataError(f"{len(lines)} chapters bring a change, which is not what the question says")
        return "\n".join(lines)

    def audit(self, prompt: str) -> list[str]:
        story = read(prompt)
        wrong = []
        if any(after.number != page.number + 1 for page, after in pairwise(story.pages)):
            wrong.append("chapters are not numbered one by one")
        return wrong + _contradictions(story)


def _ask(hero: str, steps: int) -> tuple[str, str]:
    """The question and the form of its answer."""
    return (
        f"In exactly {steps} chapters something happens that changes how many crowns are in {hero}'s purse or which "
        f"things {hero} carries. What does the purse hold and what does {hero} carry at the end of each of these "
        f"chapters? {hero} sets out carrying nothing. Only what {hero} buys, sells, earns, gives away or is given "
        "changes anything; what is looked at, offered, refused or heard of does not.",
        "a line for each of these chapters, in their order, with its number, a colon, the crowns in the purse, and "
        "behind a semicolon each the things carried, in the order in which they came, named as in the story without "
        'articles, or the word nothing: "Chapter NUMBER: CROWNS; THING; THING".',
    )


def _line(chapter: int, purse: int, carried: list[str]) -> str:
    return f"Chapter {chapter}: {'; '.join([str(purse), *(carried or ['nothing'])])}"


def _contradictions(story: Story) -> list[str]:
    """What the story says against itself: of things and of money."""
    wrong: list[str] = []
    purse, carried, taken = story.setting_out.amount, set[str](), set[str]()
    for page in story.pages:
        moves = 0
        for fact in page.facts:
            purse += _paid(fact)
            moves += fact.kind in _MOVES
            if fact.kind in (*_OUT, "Refused"):
                if fact.thing not in carried:
                    wrong.append(f"chapter {page.number}: {fact.thing} is not the traveller's ({fact.kind})")
            elif fact.thing in taken:
                wrong.append(f"chapter {page.number}: {fact.thing} is told of as new ({fact.kind})")
            if fact.kind in _IN:
                carried.add(fact.thing)
                taken.add(fact.thing)
            elif fact.kind in _OUT:
                carried.discard(fact.thing)
        if purse < 0:
            wrong.append(f"chapter {page.number}: the purse holds {purse}")
        if moves > 1:
            wrong.append(f"chapter {page.number}: {moves} changes")
    return wrong


def _paid(fact: Fact) -> int:
    """Crowns that an event brings, below 0 where it costs them."""
    return -fact.amount if fact.kind == "Purchase" else fact.amount if fact.kind in _MONEY else 0


class _Journey:
    """A journey that is simulated as it is told.

    Attributes:
        intro: The title, and how the traveller sets out.
        first: The traveller's first name.
        lines: A line for each chapter that changed something.
        marks: The sentences that tell of these changes.
    """

    def __init__(self, stream: Stream, most: int) -> None:
        self._stream = stream
        self._most = most
        self._people = People(stream.fork("people"), "en_US")
        self._things = Things(stream.fork("things"))
        hero = self._people.hero()
        self.first = hero.first
        self._slots = {"hero": hero.first, **language().pronouns[hero.female]}
        self._purse = stream.between(300, 500)
        self._carried: list[Thing] = []
        self.lines: list[str] = []
        self.marks: list[Mark] = []
        self.intro = (
            f"The Accounts of {hero.name}\n\n"
            f"This is the story of {hero.name}, called {hero.first} from here on, told in chapters of one day each.\n\n"
            f"{self._sentence(Event('SettingOut', {'price': crowns(self._purse)}))}\n\n"
        )

    def chapter(self, number: int, changing: bool, distractors: int) -> Passage:
        """The next chapter; every one has as many events, so that none shows by its length."""
        at = self._stream.below(distractors + 1) if changing else -1
        passage = Passage(f"Chapter {number}\n\n")
        for i in range(distractors + 1):
            event = self._change() if i == at else self._idle()
            start, sentence = len(passage.text), self._sentence(event)
            passage.text += f"{sentence} "
            if i == at:
                label = str(event.amount) if event.kind in _MONEY else event.thing.name if event.thing else ""
                self.marks.append(Mark(passage, start, passage, start + len(sentence), label))
        passage.text = passage.text[:-1] + "\n\n"
        if changing:
            self.lines.append(_line(number, self._purse, [thing.name for thing in self._carried]))
        return passage

    def filler(self, stream: Stream, body: list[Passage], sentences: int) -> Offer:
        """A paragraph of so many sentences in which nothing happens, behind any chapter."""
        elements = stream.sample(FILLER, sentences) or ["Short"]
        text = " ".join(self._filled(scenes()[element].expand(stream), {}) for element in elements) + "\n\n"
        passage = stream.choice(body)
        return Offer([text], [], lambda: passage.followers.append(text))

    def _change(self) -> Event:
        stream = self._stream
        kinds = ["Wage"]
        if len(self._carried) < self._most:
            kinds += ["Purchase", "Purchase", "GiftReceived"]
        if self._carried:
            kinds += ["Sale", "GiftGiven"]
        kind = stream.choice(kinds)
        if kind in _OUT:
            thing = self._carried.pop(stream.below(len(self._carried)))
            slots = {"the_item": f"the {thing.name}", "his_item": f"{self._slots['his']} {thing.name}"}
            if kind == "GiftGiven":
                return Event(kind, slots | {"recipient": _somebody(stream, "recipients.txt")}, thing)
            price = _price(stream, thing)
            self._purse += price
            return Event(
                kind, slots | {"price": crowns(price), "buyer": _somebody(stream, "dealers.txt")}, thing, price
            )
        if kind in _IN:
            thing = self._things.thing()
            slots = {"a_item": with_article(thing.name)}
            price = 0 if kind == "GiftReceived" else _price(stream, thing)
            if price <= self._purse:
                self._purse -= price
                self._carried.append(thing)
                slots |= {"giver": _somebody(stream, "givers.txt"), "seller": _somebody(stream, "vendors.txt")}
                return Event(kind, slots | {"price": crowns(price)}, thing, price)
        # Whoever cannot pay for a thing has to earn something first.
        wage = stream.between(8, 90)
        self._purse += wage
        return Event("Wage", {"price": crowns(wage)}, amount=wage)

    def _idle(self) -> Event:
        """Something that changes nothing."""
        stream = self._stream
        kind = stream.choice(("Seen", "Asked", "Hearsay", *(("Refused",) if self._carried else ())))
        thing = stream.choice(self._carried) if kind == "Refused" else self._things.thing()
        price = _price(stream, thing)
        return Event(
            kind,
            {
                "a_item": with_article(thing.name),
                "the_item": f"the {thing.name}",
                "his_item": f"{self._slots['his']} {thing.name}",
                "price": crowns(price),
                "other": self._people.person().name if kind == "Hearsay" else "",
            },
            thing,
            price,
        )

    def _sentence(self, event: Event) -> str:
        return self._filled(events()[event.kind].expand(self._stream), event.slots)

    def _filled(self, sentence: str, slots: dict[str, str]) -> str:
        filled = sentence.format_map(self._slots | slots)
        return filled[0].title() + filled[1:]


def _price(stream: Stream, thing: Thing) -> int:
    return max(1, thing.worth * stream.between(70, 150) // 100)


def _somebody(stream: Stream, names: str) -> str:
    return stream.choice(lexicon(names))[0]


TASKS.register(ReasonLedger.name, ReasonLedger)
