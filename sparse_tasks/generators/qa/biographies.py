"""Open questions on articles about people, firms and towns that never existed (low dispersion, low scope)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators import prompts
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.people import locales
from sparse_tasks.generators.qa.narrator import FactKey, Narrator
from sparse_tasks.generators.qa.reader import audit, read
from sparse_tasks.generators.qa.world import FEWEST, Entity, World, simulate
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Task, parameter

_SPECIMENS = 240
_INTRO = "Below are articles on people, firms and towns, in no particular order.\n\n"
_END = "The articles end here."
_FORM = "nothing but the answer, as the articles write it: a name in full, a year or a few words."
_SUBJECTS = 12  # subjects tried for a kind of question before another kind is drawn
_FILLER = (4, 2, 1, 0)  # sentences of filler paragraphs, from large to small; 0 is a short aside

_NAMED = {"person": "{x}", "firm": "the firm {x}", "town": "the town of {x}"}  # names of subjects in a question
# All hops but the last: by relation the kind of its subject, the kind of its value, and the phrase for the value.
_HOPS = {
    "birthplace": ("person", "town", "the town in which {x} was born"),
    "home": ("person", "town", "the town in which {x} settled"),
    "employer": ("person", "firm", "the firm for which {x} worked"),
    "teacher": ("person", "person", "the teacher of {x}"),
    "spouse": ("person", "person", "the person whom {x} married"),
    "founder": ("firm", "person", "the founder of {x}"),
    "seat": ("firm", "town", "the town in which {x} had its seat"),
    "designer": ("town", "person", "the designer of the landmark of {x}"),
}
# Questions by relation: the only hop, or the last one.
_QUESTIONS = {
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
_RELATIONS = {
    "person": ("born", "birthplace", "profession", "teacher", "employer", "spouse", "home", "firm"),
    "firm": ("product", "founder", "founded", "seat"),
    "town": ("region", "river", "chartered", "designer"),
}
# Questions of one hop, all equally likely.
_ONE_HOP = [(kind, relation) for kind, relations in _RELATIONS.items() for relation in relations]
# Relations that share their sentence with another one.
_SENTENCE_OF = {"born": "birthplace", "founded": "founder", "chartered": "charter"}


@dataclass(frozen=True, slots=True)
class _Question:
    """A question, with the facts that answer it, in look-up order."""

    text: str
    answers: list[str]  # the gold one and other ways to write it
    relations: list[str]
    facts: list[FactKey]
    labels: list[str]  # values in the sentences of the facts


@dataclass(frozen=True)
class QaBiographies(Task):
    """Asks for a fact of one article, or over several where each names what the next is about.

    The articles describe an invented world, unknown to any model. Its unit is the article.
    """

    locale: str = parameter("en_US", "faker's locale for names of people", choices=locales)
    hops: str = parameter(
        "any",
        "articles that the answer needs; any: one or two, equally often",
        choices=lambda: ("1", "2", "3", "4", "any"),
    )

    name = "qa_biographies"
    version = 2
    summary = "open questions of one or more hops on articles about an invented world"
    dispersion = "low"
    scope = "low"
    metric = "token_f1"
    steerable = True
    stand_in = True

    def smallest(self) -> int:
        return FEWEST

    def specimens(self, stream: Stream, size: int) -> list[str]:
        entities = simulate(stream.fork("world"), max(FEWEST, min(size, _SPECIMENS)), self.locale).entities()
        articles = Narrator(stream.fork("prose"), entities, []).articles
        return ["".join(passage.text for passage in article) for article in articles]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        world = simulate(stream.fork("world"), size, self.locale)
        draws = stream.fork("question")
        hops = 1 + draws.below(2) if self.hops == "any" else int(self.hops)
        question = _draw_question(draws, world, hops)
        order = _ordered(stream.fork("order"), world, [subject for _, subject in question.facts], depth)
        narrator = Narrator(stream.fork("prose"), order, question.facts)
        filler = stream.fork("filler")
        return Draft(
            intro=_INTRO,
            body=narrator.body,
            preview=prompts.preview("a collection of articles", question.text, _FORM),
            question=prompts.question(_END, question.text, _FORM),
            answer=question.answers[0],
            answers=question.answers,
            offers=[partial(narrator.filler, filler, sentences) for sentences in _FILLER],
            marks=lambda: [
                narrator.told[fact].mark(label) for fact, label in zip(question.facts, question.labels, strict=True)
            ],
            fields={"question": question.text, "format": prompts.answer_format(_FORM)},
            drawn={"articles": size, "hops": hops, "relations": question.relations},
        )

    def oracle(self, prompt: str) -> str:
        articles = read(prompt)
        lines = [line for line in articles.question.splitlines() if line.endswith("?")]
        if len(lines) != 1:
            raise DataError(f"{len(lines)} questions are asked, not one")
        name, relations = _parse(lines[0])
        for relation in relations:
            name = articles.subject("founder", name) if relation == "firm" else articles.value(relation, name)
        return name

    def audit(self, prompt: str) -> list[str]:
        return audit(prompt)


def _draw_question(stream: Stream, world: World, hops: int) -> _Question:
    """A question with exactly one answer in the articles, and not in fewer hops.

    The kind of question is drawn first, so that kinds with few subjects are almost as frequent as others.
    """
    entities = {"person": world.people, "firm": world.firms, "town": world.towns}
    while True:
        path, (of, last) = list[str](), stream.choice(_ONE_HOP)
        if hops > 1:
            path.append(stream.choice(list(_HOPS)))
            of, value, _ = _HOPS[path[0]]
            while len(path) < hops - 1:
                path.append(stream.choice([hop for hop, (kind, *_) in _HOPS.items() if kind == value]))
                value = _HOPS[path[-1]][1]
            last = stream.choice(_RELATIONS[value])
        for subject in stream.sample(entities[of], min(len(entities[of]), _SUBJECTS)):
            if (question := _question(subject, path, last)) is not None:
                return question


def _question(subject: Entity, path: list[str], last: str) -> _Question | None:
    """The question for a fact of what a path of relations leads to from ``subject``; None if there is none."""
    phrase, target = _NAMED[subject.kind].format(x=subject.name), subject
    passed, facts, labels = list[Entity](), list[FactKey](), list[str]()
    for relation in path:
        passed.append(target)
        value = target.facts.get(relation)
        if not isinstance(value, Entity) or value in passed:
            return None
        phrase = _HOPS[relation][2].format(x=phrase)
        facts, labels = [*facts, (relation, target)], [*labels, value.name]
        target = value
    answer = _value(target, last)
    if answer is None or any(answer in _content(entity) for entity in passed):
        return None
    if last == "firm" and (firm := _firm(target)) is not None:
        facts, labels = [*facts, ("founder", firm)], [*labels, target.name]
    else:
        facts, labels = [*facts, (_SENTENCE_OF.get(last, last), target)], [*labels, answer]
    return _Question(
        text=_QUESTIONS[last].format(x=phrase),
        # A river may be named without the word.
        answers=[answer, answer.removeprefix("River ")] if last == "river" else [answer],
        relations=[*path, last],
        facts=facts,
        labels=labels,
    )


def _value(of: Entity, relation: str) -> str | None:
    """Value of a relation as text; None if there is none."""
    if relation in ("born", "founded", "chartered"):
        return str(of.year)
    value = _firm(of) if relation == "firm" else of.facts.get(relation)
    return value.name if isinstance(value, Entity) else value


def _firm(founder: Entity) -> Entity | None:
    return next((of for relation, of in founder.mentions if relation == "founder"), None)


def _content(subject: Entity) -> set[str]:
    """Everything that the article on ``subject`` may name, which needs no second article."""
    facts = {value.name if isinstance(value, Entity) else value for value in subject.facts.values()}
    years = {str(year) for year in (subject.year, *subject.years.values())}
    return facts | years | {subject.name} | {of.name for _, of in subject.mentions}


def _ordered(stream: Stream, world: World, gold: list[Entity], depth: Depth) -> list[Entity]:
    """All entities in random order, except the gold ones, which are placed by depth."""
    others = [entity for entity in world.entities() if entity not in gold]
    stream.shuffle(others)
    places = depth.slots(stream, len(others) + len(gold), len(gold))
    for place, entity in zip(places, stream.sample(gold, len(gold)), strict=True):
        others.insert(place, entity)
    return others


def _parse(question: str) -> tuple[str, list[str]]:
    """The name in a question, and the relations to look up from there, in order; else DataError."""
    readings = [(relation, match[1]) for relation, words in _QUESTIONS.items() if (match := _match(words, question))]
    if len(readings) != 1:
        raise DataError(f"the question can be read in {len(readings)} ways, not one: {question}")
    last, phrase = readings[0]
    relations = [last]
    while hops := [(hop, match[1]) for hop, (_, _, words) in _HOPS.items() if (match := _match(words, phrase))]:
        (first, phrase), *_ = hops
        relations.insert(0, first)
    return phrase.removeprefix("the firm ").removeprefix("the town of "), relations


def _match(words: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(words).replace(r"\{x\}", "(.+)"), text)


TASKS.register(QaBiographies.name, QaBiographies)
