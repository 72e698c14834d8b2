"""The world in prose: articles as passages, with the sentence of each fact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.prose.words import with_article
from sparse_tasks.generators.qa.phrases import colour, facts
from sparse_tasks.generators.qa.world import Entity
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Offer, Passage, Telling

FactKey = tuple[str, Entity]  # a relation and its subject

_PRONOUNS = {
    True: {"he": "she", "him": "her", "his": "her", "His": "Her"},
    False: {"he": "he", "him": "him", "his": "his", "His": "His"},
}
# Kind of sentence and slot of the value for each fact in the article on its subject, in order.
_OWN = {
    "profession": ("Profession", "a_job"),
    "birthplace": ("Birth", "place"),
    "teacher": ("Training", "person"),
    "employer": ("Employment", "firm"),
    "spouse": ("Marriage", "person"),
    "home": ("Residence", "place"),
    "product": ("Product", "product"),
    "founder": ("Founding", "person"),
    "seat": ("Seat", "place"),
    "region": ("Region", "region"),
    "river": ("River", "river"),
    "charter": ("Charter", "year"),
    "designer": ("Landmark", "person"),
}
# Kind of sentence in the article on the value.
_MENTIONS = {
    "founder": "Founder",
    "designer": "Designer",
    "teacher": "Pupil",
    "employer": "Staff",
    "birthplace": "Native",
    "home": "Settler",
    "seat": "Works",
}
_MOST_MENTIONS = 2  # limit of mentions in one article
_REDRAWS = 20  # limit of draws for a sentence that repeats no phrase of its article


@dataclass(frozen=True, slots=True)
class _Statement:
    kind: str
    slots: dict[str, str]
    key: FactKey
    year: int  # of the fact; 0 if it has none
    confusing: bool  # whether a pronoun after it would be ambiguous


@dataclass(slots=True, eq=False)
class _Article:
    """An article while it is told: its subject, its pronouns, and the phrases used."""

    about: Entity
    slots: dict[str, str]
    phrases: set[str] = field(default_factory=set)
    begun: bool = False


class Narrator:
    """Tells a world in articles: ``body`` has their passages, ``told`` the sentence of each fact by its subject.

    The facts of ``once`` are told in one place only.
    """

    def __init__(self, stream: Stream, entities: Iterable[Entity], once: Sequence[FactKey]) -> None:
        self._stream = stream
        self._facts, self._colour = facts(), colour()
        self._once = set(once)
        # A marriage is a fact of two people, and told once where one of them is asked for.
        self._untold = {(relation, subject.facts[relation]) for relation, subject in once if relation == "spouse"}
        self.told: dict[FactKey, Telling] = {}
        # Filler may follow any paragraph, and repeats no phrase of its article.
        self._open: list[tuple[Passage, _Article]] = []
        self.articles = [self._article(number, entity) for number, entity in enumerate(entities, 1)]
        self.body = [passage for article in self.articles for passage in article]

    def filler(self, stream: Stream, sentences: int) -> Offer:
        """An offer of this many sentences of colour after any paragraph; 0 is a short aside."""
        passage, article = stream.choice(self._open)
        if sentences:
            text, _ = self._paragraph(article, [None] * sentences, stream)
        else:
            text = f"{self._draw(self._colour['Aside'], article, stream)}\n\n"
        return Offer([text], [], lambda: passage.followers.append(text))

    def _article(self, number: int, about: Entity) -> list[Passage]:
        stream = self._stream
        article = _Article(about, _PRONOUNS[about.female])
        mentions = self._mentions(about)
        own = [statement for statement in _own(about) if statement.key not in self._untold]
        if about.kind == "person":
            early = [statement for statement in own if statement.kind in ("Profession", "Birth", "Training")]
            late = [statement for statement in own if statement not in early] + mentions
            # Facts without a year belong to later life.
            late.sort(key=lambda statement: statement.year or about.year + 60)
        elif about.kind == "firm":
            early, late = own, mentions
        else:
            early, late = own[:-1], own[-1:] + mentions
        # Colour follows the facts that open the article.
        parts = [self._coloured(early, 5, 2, stream), self._coloured(late, 4 + stream.below(2), 1, stream)]
        passages = [Passage(f"Article {number}: {about.name}\n\n")]
        for part in parts:
            text, spans = self._paragraph(article, part, stream)
            passage = Passage(text)
            for statement, start, end in spans:
                if statement.key[1] is about:
                    self.told[statement.key] = Telling(passage, start, end)
            passages.append(passage)
            self._open.append((passage, article))
        return passages

    def _coloured(
        self, statements: Sequence[_Statement], sentences: int, behind: int, stream: Stream
    ) -> list[_Statement | None]:
        """Statements with colour (None) after some of them, for a total number of sentences."""
        mixed: list[_Statement | None] = [*statements]
        while len(mixed) < sentences:
            mixed.insert(stream.between(min(behind, len(statements)), len(mixed)), None)
        return mixed

    def _mentions(self, about: Entity) -> list[_Statement]:
        shown = [(r, s) for r, s in about.mentions if r in _MENTIONS and (r, s) not in self._once]
        chosen = self._stream.sample(shown, min(len(shown), self._stream.below(_MOST_MENTIONS + 1)))
        return [_mention(about, relation, subject) for relation, subject in chosen]

    def _paragraph(
        self, article: _Article, sentences: Sequence[_Statement | None], stream: Stream
    ) -> tuple[str, list[tuple[_Statement, int, int]]]:
        """A paragraph, and the span of each statement."""
        text, clear, person = "", False, article.about.kind == "person"
        spans: list[tuple[_Statement, int, int]] = []
        for statement in sentences:
            if statement is None:
                # If a pronoun would be ambiguous, the sentence must name its subject.
                rule, holding = self._colour[article.about.kind.title()], "{x}" if person and not clear else ""
                sentence = self._draw(rule, article, stream, holding)
                filled = self._fill(article, sentence, {}, clear, stream)
            else:
                sentence = self._draw(self._facts[statement.kind], article, stream)
                filled = self._fill(article, sentence, statement.slots, clear, stream)
                spans.append((statement, len(text), len(text) + len(filled)))
            # A pronoun after a sentence on a firm or town may refer to something of theirs.
            named = "{x}" in sentence or (clear and person)
            clear = named and not (statement is not None and statement.confusing)
            text += filled + " "
        return text[:-1] + "\n\n", spans

    def _draw(self, rule: Rule, article: _Article, stream: Stream, holding: str = "") -> str:
        """A sentence with slots that contains ``holding`` and, if a few draws suffice, no phrase of its article."""
        for tries in count(1):
            pieces = rule.pieces(stream)
            sentence = "".join(pieces)[1:]
            if holding in sentence and (article.phrases.isdisjoint(pieces) or tries >= _REDRAWS):
                break
        article.phrases.update(piece for piece in pieces if len(piece) > 4)
        return sentence

    def _fill(self, article: _Article, sentence: str, slots: dict[str, str], clear: bool, stream: Stream) -> str:
        if "{" in sentence:
            x = self._name(article, sentence.startswith("{x}"), clear, bool(slots), stream)
            sentence = sentence.format_map(article.slots | slots | {"x": x})
        # Not every script with capitals uses them at the start of a sentence (Georgian does not).
        return sentence[0].title() + sentence[1:]

    def _name(self, article: _Article, first: bool, clear: bool, fact: bool, stream: Stream) -> str:
        """Name or pronoun for the subject of an article, whose first word in the sentence it may be."""
        about, begun = article.about, article.begun
        article.begun = True
        if not begun:
            return about.name
        if about.kind == "person":
            return article.slots["he"] if clear and stream.below(4) else about.short
        if clear and first and stream.below(3):
            return "it"
        # A firm is in a town, so only a name is unambiguous there.
        return about.name if stream.below(3) == 0 or (fact and about.kind == "town") else f"the {about.kind}"


def _text(value: Entity | str) -> str:
    return value.name if isinstance(value, Entity) else value


def _own(about: Entity) -> list[_Statement]:
    statements = []
    for relation, (kind, slot) in _OWN.items():
        if (value := about.facts.get(relation)) is not None:
            text = _text(value)
            slots = {slot: with_article(text) if slot == "a_job" else text, **_circumstances(about, relation)}
            confusing = isinstance(value, Entity) and _confusing(about, value)
            statements.append(_Statement(kind, slots, (relation, about), about.years.get(relation, 0), confusing))
    return statements


def _mention(about: Entity, relation: str, subject: Entity) -> _Statement:
    """Statement on a fact of ``subject`` in the article on its value, ``about``."""
    slot = "place" if subject.kind == "town" else subject.kind
    slots = {slot: subject.name, **_circumstances(subject, relation)}
    key, year = (relation, subject), subject.years.get(relation, 0)
    return _Statement(_MENTIONS[relation], slots, key, year, _confusing(about, subject))


def _circumstances(subject: Entity, relation: str) -> dict[str, str]:
    """Slots for the year of a fact and the kind of a landmark."""
    slots = {"year": str(year)} if (year := subject.years.get(relation)) is not None else {}
    return slots | ({"landmark": _text(subject.facts["landmark"])} if relation == "designer" else {})


def _confusing(about: Entity, other: Entity) -> bool:
    """Whether a pronoun for one could refer to the other."""
    return (about.kind == "person") == (other.kind == "person")
