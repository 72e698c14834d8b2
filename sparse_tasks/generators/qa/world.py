"""The world that the articles describe: people, firms and towns that never existed, and the facts between them.

Every fact is drawn here before it is told, so no two articles can contradict each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Final

from sparse_tasks.generators.prose.people import People
from sparse_tasks.generators.qa.phrases import capitals, lexicon
from sparse_tasks.generators.seeds import Stream

# Percentages of articles on towns and on firms; the others are on people.
_TOWNS, _FIRMS = 18, 22
_FEWEST_TOWNS, _FEWEST_FIRMS, _FEWEST_PEOPLE = 2, 2, 4
FEWEST: Final = _FEWEST_TOWNS + _FEWEST_FIRMS + _FEWEST_PEOPLE  # fewest articles that make a world
_BORN = (1780, 1920)
_CHARTERS = (1080, 1690)


@dataclass(slots=True, eq=False)
class Entity:
    """A person, firm or town with an article."""

    kind: str  # ``person``, ``firm`` or ``town``
    name: str  # title of the article
    year: int  # of birth, founding or charter
    short: str = ""  # short name of a person
    female: bool = False  # gender of a person, for pronouns
    facts: dict[str, Entity | str] = field(default_factory=dict)  # values by relation
    years: dict[str, int] = field(default_factory=dict)  # of facts by relation, where they have one
    mentions: list[tuple[str, Entity]] = field(default_factory=list)  # relation and subject whose value it is

    def set(self, relation: str, value: Entity | str, year: int | None = None) -> None:
        self.facts[relation] = value
        if year is not None:
            self.years[relation] = year
        if isinstance(value, Entity):
            value.mentions.append((relation, self))


@dataclass(frozen=True, slots=True)
class World:
    """All entities."""

    people: list[Entity]
    firms: list[Entity]
    towns: list[Entity]

    def entities(self) -> list[Entity]:
        return self.people + self.firms + self.towns


def simulate(stream: Stream, articles: int, locale: str) -> World:
    """A world of this many articles; names of people come from a locale of faker."""
    towns = max(_FEWEST_TOWNS, articles * _TOWNS // 100)
    firms = max(_FEWEST_FIRMS, articles * _FIRMS // 100)
    names = _Names(stream.fork("names"))
    world = World(
        _people(stream.fork("people"), articles - towns - firms, locale),
        [_firm(names) for _ in range(firms)],
        _towns(stream.fork("towns"), names, towns),
    )
    _landmarks(stream.fork("landmarks"), world)
    _foundings(stream.fork("foundings"), world)
    _lives(stream.fork("lives"), world)
    return world


class _Names:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._taken: set[str] = set()
        self._syllables = {row[0]: row[1].split(",") for row in lexicon("syllables.tsv")}

    def name(self, kind: str) -> str:
        """A new name: a first syllable, a middle and an ending; more middles once many are taken."""
        for tries in count():
            parts = ("first", *("middle",) * (1 + tries // 20), kind)
            name = "".join([self.stream.choice(self._syllables[part]) for part in parts])
            if name not in self._taken:
                break
        self._taken.add(name)
        return name


def _people(stream: Stream, n: int, locale: str) -> list[Entity]:
    """People in the order of their births, with professions."""
    drawn = People(stream.fork("names"), locale)
    # Few professions for few people, so that a profession alone identifies nobody.
    names = [row[0] for row in lexicon("professions.txt")]
    professions = stream.sample(names, min(len(names), max(3, n // 3)))
    namesakes: dict[bool, str] = {}
    people: list[Entity] = []
    taken: set[str] = set()
    for born in sorted(stream.between(*_BORN) for _ in range(n)):
        while True:
            person = drawn.person()
            given_first = person.name.startswith(f"{person.first} ")
            family = person.name[len(person.first) + 1 :] if given_first else person.name[: -len(person.first) - 1]
            # One in four repeats an earlier first name, so that a first name alone identifies nobody.
            shared = namesakes.setdefault(person.female, person.first)
            first = shared if stream.below(4) == 0 else person.first
            name = f"{first} {family}" if given_first else f"{family} {first}"
            if name not in taken:
                break
        if stream.below(3) == 0:
            namesakes[person.female] = person.first
        taken.add(name)
        # A family name that is also a word of the articles (An, In) is never used alone.
        short = family[0].title() + family[1:]
        people.append(Entity("person", name, born, name if short in capitals() else short, person.female))
        people[-1].set("profession", stream.choice(professions))
    return people


def _firm(names: _Names) -> Entity:
    # The name does not reveal the product.
    firm = Entity("firm", f"{names.name('firm')} {names.stream.choice(lexicon('firms.txt'))[0]}", 0)
    firm.set("product", names.stream.choice(lexicon("products.txt"))[0])
    return firm


def _towns(stream: Stream, names: _Names, n: int) -> list[Entity]:
    regions = [names.name("region") for _ in range(max(3, n // 4))]
    rivers = [f"River {names.name('river')}" for _ in range(max(3, n // 2))]
    towns = [Entity("town", names.name("town"), stream.between(*_CHARTERS)) for _ in range(n)]
    for town in towns:
        town.set("charter", str(town.year))
        town.set("region", stream.choice(regions))
        town.set("river", stream.choice(rivers))
    return towns


def _landmarks(stream: Stream, world: World) -> None:
    """Each town gets a landmark, designed by a person of any profession."""
    for town, designer in zip(world.towns, stream.sample(world.people, len(world.towns)), strict=True):
        town.set("landmark", stream.choice(lexicon("landmarks.txt"))[0])
        town.set("designer", designer, designer.year + stream.between(28, 60))


def _foundings(stream: Stream, world: World) -> None:
    """Each firm gets a founder, who founds no other, and a seat."""
    for firm, founder in zip(world.firms, stream.sample(world.people, len(world.firms)), strict=True):
        firm.year = founder.year + stream.between(24, 45)
        firm.set("founder", founder, firm.year)
        firm.set("seat", stream.choice(world.towns))


def _lives(stream: Stream, world: World) -> None:
    """Birthplaces, teachers, employers, homes and marriages."""
    people, firms = world.people, sorted(world.firms, key=lambda firm: firm.year)
    births, foundings = [person.year for person in people], [firm.year for firm in firms]
    founders = {id(firm.facts["founder"]) for firm in firms}
    for person in people:
        born = person.year
        birthplace, home = stream.sample(world.towns, 2)
        person.set("birthplace", birthplace, born)
        # A teacher is older by 15 to 45 years.
        teachers = range(bisect_left(births, born - 45), bisect_right(births, born - 15))
        if teachers and stream.below(4):
            person.set("teacher", people[stream.choice(teachers)])
        employers = range(bisect_left(foundings, born - 80), bisect_right(foundings, born + 40))
        if employers and id(person) not in founders:
            firm = firms[stream.choice(employers)]
            person.set("employer", firm, max(born + 18, firm.year) + stream.between(0, 12))
        person.set("home", home, born + stream.between(22, 58))
    for one, other in pairwise(people):
        near = other.year - one.year <= 12 and one.female != other.female
        if near and "spouse" not in one.facts and stream.below(3):
            year = other.year + stream.between(20, 34)
            one.set("spouse", other, year)
            other.set("spouse", one, year)
