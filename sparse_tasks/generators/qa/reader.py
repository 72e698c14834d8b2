"""Reader of the articles in a prompt, for the oracle and the auditor.

It knows the phrasing (the grammar files, compiled to patterns), but not the world or the narrator.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.prose.phrasing import Phrasing, Phrasings, Slots
from sparse_tasks.generators.qa.phrases import capitals, facts

_NAME = r"[^\d,.;:]+?"
# Words that no name contains, so that "it was somebody who founded" is not read as a name and "founded".
_NO_NAME = {"was", "who", "whom", "that", "which"}
# Private-use characters that replace the title of an article, or a part of it, while a sentence is matched.
_MASK, _MASKS = 0xE000, "\ue000-\ue0ff"
_SLOTS = Slots(
    {
        "x": f"(?:[{_MASKS}]|[Hh]e|[Ss]he|[Ii]t|[Tt]he firm|[Tt]he town)",
        "a_job": r"an? (?P<profession>[a-z][a-z' -]*?)",
        "product": r"(?P<product>[a-z][a-z' -]*?)",
        "landmark": r"(?P<landmark>[a-z][a-z -]*?)",
        "year": r"(?P<year>\d{4})",
        **{slot: f"(?P<{slot}>{_NAME})" for slot in ("person", "firm", "place", "region")},
        "river": f"(?P<river>River {_NAME})",
        "he": "s?he",
        "him": "(?:him|her)",
        "his": "(?:his|her)",
        "His": "(?:His|Her)",
    }
)
# Facts in each kind of sentence: relation, subject and value; "x" is the subject of the article.
_SAYS = {
    "Profession": [("profession", "x", "profession")],
    "Birth": [("born", "x", "year"), ("birthplace", "x", "place")],
    "Training": [("teacher", "x", "person")],
    "Employment": [("employer", "x", "firm"), ("employed", "x", "year")],
    "Marriage": [
        ("spouse", "x", "person"),
        ("spouse", "person", "x"),
        ("married", "x", "year"),
        ("married", "person", "year"),
    ],
    "Residence": [("home", "x", "place"), ("settled", "x", "year")],
    "Founder": [("founder", "firm", "x"), ("founded", "firm", "year")],
    "Designer": [("designer", "place", "x"), ("landmark", "place", "landmark")],
    "Pupil": [("teacher", "person", "x")],
    "Product": [("product", "x", "product")],
    "Founding": [("founder", "x", "person"), ("founded", "x", "year")],
    "Seat": [("seat", "x", "place")],
    "Staff": [("employer", "person", "x")],
    "Region": [("region", "x", "region")],
    "River": [("river", "x", "river")],
    "Charter": [("chartered", "x", "year")],
    "Landmark": [("designer", "x", "person"), ("landmark", "x", "landmark"), ("completed", "x", "year")],
    "Native": [("birthplace", "person", "x")],
    "Settler": [("home", "person", "x")],
    "Works": [("seat", "firm", "x")],
}
_HEADING = re.compile(r"^Article (\d+): (.+)\n\n", re.M)
_END = re.compile(r"^The articles end here\.$", re.M)


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact that a sentence states."""

    relation: str
    subject: str
    value: str


@dataclass(frozen=True, slots=True)
class _Article:
    number: int
    title: str
    text: str

    def facts(self, name: str = "") -> Iterator[Fact]:
        """Facts in sentences that contain ``name``, or in the article on it; all facts without a name."""
        mask = _Mask(self.title)
        for paragraph in self.text.split("\n\n"):
            for sentence in paragraph.split(". "):
                if not name or name == self.title or name in sentence:
                    yield from _facts(f"{sentence.removesuffix('.')}.", self.title, mask)


@dataclass(frozen=True, slots=True)
class Articles:
    """Articles of a prompt, with the question that follows them."""

    articles: list[_Article]
    question: str

    def value(self, relation: str, name: str) -> str:
        """Value of a relation; a DataError if the articles give none, or more than one."""
        values = {fact.value for fact in self._about(name) if (fact.relation, fact.subject) == (relation, name)}
        return _only(values, relation, name)

    def subject(self, relation: str, name: str) -> str:
        """Subject whose relation has a value; a DataError if the articles give none, or more than one."""
        subjects = {fact.subject for fact in self._about(name) if (fact.relation, fact.value) == (relation, name)}
        return _only(subjects, relation, name)

    def _about(self, name: str) -> list[Fact]:
        if (titles := sum(article.title == name for article in self.articles)) != 1:
            raise DataError(f"{titles} articles on {name}, not one")
        return [
            fact
            for article in self.articles
            if name == article.title or name in article.text
            for fact in article.facts(name)
        ]


def _only(entries: set[str], relation: str, name: str) -> str:
    if len(entries) != 1:
        raise DataError(f"{name}: {len(entries)} different entries for {relation}, not one")
    return entries.pop()


def read(prompt: str) -> Articles:
    """Articles and question of a prompt; a DataError if it holds none."""
    headings, ends = list(_HEADING.finditer(prompt)), list(_END.finditer(prompt))
    if not headings or not ends:
        raise DataError("the prompt holds no whole collection: articles or their end are missing")
    last = ends[-1].start()
    starts = [heading.start() for heading in headings[1:]] + [last]
    articles = [
        _Article(int(heading[1]), heading[2], prompt[heading.end() : end].strip())
        for heading, end in zip(headings, starts, strict=True)
    ]
    return Articles(articles, prompt[last:])


def audit(prompt: str) -> list[str]:
    """Contradictions between the articles of a prompt."""
    articles = read(prompt).articles
    wrong: list[str] = []
    if [article.number for article in articles] != list(range(1, len(articles) + 1)):
        wrong.append("articles are not numbered one by one")
    titles = {article.title for article in articles}
    if len(titles) != len(articles):
        wrong.append("two articles have the same title")
    known: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for article in articles:
        for fact in article.facts():
            known[fact.subject][fact.relation].add(fact.value)
    founded: dict[str, str] = {}
    for name, relations in known.items():
        wrong += [
            f"{name}: {relation} is {' and '.join(sorted(values))}"
            for relation, values in relations.items()
            if len(values) > 1
        ]
        for relation in ("birthplace", "teacher", "employer", "spouse", "home", "founder", "seat", "designer"):
            wrong += [f"{name}: no article on {value}" for value in relations[relation] - titles]
        for founder in relations["founder"]:
            if (other := founded.setdefault(founder, name)) != name:
                wrong.append(f"{founder} founded {other} and {name}")
    for name in sorted(titles):
        if not known[name].keys() & {"born", "founded", "chartered"}:
            wrong.append(f"{name}: nothing says when it began")
    return wrong + [problem for name in known for problem in _dates(name, known)]


# Minimum and maximum age at events, in years.
_AGES = {"employed": (14, 70), "married": (18, 80), "settled": (18, 90), "founded": (18, 80), "completed": (18, 80)}


def _dates(name: str, known: dict[str, dict[str, set[str]]]) -> Iterator[str]:
    def year(who: str, relation: str) -> int | None:
        return next((int(value) for value in known[who][relation]), None) if who in known else None

    deeds = [(relation, name) for relation in ("employed", "married", "settled")]
    deeds += [("founded", founder) for founder in known[name]["founder"]]
    deeds += [("completed", designer) for designer in known[name]["designer"]]
    for relation, who in deeds:
        born, done = year(who, "born"), year(name, relation)
        if born is not None and done is not None and not _AGES[relation][0] <= done - born <= _AGES[relation][1]:
            wrong = f"{who}, born in {born}, cannot have been at work on {name} in {done}"
            yield wrong if who != name else f"{name}, born in {born}, cannot have been {relation} in {done}"
    for teacher in known[name]["teacher"]:
        older, younger = year(teacher, "born"), year(name, "born")
        if older is not None and younger is not None and older >= younger:
            yield f"{name} is older than the teacher {teacher}"
    for firm in known[name]["employer"]:
        opened, employed = year(firm, "founded"), year(name, "employed")
        if opened is not None and employed is not None and employed < opened:
            yield f"{name} worked for {firm} before it was founded"
    built, chartered = year(name, "completed"), year(name, "chartered")
    if built is not None and chartered is not None and built < chartered:
        yield f"the landmark of {name} is older than its charter"


class _Mask:
    """Mask of the title of an article, and of its parts as short names, in sentences."""

    def __init__(self, title: str) -> None:
        words = title.split()
        parts = {title: title}
        for i in range(1, len(words)):
            for part in (" ".join(words[i:]), " ".join(words[:i])):
                parts |= {form: form for form in (part, part[0].title() + part[1:]) if form not in capitals()}
        # Long parts first, so that full names are masked as a whole.
        ordered = sorted(parts, key=len, reverse=True)
        self._masks = {part: chr(_MASK + i) for i, part in enumerate(ordered)}
        self._parts = {_MASK + i: part for i, part in enumerate(ordered)}
        self._pattern = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, ordered))})(?![^\s,.;:])")

    def on(self, sentence: str) -> str:
        return self._pattern.sub(lambda match: self._masks[match[0]], sentence)

    def off(self, text: str) -> str:
        return text.translate(self._parts)


def _facts(sentence: str, title: str, mask: _Mask) -> Iterator[Fact]:
    """Facts that a sentence of an article states; a DataError if it can be read in two ways."""
    masked = mask.on(sentence)
    readings = set()
    for phrasing, match in _phrasings().matches(masked):
        named = {slot: mask.off(text) for slot, text in match.groupdict().items()} | {"x": title}
        if any(_NO_NAME.intersection(name.split()) for name in named.values()):
            continue
        readings.add(tuple(Fact(relation, named[whose], named[what]) for relation, whose, what in _SAYS[phrasing.kind]))
    if len(readings) > 1:
        raise DataError(f"two readings of one sentence: {sentence}")
    for reading in readings:
        yield from reading


@cache
def _phrasings() -> Phrasings:
    """All phrasings of facts."""
    return Phrasings(
        Phrasing(kind, alternative, _SLOTS) for kind, rule in facts().items() for alternative in rule.alternatives
    )
