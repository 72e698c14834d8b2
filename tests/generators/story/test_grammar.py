"""The phrasing as data: every file loads, is rich, and has the slots that its element needs, each exactly once."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files
from importlib.resources.abc import Traversable

import pytest
from nltk.grammar import CFG, Nonterminal

from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.prose.words import with_article
from sparse_tasks.generators.story import grammar
from sparse_tasks.generators.story.grammar import events, lexicon, scenes
from sparse_tasks.generators.story.words import materials

ROOM = files(grammar.__package__) / "languages" / "en"
FILES = sorted(
    (path for folder in ("events", "scenes") for path in (ROOM / folder).iterdir()),
    key=lambda path: path.name,
)
PRONOUNS = {"he", "him", "his", "himself"}
HERO = {"hero", *PRONOUNS}
PERSON = {"person", "pfirst", *("p" + name for name in PRONOUNS)}
# What the sentence of an event must say, exactly once, whatever alternatives are drawn; one of a set is enough.
MUST = {
    "SettingOut": [{"price"}],
    "Arrival": [{"place"}],
    "Meeting": [{"person"}, {"job"}],
    "Reunion": [{"person"}],
    "Purchase": [{"a_item"}, {"price"}, {"seller"}],
    "GiftReceived": [{"a_item"}, {"giver"}],
    "GiftGiven": [{"his_item", "the_item"}, {"recipient"}],
    "Sale": [{"his_item", "the_item"}, {"price"}, {"buyer"}],
    "Refused": [{"his_item", "the_item"}, {"price"}],
    "Seen": [{"a_item"}],
    "Asked": [{"a_item"}, {"price"}],
    "Hearsay": [{"a_item"}, {"price"}, {"other"}],
    "Wage": [{"price"}],
}
NAMED = {"sound.cfg": "animal.cfg", "question.cfg": "wonder.cfg"}
WORD_LISTS = sorted(path.name for path in (ROOM / "lexicon").iterdir())


def slots(text: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", text)


def counts(rule: Rule) -> list[tuple[Counter[str], Counter[str]]]:
    """For each alternative of a rule the minimum and maximum occurrences of a slot."""
    found = []
    for alternative in rule.alternatives:
        least, most = Counter[str](), Counter[str]()
        for piece in alternative:
            if isinstance(piece, Rule):
                inner = counts(piece)
                for name in {name for _, high in inner for name in high}:
                    least[name] += min(low[name] for low, _ in inner)
                    most[name] += max(high[name] for _, high in inner)
            else:
                for name in slots(piece):
                    least[name] += 1
                    most[name] += 1
        found.append((least, most))
    return found


def texts(rule: Rule, seen: set[int] | None = None) -> list[str]:
    seen = set() if seen is None else seen
    if id(rule) in seen:
        return []
    seen.add(id(rule))
    return [
        text
        for alternative in rule.alternatives
        for piece in alternative
        for text in (texts(piece, seen) if isinstance(piece, Rule) else [piece])
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_has_no_gaps_and_no_repetitions(path: Traversable) -> None:
    productions = CFG.fromstring(path.read_text(encoding="utf-8")).productions()
    defined = {production.lhs() for production in productions}
    used = {piece for production in productions for piece in production.rhs() if isinstance(piece, Nonterminal)}
    start = productions[0].lhs()
    assert used - defined == set()
    assert defined - used == {start}
    assert len(set(map(str, productions))) == len(productions)
    assert f"{str(start).lower()}.cfg" == NAMED.get(path.name, path.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_typeset(path: Traversable) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if "->" not in line:
            continue
        for text in re.findall(r'"([^"]*)"', line):
            assert text == text.strip() != ""
            assert "  " not in text
            assert not re.search(r" [,.;:!?]|\.\.|,,", text)
            # Apostrophes are straight and quotation marks are not.
            assert not re.search(r"(^|\s)'|(?<!s)'(\s|$)", text)


def test_there_are_thousands_of_productions() -> None:
    total = sum(len(CFG.fromstring(path.read_text(encoding="utf-8")).productions()) for path in FILES)
    assert total >= 5_000


@pytest.mark.parametrize("kind", sorted(events()) + sorted(scenes()))
def test_every_element_can_be_told_in_dozens_of_ways(kind: str) -> None:
    rule = (events() | scenes())[kind]
    assert len(rule.alternatives) >= (12 if kind == "SettingOut" else 24)


def test_the_events_are_those_known_here() -> None:
    assert set(events()) == set(MUST)


@pytest.mark.parametrize("kind", sorted(MUST))
def test_every_phrasing_of_an_event_says_it_once(kind: str) -> None:
    allowed = set.union(*MUST[kind]) | HERO | (PERSON if kind in ("Meeting", "Reunion") else set())
    for i, (least, most) in enumerate(counts(events()[kind])):
        where = f"alternative {i + 1} of {kind}"
        assert set(most) <= allowed, where
        for names in MUST[kind]:
            assert sum(least[name] for name in names) == 1, f"{where} says {names} too seldom"
            assert sum(most[name] for name in names) == 1, f"{where} says {names} too often"
        if kind != "Hearsay":
            assert least["hero"] == most["hero"] == 1, f"{where} does not name the traveller once"


@pytest.mark.parametrize("element", sorted(scenes()))
def test_a_scene_has_only_slots_that_the_narrator_fills(element: str) -> None:
    person = PERSON if element in ("Look", "Talk") else set()
    date = {"date"} if element == "Opening" else set()
    for least, most in counts(scenes()[element]):
        assert set(most) <= HERO | person | date
        assert least["date"] == most["date"] == len(date)


@pytest.mark.parametrize("element", sorted(scenes()))
def test_a_scene_names_no_sum_and_no_thing(element: str) -> None:
    said = " ".join(texts(scenes()[element]))
    assert not re.search(r"\d|\bcrowns?\b", said)
    nouns = [f"{material} {noun}" for material in materials() for (noun, *_) in lexicon("nouns.tsv")]
    assert not [noun for noun in nouns if f" {noun} " in said]


def test_every_sentence_ends_and_ends_once() -> None:
    # A full stop inside a phrasing would cut the sentence in two for the reader.
    for kind, rule in events().items():
        for text in texts(rule):
            assert not re.search(r"[.!?]”?\s+[^a-z]", text), (kind, text)


@pytest.mark.parametrize("name", WORD_LISTS)
def test_a_word_list_repeats_nothing(name: str) -> None:
    entries = [tuple(entry) for entry in lexicon(name)]
    keys = [entry[0] for entry in entries]
    assert len(set(keys)) == len(keys) >= 16
    for entry in entries:
        assert all(cell == cell.strip() != "" for cell in entry)


def test_a_material_is_told_from_everything_else_in_a_name() -> None:
    # Whether a thing counts as made of brass is decided by the word "brass" in its name.
    names = [material for material, *_ in lexicon("materials.tsv")]
    others = {word for (noun, *_) in lexicon("nouns.tsv") for word in noun.split()}
    others |= {adjective for (adjective,) in lexicon("adjectives.txt")}
    assert len(set(names)) == len(names)
    assert not set(names) & others
    assert all(" " not in name for name in names)


def test_every_noun_is_made_of_something_and_every_material_of_much() -> None:
    groups = {group for _, group, _ in lexicon("materials.tsv")}
    for noun, made_of, low, high in lexicon("nouns.tsv"):
        assert made_of, noun
        assert set(made_of.split(",")) <= groups
        assert len(set(made_of.split(","))) == len(made_of.split(","))
        assert 1 <= int(low) < int(high)
    assert len(materials()) >= 60


@pytest.mark.parametrize("name", ["vendors.txt", "dealers.txt", "givers.txt", "recipients.txt"])
def test_people_without_a_name_have_an_article(name: str) -> None:
    for (party,) in lexicon(name):
        assert re.match(r"(an? [a-z]|the [a-z])", party), party
        # Readers find the end of a party by what follows it, so it holds no punctuation.
        assert not re.search(r"[,.;:!?“”–]", party)


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("ivory comb", "an"),
        ("oak tray", "an"),
        ("useful brass bell", "a"),
        ("usual thing", "a"),
        ("unusual thing", "an"),
        ("unassuming bone key", "an"),
        ("umbrella mender", "an"),
        ("unicorn", "a"),
        ("European map", "a"),
        ("honest oak bowl", "an"),
        ("hourglass", "an"),
        ("heavy iron key", "a"),
        ("one-armed doll", "a"),
        ("onyx ring", "an"),
        ("ewer", "a"),
    ],
)
def test_article_goes_by_sound(noun: str, article: str) -> None:
    assert with_article(noun.lower()) == f"{article} {noun.lower()}"
