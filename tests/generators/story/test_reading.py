"""Every event is read back as itself, and nothing else is read as an event."""

from __future__ import annotations

import re

import pytest

from sparse_tasks.core.errors import DataError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.grammar import parse_grammar
from sparse_tasks.generators.prose.people import People, Person
from sparse_tasks.generators.prose.words import with_article
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import events, scenes
from sparse_tasks.generators.story.language import Language, language, languages
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import Fact, Reader, Story, read
from sparse_tasks.generators.story.words import Places, Things, crowns
from sparse_tasks.generators.story.world import Chronicle, Event, simulate
from tests.generators.drafts import ALL_LOCALES, STORIES, draft_of, prompt_of, task_of

LOCALES = ["en_US", "pl_PL", "ja_JP", "ar_SA", "hu_HU", "de_DE", "ka_GE", "bg_BG"]
ALIKE = {"Reunion": "Meeting"}


def story_around(paragraphs: list[str], hero: Person, opening: str = "") -> str:
    """A story of one chapter with these paragraphs."""
    setting_out = opening or f"{hero.first} left home in good time with 400 crowns in his purse, and that was all the"
    if not opening:
        setting_out += " money he had."
    text = "\n\n".join(paragraphs)
    return (
        f"This is the story of {hero.name}, called {hero.first} from here on, told in chapters of one day each.\n\n"
        f"{setting_out}\n\nChapter 1\n\n{text}\n\nThe story ends here.\n\nWhat?"
    )


def slots_for(
    stream: Stream, hero: Person, people: People, things: Things, places: Places
) -> tuple[dict[str, str], Fact]:
    """What an event may say, and the fact that it is (of any kind)."""
    person, thing, amount = people.person(), things.thing().name, stream.between(1, 3000)
    place = places.place()
    his, him, he = ("her", "her", "she") if hero.female else ("his", "him", "he")
    slots = {"hero": hero.first, "he": he, "his": his, "him": him, "himself": him + "self"}
    slots |= {"phe": "she", "phis": "her", "phim": "her", "phimself": "herself"}
    slots |= {"a_item": with_article(thing), "the_item": f"the {thing}", "his_item": f"{his} {thing}"}
    slots |= {"price": crowns(amount), "place": place, "person": person.name, "other": person.name, "job": person.job}
    party = person.name if stream.below(2) else "a smuggler who gave no name"
    slots |= dict.fromkeys(("seller", "buyer", "giver", "recipient"), party)
    return slots, Fact("", "", thing, amount, f"{place}|{person.name}")


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", sorted(events()))
def test_every_phrasing_of_an_event_is_read_as_itself(kind: str, locale: str) -> None:
    stream = Stream("reading", kind, locale)
    people, things, places = People(stream.fork(1), locale), Things(stream.fork(2)), Places(stream.fork(3))
    hero = people.hero()
    rule = events()[kind]
    reported, meant = [], []
    for alternative in rule.alternatives:
        alone = type(rule)([alternative])
        for _ in range(5):
            slots, fact = slots_for(stream, hero, people, things, places)
            open_sentence = alone.expand(stream)
            sentence = open_sentence.format_map(slots)
            reported.append(sentence[0].title() + sentence[1:])
            named = set(re.findall(r"\{(\w+)\}", open_sentence))
            place, name = fact.name.split("|")
            meant.append(
                Fact(
                    ALIKE.get(kind, kind),
                    reported[-1],
                    fact.thing if named & {"a_item", "the_item", "his_item"} else "",
                    fact.amount if "price" in named else 0,
                    place if "place" in named else name if named & {"person", "other"} else "",
                )
            )
    assert read(story_around(reported, hero)).pages[0].facts == meant
    # The same in one paragraph: each is exactly one sentence.
    assert read(story_around([" ".join(reported)], hero)).pages[0].facts == meant


@pytest.mark.parametrize("element", sorted(scenes()))
def test_no_scene_is_read_as_an_event(element: str) -> None:
    stream = Stream("scene", element)
    people = People(stream.fork(1), "en_US")
    hero, person = people.hero(), people.person()
    slots = {
        "hero": hero.first,
        "he": "he",
        "his": "his",
        "him": "him",
        "himself": "himself",
        "date": "Monday, 3 May 1875",
    }
    slots |= {"person": person.first, "pfirst": person.first}
    slots |= {"phe": "she", "phis": "her", "phim": "her", "phimself": "herself"}
    reported = []
    for alternative in scenes()[element].alternatives:
        for _ in range(12):
            sentence = type(scenes()[element])([alternative]).expand(stream).format_map(slots)
            reported.append(sentence[0].title() + sentence[1:])
    assert read(story_around(reported, hero)).pages[0].facts == []
    assert read(story_around([" ".join(reported)], hero)).pages[0].facts == []


def whole_story(name: str, locale: str, chapters: int) -> tuple[Chronicle, Narrator, Story]:
    """Events, their text, and the events read from it."""
    task, stream = task_of(name, locale=locale), Stream("whole", name, locale)
    chronicle = simulate(stream.fork("world"), task.plan(stream.fork("plan"), chapters, Depth()))  # type: ignore[attr-defined]
    narrator = Narrator(stream.fork("prose"), chronicle)
    for _ in range(chapters):
        narrator.filler(stream, stream.below(5)).accept()
    text = narrator.intro + "".join(t for p in narrator.body for t in [p.text, *p.followers])
    return chronicle, narrator, read(text + "The story ends here.\n\nWhat?")


def fact_of(event: Event) -> tuple[str, str, int, str]:
    name = event.slots.get("place") or event.slots.get("person") or event.slots.get("other") or ""
    return event.kind, event.thing.name if event.thing else "", event.amount, name


@pytest.mark.parametrize("locale", ALL_LOCALES)
def test_what_happened_is_what_is_read_in_every_locale(locale: str) -> None:
    chronicle, narrator, story = whole_story("story_aggregation", locale, 12)
    assert story.hero == chronicle.hero.first
    assert (story.setting_out.kind, story.setting_out.amount) == ("SettingOut", chronicle.setting_out.amount)
    assert [page.number for page in story.pages] == [chapter.number for chapter in chronicle.chapters]
    for page, chapter in zip(story.pages, chronicle.chapters, strict=True):
        happened = [chapter.arrival, chapter.meeting, *chapter.events]
        assert [(f.kind, f.thing, f.amount, f.name) for f in page.facts] == [fact_of(event) for event in happened]
        assert page.dates == [(f"{chapter.day:%A}", chapter.day)]
        for fact, event in zip(page.facts, happened, strict=True):
            telling = narrator.told[event]
            assert telling.passage.text[telling.start : telling.end] == fact.sentence


@pytest.mark.parametrize("code", languages())
def test_what_is_read_of_some_kinds_is_what_is_read_of_all(code: str) -> None:
    prompt = prompt_of(draft_of("story_aggregation", 3, 12, language=code))
    kinds = sorted({fact.kind for page in read(prompt).pages for fact in page.facts})
    assert len(kinds) > 8
    for some in (*((kind,) for kind in kinds), ("Purchase", "Sale"), ("Meeting", "Arrival"), ()):
        read.cache_clear()
        few = [page.of(*some) for page in read(prompt).pages]
        assert few == [[fact for fact in page.facts if fact.kind in some] for page in read(prompt).pages]


def test_a_sentence_of_two_kinds_is_read_as_the_first_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    same = parse_grammar('Same -> "{hero} took {a_item} home."')[1]
    monkeypatch.setattr(Language, "events", {"GiftReceived": same, "Purchase": same})
    reader = Reader(language())
    (fact,) = reader.facts("Ann took a red cup home.\n", "Ann")
    assert (fact.kind, fact.thing) == ("GiftReceived", "red cup")
    assert reader.facts("Ann took a red cup home.\n", "Ann", ("GiftReceived",)) == [fact]
    assert reader.facts("Ann took a red cup home.\n", "Ann", ("Purchase",)) == []


@pytest.mark.parametrize("locale", ["en_US", "es_ES", "ja_JP"])
def test_a_family_name_may_be_the_first_name_of_the_traveller(locale: str) -> None:
    people = People(Stream("namesake"), locale)
    hero = people.hero()
    slots, _ = slots_for(Stream(1), hero, people, Things(Stream(2)), Places(Stream(3)))
    slots |= {"person": f"Ottilie {hero.first}"}
    reported = "{hero} met {person} beside the pump, and learned that {phe} was {job}.".format_map(slots)
    facts = read(story_around([reported], hero)).pages[0].facts
    assert [(fact.kind, fact.name) for fact in facts] == [("Meeting", f"Ottilie {hero.first}")]


@pytest.mark.parametrize("name", STORIES)
def test_neither_question_nor_preview_is_taken_for_the_story(name: str) -> None:
    draft = draft_of(name, 1, 12)
    prompt = prompt_of(draft)
    story = read(prompt)
    assert len(story.pages) == 12
    # The question is before and after the story; only the one after it counts.
    assert draft.question.endswith(story.question[-200:])
    assert story.question in prompt


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "Chapter 1\n\nNothing.\n\nThe story ends here.\n",
        "This is the story of Ann Lee, called Ann from here on, told in chapters.\n\nThe story ends here.\n",
    ],
)
def test_a_prompt_without_a_story_is_refused(broken: str) -> None:
    with pytest.raises(DataError):
        read(broken)


def test_a_story_that_does_not_begin_is_refused() -> None:
    hero = Person("Ann Lee", "Ann", True, "a baker")
    assert read(story_around(["Nothing."], hero)).setting_out.amount == 400
    with pytest.raises(DataError, match="setting out"):
        read(story_around(["Nothing."], hero, opening="Ann stayed at home."))
