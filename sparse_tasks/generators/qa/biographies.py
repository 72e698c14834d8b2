"""Open questions on articles about people, firms and towns that never existed (low dispersion, low scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.qa.narrator import FactKey, Narrator
from sparse_tasks.generators.qa.reader import audit, read
from sparse_tasks.generators.qa.world import Entity, World, simulate
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.people import locales
from sparse_tasks.generators.task import TASKS, Draft, Task, parameter

__all__ = ["QaBiographies"]

_SPECIMENS = 240
_INTRO = "Below are articles on people, firms and towns, in no particular order.\n\n"
_END = "The articles end here."
_FORM = "nothing but the answer, as the articles write it: a name in full, a year or a few words."
# For so many subjects a kind of question is tried before another is drawn.
_SUBJECTS = 12
# Filler paragraphs by their number of sentences, from large to small; 0 is a short aside.
_FILLER = (4, 2, 1, 0)

# How something is called in a question.
_CALLED = {"person": "{x}", "firm": "the firm {x}", "town": "the town of {x}"}
# How a question calls what it leaves to be found, the first hop of two: by relation what it is asked of, what it finds,
# and the words.
_FOUND_BY = {
    "birthplace": ("person", "town", "the town in which {x} was born"),
    "home": ("person", "town", "the town in which {x} settled"),
    "employer": ("person", "firm", "the firm for which {x} worked"),
    "teacher": ("person", "person", "the teacher of {x}"),
    "spouse": ("person", "person", "the person whom {x} married"),
    "founder": ("firm", "person", "the founder of {x}"),
    "seat": ("firm", "town", "the town in which {x} had its seat"),
    "designer": ("town", "person", "the designer of the landmark of {x}"),
}
# What is asked, by relation: the only hop, or the last of two.
_ASKS = {
    "born": "In which year was {x} born?",
    "birthplace": "In which town was {x} born?",
    "profession": "What was the profession of {x}?",
    "teacher": "Who was the teacher of {x}?",
    "employer": "For which firm did {x} work?",
    "spouse": "Whom did {x} marry?",
    "home": "In which town did {x} settle?",
    "firm": "Which firm did {x} found?",
    "product": "What did {x} make?",
    "founder": "Who founded {x}?",
    "founded": "In which year was {x} founded?",
    "seat": "In which town did {x} have its seat?",
    "region": "In which region does {x} lie?",
    "river": "On which river does {x} stand?",
    "chartered": "In which year did {x} receive its charter?",
    "designer": "Who designed the landmark of {x}?",
}
_ASKED_OF = {
    "person": ("born", "birthplace", "profession", "teacher", "employer", "spouse", "home", "firm"),
    "firm": ("product", "founder", "founded", "seat"),
    "town": ("region", "river", "chartered", "designer"),
}
# Kinds of questions of one hop: each is as likely as the others.
_ONE_HOP = [(kind, asked) for kind, relations in _ASKED_OF.items() for asked in relations]
# Years are told in the sentence of another relation.
_TOLD_WITH = {"born": "birthplace", "founded": "founder", "chartered": "charter"}


def _hops() -> tuple[str, ...]:
    return ("1", "2", "any")


@dataclass(frozen=True, slots=True)
class _Question:
    """A question, with the facts that it takes.

    Attributes:
        ask: The question.
        answers: The gold answer and other ways to write it.
        relations: What is looked up, in order.
        facts: The facts that say it, in order: relation and whose it is.
        labels: What their sentences name, in order.
    """

    ask: str
    answers: list[str]
    relations: list[str]
    facts: list[FactKey]
    labels: list[str]


@dataclass(frozen=True)
class QaBiographies(Task):
    """Asks for a fact of one article, or of two where the first names what the second is about.

    The articles describe an invented world, so that no model has read of it. Its unit is the article.
    """

    locale: str = parameter("en_US", "where names of people come from: a locale of faker", choices=locales)
    hops: str = parameter("any", "articles that the answer takes; any: as many samples of one as of two", choices=_hops)

    name: ClassVar[str] = "qa_biographies"
    summary: ClassVar[str] = "open questions of one or two hops on articles about an invented world"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "token_f1"
    steerable: ClassVar[bool] = True
    stand_in: ClassVar[bool] = True

    def smallest(self) -> int:
        return World.smallest()

    def units(self, size: int) -> int:
        return size

    def specimens(self, stream: Stream, size: int) -> list[str]:
        entities = simulate(stream.fork("world"), max(self.smallest(), min(size, _SPECIMENS)), self.locale).entities()
        told = Narrator(stream.fork("prose"), entities, []).articles
        return ["".join(passage.text for passage in article) for article in told]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        world = simulate(stream.fork("world"), size, self.locale)
        asking = stream.fork("question")
        hops = 1 + asking.below(2) if self.hops == "any" else int(self.hops)
        asked = _question(asking, world, hops)
        order = _ordered(stream.fork("order"), world, [subject for _, subject in asked.facts], depth)
        narrator = Narrator(stream.fork("prose"), order, asked.facts)
        filler = stream.fork("filler")
        return Draft(
            intro=_INTRO,
            body=narrator.body,
            preview=prompts.preview("a collection of articles", asked.ask, _FORM),
            question=prompts.question(_END, asked.ask, _FORM),
            answer=asked.answers[0],
            answers=asked.answers,
            offers=[partial(narrator.filler, filler, sentences) for sentences in _FILLER],
            marks=lambda: [
                narrator.told[fact].mark(label) for fact, label in zip(asked.facts, asked.labels, strict=True)
            ],
            fields={"question": asked.ask, "format": prompts.answer_format(_FORM)},
            drawn={"articles": size, "hops": hops, "relations": asked.relations},
        )

    def oracle(self, prompt: str) -> str:
        articles = read(prompt)
        lines = [line for line in articles.question.splitlines() if line.endswith("?")]
        if len(lines) != 1:
            raise DataError(f"{len(lines)} questions are asked, not one")
        name, relations = _understood(lines[0])
        for relation in relations:
            name = articles.subject("founder", name) if relation == "firm" else articles.value(relation, name)
        return name

    def audit(self, prompt: str) -> list[str]:
        return audit(prompt)


def _question(stream: Stream, world: World, hops: int) -> _Question:
    """A question that the articles answer in one way, and in no fewer hops than are meant.

    The kind of question is drawn first, so that kinds with few subjects are hardly rarer than others.
    """
    entities = {"person": world.people, "firm": world.firms, "town": world.towns}
    while True:
        first, (of, last) = None, stream.choice(_ONE_HOP)
        if hops == 2:
            first = stream.choice(list(_FOUND_BY))
            of, found, _ = _FOUND_BY[first]
            last = stream.choice(_ASKED_OF[found])
        for subject in stream.sample(entities[of], min(len(entities[of]), _SUBJECTS)):
            if (question := _asked(subject, first, last)) is not None:
                return question


def _asked(subject: Entity, first: str | None, last: str) -> _Question | None:
    """The question for one fact of ``subject``, or of what its ``first`` fact leads to; None if there is none."""
    phrase, target = "{x}", subject
    facts, labels = list[FactKey](), list[str]()
    if first is not None:
        between = subject.facts.get(first)
        if not isinstance(between, Entity):
            return None
        phrase, target = _FOUND_BY[first][2], between
        facts, labels = [(first, subject)], [target.name]
    answer = _value(target, last)
    if answer is None or (first is not None and answer in _named(subject)):
        return None
    if last == "firm" and (firm := _firm(target)) is not None:
        facts, labels = [*facts, ("founder", firm)], [*labels, target.name]
    else:
        facts, labels = [*facts, (_TOLD_WITH.get(last, last), target)], [*labels, answer]
    named = _CALLED[subject.kind].format(x=subject.name)
    return _Question(
        ask=_ASKS[last].format(x=phrase.format(x=named)),
        # A river may be named without the word.
        answers=[answer, answer.removeprefix("River ")] if last == "river" else [answer],
        relations=[last] if first is None else [first, last],
        facts=facts,
        labels=labels,
    )


def _value(of: Entity, relation: str) -> str | None:
    """What is to be answered; None if there is nothing."""
    if relation in ("born", "founded", "chartered"):
        return str(of.year)
    value = _firm(of) if relation == "firm" else of.facts.get(relation)
    return value.name if isinstance(value, Entity) else value


def _firm(founder: Entity) -> Entity | None:
    return next((of for relation, of in founder.mentions if relation == "founder"), None)


def _named(subject: Entity) -> set[str]:
    """All that the article on ``subject`` may name, so that no second article would be needed for it."""
    facts = {value.name if isinstance(value, Entity) else value for value in subject.facts.values()}
    years = {str(year) for year in (subject.year, *subject.years.values())}
    return facts | years | {subject.name} | {of.name for _, of in subject.mentions}


def _ordered(stream: Stream, world: World, gold: list[Entity], depth: Depth) -> list[Entity]:
    """All that has an article, in random order but for the gold ones, which are placed by depth."""
    others = [entity for entity in world.entities() if entity not in gold]
    stream.shuffle(others)
    places = depth.slots(stream, len(others) + len(gold), len(gold))
    order = list(others)
    shuffled = stream.sample(gold, len(gold))
    for place, entity in zip(places, shuffled, strict=True):
        order.insert(place, entity)
    return order


def _understood(question: str) -> tuple[str, list[str]]:
    """A question taken apart: whose name it gives, and what is to be looked up from there on, in order.

    Raises:
        DataError: It is no question of this task.
    """
    asked = [(relation, match[1]) for relation, words in _ASKS.items() if (match := _match(words, question))]
    if len(asked) != 1:
        raise DataError(f"the question can be read in {len(asked)} ways, not one: {question}")
    last, phrase = asked[0]
    relations = [last]
    while found := [(by, match[1]) for by, (_, _, words) in _FOUND_BY.items() if (match := _match(words, phrase))]:
        (first, phrase), *_ = found
        relations.insert(0, first)
    return phrase.removeprefix("the firm ").removeprefix("the town of "), relations


def _match(words: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(words).replace(r"\{x\}", "(.+)"), text)


TASKS.register(QaBiographies.name, QaBiographies)
