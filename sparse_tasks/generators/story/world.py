"""The story as a simulation: a traveller, a purse, things that change hands, one chapter a day.

Tasks say what has to happen (``Plan``); everything else is drawn. What is narrated has happened here first, so the text
cannot contradict itself: nobody sells what they do not own, and the purse adds up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta

from sparse_tasks.generators.prose.people import People, Person
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import ENGLISH, Language, language
from sparse_tasks.generators.story.words import Places, Thing, Things

# Below this many crowns the traveller seeks work.
_POOR = 120
# Probability of buying a thing that was looked at before.
_SECOND_THOUGHTS = 0.15
# Probability of meeting a known person again, if the task does not set whom to meet.
_OLD_FRIENDS = 0.25
# Probability of returning to a place.
_OLD_PLACES = 0.1
# Probability that an unpaid price is as high as the dearest purchase, if the task asks for that.
_DEARER = 0.25
# Probability that the other party of a deal is the person of the chapter rather than an unnamed one.
_NAMED = 0.5


@dataclass(slots=True, eq=False)
class Event:
    """Something that happens.

    Attributes:
        kind: The grammar's name for it (``Purchase``).
        slots: Values of the sentence's slots.
        thing: What it is about, if anything.
        amount: Crowns that are paid, earned, asked or offered; 0 if none.
    """

    kind: str
    slots: dict[str, str]
    thing: Thing | None = None
    amount: int = 0


@dataclass(slots=True, eq=False)
class Chapter:
    """One day: where, with whom, and what happened, in order."""

    number: int
    day: date
    person: Person
    place: str
    arrival: Event
    meeting: Event
    events: list[Event]


@dataclass(slots=True, eq=False)
class Chronicle:
    """Everything that happened.

    Attributes:
        hero: The traveller.
        setting_out: How the journey began; its amount is the purse.
        chapters: The days.
        purse: Crowns at the end.
        owned: What the traveller owns at the end.
        tongue: The language in which it is told.
    """

    hero: Person
    setting_out: Event
    chapters: list[Chapter]
    purse: int
    owned: set[Thing]
    tongue: Language

    def happened(self, *kinds: str) -> list[tuple[Chapter, Event]]:
        """All events of these kinds, in order."""
        return [(chapter, event) for chapter in self.chapters for event in chapter.events if event.kind in kinds]


@dataclass(frozen=True, slots=True)
class Demand:
    """An event that has to happen, about a thing of the reserved material.

    Attributes:
        kind: The event.
        regarding: For a sale or a gift, the chapter in which the thing was acquired; else None, and the thing is new.
    """

    kind: str
    regarding: int | None = None


@dataclass(slots=True)
class Plan:
    """Demands of a task on the story; chapters count from 0 here.

    Attributes:
        acquisitions: For each chapter ``Purchase``, ``GiftReceived`` or None; at most one a chapter is planned.
        locale: Where the names come from.
        distractors: Mean number of other events a chapter.
        gifts: Whether gifts to the traveller may be among them.
        reserved: A material of which things are made only where the plan says so.
        reserved_acquisitions: Chapters whose acquisition is made of it.
        demands: Further events of it, by chapter.
        company: For each chapter a number that stands for the person met; None leaves it to chance.
        dearest: A chapter whose purchase costs more than all others.
        margins: By the chapter of a purchase that the plan sells again, whether that brings more (1),
            less (-1) or just as much (0).
        topic: What the task wants to know again when it asks.
        first: Number of the first chapter.
        language: Code of the language in which it is told.
    """

    acquisitions: list[str | None]
    locale: str
    distractors: int
    gifts: bool
    reserved: str | None = None
    reserved_acquisitions: set[int] = field(default_factory=set)
    demands: dict[int, list[Demand]] = field(default_factory=dict)
    company: list[int] | None = None
    dearest: int | None = None
    margins: dict[int, int] = field(default_factory=dict)
    topic: str = ""
    first: int = 1
    language: str = ENGLISH


def simulate(stream: Stream, plan: Plan) -> Chronicle:
    """Simulate a journey that follows the plan."""
    return _Journey(stream, plan).chronicle()


class _Journey:
    def __init__(self, stream: Stream, plan: Plan) -> None:
        self.stream = stream
        self.plan = plan
        self.tongue = language(plan.language)
        self.people = People(stream.fork("people"), plan.locale, self.tongue.jobs, self.tongue.called == "name")
        self.things = Things(stream.fork("things"), plan.reserved, plan.language)
        self.places = Places(stream.fork("places"), plan.language)
        self.hero = self.people.hero()
        self.purse = stream.between(300, 500)
        # Things that may be sold or given away by chance: those of the reserved material move only as planned, and
        # nothing leaves on the day it came.
        self.at_hand: list[Thing] = []
        self.fresh: list[Thing] = []
        self.reserved: dict[int, Thing] = {}
        self.paid: dict[int, int] = {}
        self.owned: set[Thing] = set()
        self.tempting: list[tuple[int, Thing]] = []
        self.acquaintances: list[Person] = []
        self.company: dict[int, Person] = {}
        self.visited: list[str] = []
        self.yesterday = ""

    def chronicle(self) -> Chronicle:
        setting_out = Event("SettingOut", {"price": self.tongue.price(self.purse)}, amount=self.purse)
        first = date(self.stream.between(*self.tongue.years), 1, 1) + timedelta(days=self.stream.below(365))
        chapters = [self._chapter(i, first + timedelta(days=i)) for i in range(len(self.plan.acquisitions))]
        return Chronicle(self.hero, setting_out, chapters, self.purse, self.owned, self.tongue)

    def _chapter(self, i: int, day: date) -> Chapter:
        person, place = self._person(i), self._place()
        self.at_hand += self.fresh
        self.fresh.clear()
        arrival = Event("Arrival", {"place": place})
        meeting = Event("Meeting", {"person": person.name, "job": person.job})
        events: list[Event] = []
        if self.purse < _POOR:
            events.append(self._wage(self.stream.between(40, 90)))
        for kind, demand in self._happenings(i):
            events += self._event(kind, demand, i, person)
        return Chapter(self.plan.first + i, day, person, place, arrival, meeting, events)

    def _happenings(self, i: int) -> list[tuple[str, Demand | None]]:
        """Events of the day, in order; a thing that is to go must have come before."""
        stream, plan = self.stream, self.plan
        happenings: list[tuple[str, Demand | None]] = []
        if acquisition := plan.acquisitions[i]:
            happenings.append((acquisition, Demand(acquisition) if i in plan.reserved_acquisitions else None))
        # One more if nothing is acquired, or such a day would be recognisable by its length.
        spread = min(plan.distractors, 1)
        others = plan.distractors + stream.between(-spread, spread) + (spread if acquisition is None else 0)
        for _ in range(others):
            happenings.append((stream.choice(_DISTRACTORS if plan.gifts else _DISTRACTORS_BUT_GIFTS), None))
        demands = plan.demands.get(i, [])
        happenings += [(d.kind, d) for d in demands if d.regarding is None]
        stream.shuffle(happenings)
        return happenings + [(d.kind, d) for d in demands if d.regarding is not None]

    def _event(self, kind: str, demand: Demand | None, i: int, person: Person) -> list[Event]:
        material = self.plan.reserved if demand else None
        if kind == "Purchase":
            return self._purchase(material, i, person)
        if kind == "GiftReceived":
            thing = self.things.thing(material)
            self._own(thing, material, i)
            return [Event(kind, self._item(thing) | self._party("giver", person, "givers.txt"), thing)]
        if kind in ("Sale", "GiftGiven", "Refused"):
            return self._part_with(kind, demand, i, person)
        if kind == "Wage":
            return [self._wage(self.stream.between(8, 40))]
        thing = self.things.thing(material)
        slots = self._item(thing)
        if material is None and kind != "Hearsay":
            self.tempting.append((i, thing))
        if kind == "Seen":
            return [Event(kind, slots, thing)]
        # Too expensive, or reportedly paid by another person.
        price = max(2, thing.worth * self.stream.between(*((115, 190) if kind == "Asked" else (80, 150))) // 100)
        if self.plan.dearest is not None and self.stream.uniform() < _DEARER:
            # The dearest thing is not the one bought.
            price = self.stream.between(165, 260)
        if kind == "Hearsay":
            slots["other"] = self._absent(person).name
        return [Event(kind, slots | {"price": self.tongue.price(price)}, thing, price)]

    def _purchase(self, material: str | None, i: int, person: Person) -> list[Event]:
        stream = self.stream
        earlier = [k for k, (chapter, _) in enumerate(self.tempting) if chapter < i]
        if material is None and earlier and stream.uniform() < _SECOND_THOUGHTS:
            thing = self.tempting.pop(stream.choice(earlier))[1]
        else:
            thing = self.things.thing(material)
        del self.tempting[:-20]
        price = max(1, thing.worth * stream.between(85, 115) // 100)
        if self.plan.dearest is not None:
            # The dearest purchase differs only in its price.
            price = stream.between(165, 205) if i == self.plan.dearest else min(price, stream.between(120, 160))
        if material is not None and i in self.plan.margins:
            self.paid[i] = price = max(price, 2)  # so that a lower price exists
        events = []
        if price > self.purse:
            events.append(self._wage(price - self.purse + stream.between(5, 40)))
        self.purse -= price
        self._own(thing, material, i)
        slots = self._item(thing) | {"price": self.tongue.price(price)} | self._party("seller", person, "vendors.txt")
        return [*events, Event("Purchase", slots, thing, price)]

    def _own(self, thing: Thing, material: str | None, i: int) -> None:
        self.owned.add(thing)
        if material is None:
            self.fresh.append(thing)
        else:
            self.reserved[i] = thing

    def _part_with(self, kind: str, demand: Demand | None, i: int, person: Person) -> list[Event]:
        stream = self.stream
        # A thing is not returned to its giver on the same day.
        known = None if demand is not None and demand.regarding == i else person
        if demand is not None and demand.regarding is not None:
            thing = self.reserved[demand.regarding]
        elif self.at_hand:
            k = stream.below(len(self.at_hand))
            thing = self.at_hand[k]
            if kind != "Refused":
                self.at_hand[k] = self.at_hand[-1]
                self.at_hand.pop()
        else:
            return []  # nothing to part with yet
        slots = self._item(thing)
        if kind == "GiftGiven":
            self.owned.remove(thing)
            return [Event(kind, slots | self._party("recipient", known, "recipients.txt"), thing)]
        price = max(1, thing.worth * stream.between(70, 160) // 100)
        if kind == "Sale":
            if demand is not None and demand.regarding in self.paid:
                paid = self.paid[demand.regarding]
                price = paid + self.plan.margins[demand.regarding] * stream.between(1, max(1, paid // 2))
            self.owned.remove(thing)
            self.purse += price
            slots |= self._party("buyer", known, "dealers.txt")
        return [Event(kind, slots | {"price": self.tongue.price(price)}, thing, price)]

    def _wage(self, amount: int) -> Event:
        self.purse += amount
        return Event("Wage", {"price": self.tongue.price(amount)}, amount=amount)

    def _person(self, i: int) -> Person:
        if self.plan.company is not None:
            number = self.plan.company[i]
            if number not in self.company:
                self.company[number] = self._new_person()
            return self.company[number]
        if self.acquaintances and self.stream.uniform() < _OLD_FRIENDS:
            return self.stream.choice(self.acquaintances)
        return self._new_person()

    def _new_person(self) -> Person:
        person = self.people.person()
        self.acquaintances.append(person)
        return person

    def _absent(self, present: Person) -> Person:
        """An absent person to hear of."""
        for _ in range(4):
            person = self.stream.choice(self.acquaintances)
            if person is not present:
                return person
        return self.people.person()

    def _place(self) -> str:
        place = self.stream.choice(self.visited) if self.visited and self.stream.uniform() < _OLD_PLACES else ""
        # The traveller does not arrive where they spent the night.
        if place in ("", self.yesterday):
            place = self.places.place()
            self.visited.append(place)
        self.yesterday = place
        return place

    def _item(self, thing: Thing) -> dict[str, str]:
        return self.tongue.item(thing.name, thing.sort, self.hero.female)

    def _party(self, slot: str, person: Person | None, others: str) -> dict[str, str]:
        if person is not None and self.stream.uniform() < _NAMED:
            return self.tongue.party(slot, [person.name])
        return self.tongue.party(slot, self.stream.choice(self.tongue.lexicon(others)))


_DISTRACTORS_BUT_GIFTS = ("Sale", "GiftGiven", "Seen", "Seen", "Asked", "Asked", "Refused", "Hearsay", "Wage")
_DISTRACTORS = (*_DISTRACTORS_BUT_GIFTS, "GiftReceived")
