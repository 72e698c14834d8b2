"""Every language: its folder is whole, its sentences say what they must, and what it tells is read back as itself."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from string import Formatter

import pytest

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.prose.people import People, Person
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.language import Language, language, languages
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import read
from sparse_tasks.generators.story.task import StoryTask
from sparse_tasks.generators.story.words import Places, Things, materials
from sparse_tasks.generators.story.world import simulate
from tests.generators.drafts import KINDS, STORIES, draft_of, fill, prompt_of, task_of
from tests.generators.story.test_grammar import MUST, counts, texts

LANGUAGES = languages()
OTHERS = [code for code in LANGUAGES if code != "en"]
PARTIES = {"seller": "vendors", "buyer": "dealers", "giver": "givers", "recipient": "recipients"}
ALIKE = {"Reunion": "Meeting"}
# Sentences that a language may lack, as its questions in other words.
LATER = ("apart",)


def slots_of(tongue: Language, stream: Stream) -> tuple[dict[str, str], Person, str, int]:
    """What sentences may say, the traveller, the name of the thing, and the sum."""
    people = People(stream.fork(1), tongue.locale, tongue.jobs, tongue.called == "name")
    hero, person = people.hero(), people.person()
    thing = Things(stream.fork(2), None, tongue.code).thing()
    amount = stream.between(1, 3000)
    place = Places(stream.fork(3), tongue.code).place()
    slots = {"hero": hero.first, "place": place, "job": person.job, "price": tongue.price(amount)}
    slots |= {"person": person.name, "other": person.name, "date": tongue.date(date(1875, 5, 3))}
    slots |= tongue.item(thing.name, thing.sort, hero.female) | tongue.pronouns[hero.female]
    theirs = tongue.pronouns[person.female]
    slots |= {("P" if name[0].isupper() else "p") + name: word for name, word in theirs.items()}
    for slot, words in PARTIES.items():
        forms = [person.name] if stream.below(2) else stream.choice(tongue.lexicon(f"{words}.txt"))
        slots |= tongue.party(slot, forms)
    return slots, hero, thing.name, amount


def reported(tongue: Language, sentence: str) -> str:
    sentence = sentence.lstrip()
    return tongue.sounded(sentence[0].title() + sentence[1:])


def story_of(tongue: Language, hero: Person, sentences: list[str]) -> str:
    """A story of one chapter with these sentences, each in a paragraph and all of them in another."""
    opening = tongue.sentence("opening", name=hero.name, first=hero.first)
    slots = {**tongue.pronouns[hero.female], "hero": hero.first, "price": tongue.price(400)}
    setting_out = Rule([tongue.events["SettingOut"].alternatives[0]]).expand(Stream("first"))
    setting_out = reported(tongue, setting_out.format_map(slots))
    chapter, over = tongue.sentence("chapter", n=1), tongue.sentence("over")
    return "\n\n".join([opening, setting_out, chapter, *sentences, tongue.blank.join(sentences), over, "?"])


def test_there_are_four_at_least_and_english_is_the_first() -> None:
    assert LANGUAGES[0] == "en"
    assert {"de", "es", "zh"} <= set(LANGUAGES)
    assert len({language(code).locale for code in LANGUAGES}) == len(LANGUAGES)


@pytest.mark.parametrize("code", OTHERS)
def test_a_folder_has_all_that_the_english_one_has(code: str) -> None:
    ours, english = language(code), language()
    assert set(ours.events) == set(english.events)
    assert set(ours.scenes) == set(english.scenes)
    # Tasks whose sentences it lacks are not made in it.
    assert set(ours.say) <= set(english.say)
    assert all(task_of(name, language=code) for name in STORIES)
    for key, form in english.say.items():
        if key not in ours.say:
            assert key.startswith(LATER), key
            continue
        fields = [{name for _, name, _, _ in Formatter().parse(each) if name} for each in forms(form)]
        for i, each in enumerate(forms(ours.say[key])):
            own = {name for _, name, _, _ in Formatter().parse(each) if name}
            # Somebody referred to by full name has no other name.
            unsaid = {"first"} if ours.called == "name" and "name" in fields[0] else set()
            assert own == fields[min(i, len(fields) - 1)] - unsaid, key
    assert [len(set(names)) for names in (ours.weekdays, ours.months)] == [7, 12]


def forms(form: object) -> list[str]:
    return [form] if isinstance(form, str) else list(form.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", OTHERS)
@pytest.mark.parametrize("kind", sorted(MUST))
def test_every_phrasing_of_an_event_says_it_once(code: str, kind: str) -> None:
    tongue = language(code)
    for i, (least, most) in enumerate(counts(tongue.events[kind])):
        for names in MUST[kind]:
            # In any case: the_item, the_item_akk.
            said = [slot for slot in most if slot in names or slot.rpartition("_")[0] in names]
            assert sum(least[slot] for slot in said) == 1, (kind, i, names)
            assert sum(most[slot] for slot in said) == 1, (kind, i, names)
        if kind != "Hearsay":
            assert least["hero"] == most["hero"] == 1, (kind, i)


@pytest.mark.parametrize("code", OTHERS)
def test_every_phrasing_is_read_as_itself(code: str) -> None:
    tongue = language(code)
    for kind, rule in tongue.events.items():
        for i, alternative in enumerate(rule.alternatives):
            for draw in range(2):
                stream = Stream("phrasing", kind, i, draw)
                slots, hero, thing, amount = slots_of(tongue, stream)
                sentence = Rule([alternative]).expand(stream)
                named = set(re.findall(r"\{(\w+)\}", sentence))
                who = slots["place"] if "place" in named else slots["person"] if named & {"person", "other"} else ""
                said = reported(tongue, sentence.format_map(slots))
                facts = read(story_of(tongue, hero, [said, said])).pages[0].facts
                meant = (
                    ALIKE.get(kind, kind),
                    said,
                    thing if any("_item" in slot for slot in named) else "",
                    amount if "price" in named else 0,
                    who,
                )
                assert [(f.kind, f.sentence, f.thing, f.amount, f.name) for f in facts] == [meant] * 4


@pytest.mark.parametrize("code", OTHERS)
def test_no_scene_is_read_as_an_event(code: str) -> None:
    tongue = language(code)
    for element, rule in tongue.scenes.items():
        stream = Stream("scene", element)
        slots, hero, _, _ = slots_of(tongue, stream)
        slots |= {"person": slots["person"], "pfirst": slots["person"]}
        drawn = [Rule([alternative]).expand(stream) for alternative in rule.alternatives for _ in range(4)]
        said = [reported(tongue, sentence.format_map(slots)) for sentence in drawn]
        assert read(story_of(tongue, hero, said)).pages[0].facts == []


@pytest.mark.parametrize("code", OTHERS)
@pytest.mark.parametrize("name", STORIES)
def test_what_happened_is_what_is_read(code: str, name: str) -> None:
    task, stream = task_of(name, language=code), Stream("whole", name, code)
    assert isinstance(task, StoryTask)
    chronicle = simulate(stream.fork("world"), task.plan(stream.fork("plan"), 20, Depth()))
    narrator = Narrator(stream.fork("prose"), chronicle)
    for _ in range(20):
        narrator.filler(stream, stream.below(5)).accept()
    text = narrator.intro + "".join(t for p in narrator.body for t in [p.text, *p.followers])
    story = read(f"{text}{chronicle.tongue.sentence('over')}\n\n?")
    assert (story.hero, story.tongue.code) == (chronicle.hero.first, code)
    for page, chapter in zip(story.pages, chronicle.chapters, strict=True):
        happened = [chapter.arrival, chapter.meeting, *chapter.events]
        assert [fact.kind for fact in page.facts] == [event.kind for event in happened]
        assert page.dates == [(chronicle.tongue.weekdays[chapter.day.weekday()], chapter.day)]
        for fact, event in zip(page.facts, happened, strict=True):
            assert (fact.thing, fact.amount) == (event.thing.name if event.thing else "", event.amount)
            telling = narrator.told[event]
            assert telling.passage.text[telling.start : telling.end] == fact.sentence


@pytest.mark.parametrize("code", OTHERS)
def test_text_is_typeset(code: str) -> None:
    tongue = language(code)
    for seed in range(2):
        prompt = prompt_of(fill(draft_of("story_aggregation", f"typeset {seed}", 30, language=code), 20))
        assert unicodedata.is_normalized("NFC", prompt)
        assert not re.search(r"[{}]|None|\x01|  |\n\n\n|[ \t]\n|\n[ \t]| [,.;:!?。，]|\.\.|,,|，，|。。|，。", prompt)
        assert prompt.count("“") == prompt.count("”") or code == "de"
        paragraphs = prompt[len(tongue.sentence("title", name="")) :].split("\n\n")
        for paragraph in paragraphs[4:-3]:
            if "\n" not in paragraph and not re.fullmatch(tongue.pattern("chapter"), paragraph):
                assert re.search(r"[.!?。！？]”?“?$", paragraph) or "<answer>" in paragraph, paragraph


@pytest.mark.parametrize("code", OTHERS)
def test_sentences_rarely_repeat_in_a_chapter(code: str) -> None:
    tongue, twice, total = language(code), 0, 0
    for seed in range(3):
        prompt = prompt_of(fill(draft_of("story_aggregation", f"twice {seed}", 30, language=code), 10))
        for chapter in re.split(tongue.pattern("chapter").replace("?P<n>", "?:"), prompt)[1:]:
            sentences = [s for s in re.split(r"(?<=[.!?。！？])\s*", chapter) if len(s) > 8]
            total += len(sentences)
            twice += len(sentences) - len(set(sentences))
    assert twice / total < 0.01


@pytest.mark.parametrize("code", OTHERS)
def test_a_material_is_told_from_everything_else_in_a_name(code: str) -> None:
    tongue = language(code)
    names = [material for material, *_ in tongue.lexicon("materials.tsv")]
    assert len(set(names)) == len(names)
    assert len(materials(code)) >= 60
    things = Things(Stream("names", code), None, code)
    for _ in range(6_000):
        thing = things.thing()
        assert [name for name in names if tongue.is_of(name, thing.name)] == [thing.material], thing.name


@pytest.mark.parametrize("code", OTHERS)
def test_names_do_not_run_out(code: str) -> None:
    tongue = language(code)
    places = Places(Stream("places"), code)
    assert len({places.place() for _ in range(10_000)}) == 10_000
    people = People(Stream("people"), tongue.locale, tongue.jobs, tongue.called == "name")
    names = [people.person().name for _ in range(3_000)]
    assert len(set(names)) == 3_000
    if not tongue.blank:
        assert min(map(len, names)) > 2
        assert not any(" " in name for name in names)


@pytest.mark.parametrize("code", OTHERS)
def test_word_lists_repeat_nothing(code: str) -> None:
    tongue = language(code)
    for name, columns in (("adjectives.txt", max(1, len(tongue.sorts))), ("nouns.tsv", 5), ("materials.tsv", 3)):
        rows = tongue.lexicon(name)
        assert {len(row) for row in rows} == {columns}
        assert len({row[0] for row in rows}) == len(rows) >= 40
    for name in PARTIES.values():
        rows = tongue.lexicon(f"{name}.txt")
        assert {len(row) for row in rows} == {len(tongue.parties)}
        assert len({row[0] for row in rows}) == len(rows) >= 16
        assert not [cell for row in rows for cell in row if re.search(r"[,.;:!?“”„–，。；：]", cell)]


@pytest.mark.parametrize("code", LANGUAGES)
def test_dates_are_read_as_they_are_written(code: str) -> None:
    tongue = language(code)
    for days in range(0, 800, 7):
        day = date(1912, 1, 1) + timedelta(days=days)
        found = re.fullmatch(tongue.pattern("date", weekday=tongue.weekdays, month=tongue.months), tongue.date(day))
        assert found is not None
        assert found["weekday"] == tongue.weekdays[day.weekday()]
        assert tongue.months[day.month - 1] == found["month"]
        assert (int(found["year"]), int(found["day"])) == (day.year, day.day)


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_question_is_heard_as_itself_alone(code: str, kind: str) -> None:
    tongue = language(code)
    draft = draft_of("story_aggregation", "heard", 8, language=code, kind=kind)
    assert [name for name in KINDS if tongue.heard(name, draft.question) is not None] == [kind]


@pytest.mark.parametrize("code", OTHERS)
def test_sales_are_judged_in_every_language(code: str) -> None:
    for seed in range(2):
        draft = draft_of("story_judge", seed, 14, language=code)
        assert task_of("story_judge").oracle(prompt_of(draft)) == draft.answer
        assert draft.answer.split("\n") == draft.answers
        assert len(set(draft.answers)) == 4


@pytest.mark.parametrize("code", LANGUAGES)
def test_names_have_one_order(code: str) -> None:
    """No two things of one material sort equal, so one of them is the first in the alphabet."""
    tongue = language(code)
    for words, forms in (("adjectives.txt", max(1, len(tongue.sorts))), ("nouns.tsv", 1)):
        keys = [{tongue.sorted_as(form) for form in row[:forms]} for row in tongue.lexicon(words)]
        assert sum(map(len, keys)) == len(set[str]().union(*keys)), words
        assert all(key.isascii() for key in set[str]().union(*keys)), words


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("de", ["Osloer Krug aus Ton", "Überlinger Krug aus Ton", "Ulmer Krug aus Ton"]),
        ("es", ["áspera", "barata", "caña", "capa", "copa", "maña", "mapa", "nube", "útil", "vaso"]),
        ("zh", ["蝙蝠纹铜茶壶", "大铜茶壶", "旧铜茶壶", "旧铜镜子", "绿松石", "罗", "小铜茶壶"]),
    ],
)
def test_names_sort_as_in_dictionaries(code: str, names: list[str]) -> None:
    assert sorted(names, key=language(code).sorted_as) == names


def test_spanish_contracts_and_goes_by_sound() -> None:
    prompts = [prompt_of(fill(draft_of(name, "contract", 24, language="es"), 30)) for name in STORIES]
    for prompt in prompts:
        assert not re.search(r"\b[Dd]e el\b|\b[Aa] el\b", prompt)
        assert not re.search(r" y (?:[IiÍí](?![aeou])|[Hh][ií](?![aeou]))", prompt)
    assert language("es").sounded("Ana y Inés y Ian y hizo y hielo") == "Ana e Inés y Ian e hizo y hielo"
    assert language("es").unsounded("Ana e Inés e hizo e \x01", "\x01") == "Ana y Inés y hizo y \x01"


@pytest.mark.parametrize(
    ("noun", "sort", "expected"),
    [
        ("Wiener Kamm aus Horn", "m", ["ein", "einen", "einem", "der", "den", "dem", "ihr", "ihren", "ihrem"]),
        ("Wiener Uhr aus Gold", "f", ["eine", "eine", "einer", "die", "die", "der", "ihre", "ihre", "ihrer"]),
        ("Wiener Buch aus Leder", "n", ["ein", "ein", "einem", "das", "das", "dem", "ihr", "ihr", "ihrem"]),
    ],
)
def test_german_articles_agree(noun: str, sort: str, expected: list[str]) -> None:
    slots = language("de").item(noun, sort, female=True)
    names = [f"{kind}_item{case}" for kind in ("a", "the", "his") for case in ("", "_akk", "_dat")]
    assert [slots[name] for name in names] == [f"{article} {noun}" for article in expected]


def test_spanish_adjectives_agree() -> None:
    things = Things(Stream("agree"), None, "es")
    seen = Counter[str]()
    feminine = {row[1]: row[0] for row in language("es").lexicon("adjectives.txt") if row[0] != row[1]}
    for _ in range(500):
        thing = things.thing()
        last = thing.name.split()[-1]
        assert (last in feminine) <= (thing.sort == "f"), thing.name
        assert (last in feminine.values()) <= (thing.sort == "m"), thing.name
        seen[thing.sort] += 1
    assert min(seen["m"], seen["f"]) > 100
    for masculine, other in language("es").lexicon("adjectives.txt"):
        assert other == (f"{masculine[:-1]}a" if masculine.endswith("o") else masculine)


@pytest.mark.parametrize("code", OTHERS)
def test_scenes_name_no_sum(code: str) -> None:
    price = language(code).price(2).removeprefix("2").strip()
    for rule in language(code).scenes.values():
        said = " ".join(texts(rule))
        assert not re.search(r"\d", said)
        assert price not in said


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("name", [*STORIES, "story_judge", "turns_story", "ladder_multihop"])
def test_stories_that_change_raise_the_version_in_their_language_alone(name: str, code: str) -> None:
    task = task_of(name, language=code)
    assert task.version - type(task).version == language(code).version - 1
    assert replace(task).version == task.version


def test_names_are_of_the_languages_locale_unless_another_is_set() -> None:
    assert task_of("story_retrieval", language="de").settings()["locale"] == "de_DE"
    assert task_of("story_retrieval", language="de", locale="pl_PL").settings()["locale"] == "pl_PL"
    english = task_of("story_retrieval").settings()
    assert english["locale"] == "en_US"
    # What was recorded before there were languages stays what it was.
    assert "language" not in english
