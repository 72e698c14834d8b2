"""The text as a reader sees it: whole sentences, right articles, no slot left open, no chapter like another."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache
from importlib.resources import files

import pytest

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prose.grammar import Rule, read_lexicon
from sparse_tasks.generators.prose.words import with_article
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.grammar import events, lexicon, scenes
from sparse_tasks.generators.story.narrator import Narrator
from sparse_tasks.generators.story.reader import read
from sparse_tasks.generators.story.world import simulate
from tests.generators.drafts import KINDS, STORIES, chapters_of, context_of, draft_of, fill, prompt_of, task_of

SEEDS = range(6)
# Which words that begin with these letters sound as they do not look; every other word of the texts is decided by its
# first letter, and a word that is in neither list fails the test, so that somebody checks it.
YOO = {"use", "useful"}
OO = {
    *("ugly", "umbrella", "unassuming", "undecorated", "understanding", "unfashionable", "unfinished", "unmade"),
    *("unmarried", "unremarkable", "unsigned", "unusual", "upper", "upturned", "urn"),
}
WUN = {"one", "once", "one-armed"}
SILENT_H = {"hour", "honest", "heir", "heiress", "honour", "honourable", "hour's"}


JOBS = files("sparse_tasks.generators.prose") / "lexicon" / "jobs.txt"


def needs_an(word: str) -> bool:
    word = word.lower()
    if word[0] == "u" or word.startswith(("eu", "ew")):
        assert word in YOO | OO, f"say {word!r} aloud and put it into a list"
        return word in OO
    if word.startswith("on") and word in WUN:
        return False
    if word[0] == "h":
        return word in SILENT_H
    return word[0] in "aeio"


@cache
def prompts() -> dict[str, str]:
    """Stories of all tasks with filler, as English as they get."""
    made = {}
    for seed in SEEDS:
        for name in STORIES:
            made[f"{name} {seed}"] = prompt_of(fill(draft_of(name, f"prose {seed}", 40), 20))
        for kind in KINDS:
            made[f"{kind} {seed}"] = prompt_of(fill(draft_of("story_aggregation", f"prose {seed}", 20, kind=kind), 10))
    return made


def paragraphs(prompt: str) -> list[str]:
    return [p for chapter in chapters_of(prompt) for p in chapter.split("\n\n") if p]


def sentences(paragraph: str) -> list[str]:
    # Quotations may end within a sentence; then a word in lower case follows.
    return re.split(r"(?<=[.!?])(?:”)?\s+(?=[A-Z“\d])", paragraph)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_slot_is_left_open(seed: int) -> None:
    for name, prompt in prompts().items():
        if name.endswith(f" {seed}"):
            assert not re.search(r"[{}]", prompt), name
            assert "None" not in prompt
            assert "\x01" not in prompt


def test_blanks_are_single_and_lines_are_trimmed() -> None:
    for name, prompt in prompts().items():
        assert "  " not in prompt, name
        assert "\n\n\n" not in prompt, name
        assert not re.search(r"[ \t]\n|\n[ \t]", prompt), name
        assert not re.search(r" [,.;:!?”]|“ ", prompt), name


def test_every_sentence_begins_with_a_capital_and_ends() -> None:
    for name, prompt in prompts().items():
        for paragraph in paragraphs(prompt):
            assert re.match(r"[A-Z“\d]", paragraph), (name, paragraph)
            assert re.search(r"[.!?]”?$", paragraph), (name, paragraph)
            # After the end of a sentence a capital follows; after one within quotation marks the clause may go on.
            assert not re.search(r"\. [a-z]", paragraph), (name, paragraph)
            assert paragraph.count("“") == paragraph.count("”"), (name, paragraph)


def test_a_and_an_are_right_in_every_text() -> None:
    wrong = Counter[str]()
    for prompt in prompts().values():
        for article, word in re.findall(r"\b([Aa]n?) ([A-Za-z][A-Za-z'-]*)", prompt):
            if (article.lower() == "an") != needs_an(word):
                wrong[f"{article} {word}"] += 1
    assert not wrong


def test_a_and_an_are_right_in_the_files() -> None:
    said = [text for rule in (scenes() | events()).values() for text in pieces(rule)]
    said += [party for name in ("vendors", "dealers", "givers", "recipients") for (party,) in lexicon(f"{name}.txt")]
    for text in said:
        for article, word in re.findall(r"\b([Aa]n?) ([A-Za-z][A-Za-z'-]*)", text):
            assert (article.lower() == "an") == needs_an(word), text


@pytest.mark.parametrize("name", ["adjectives.txt", "jobs.txt", "materials.tsv", "nouns.tsv"])
def test_article_goes_by_sound_for_every_word(name: str) -> None:
    for word, *_ in lexicon(name) if name != "jobs.txt" else read_lexicon(JOBS):
        assert with_article(word).split()[0] == ("an" if needs_an(word.split()[0]) else "a")


def pieces(rule: Rule, seen: set[int] | None = None) -> list[str]:
    seen = set() if seen is None else seen
    if id(rule) in seen:
        return []
    seen.add(id(rule))
    found = []
    for alternative in rule.alternatives:
        for piece in alternative:
            found += [piece] if isinstance(piece, str) else pieces(piece, seen)
    return found


def test_no_two_chapters_are_alike() -> None:
    for name, prompt in prompts().items():
        chapters = chapters_of(prompt)
        assert len(set(chapters)) == len(chapters), name
        # Not even when dates are taken out.
        bare = [re.sub(r"[A-Z][a-z]+day, \d+ \w+ \d{4}", "", chapter) for chapter in chapters]
        assert len(set(bare)) == len(bare), name


def test_sentences_rarely_repeat_in_a_chapter() -> None:
    twice, all_of_them = 0, 0
    for prompt in prompts().values():
        for chapter in chapters_of(prompt):
            reported = [s for paragraph in chapter.split("\n\n") for s in sentences(paragraph)]
            all_of_them += len(reported)
            twice += len(reported) - len(set(reported))
    assert twice / all_of_them < 0.001


def test_frames_rarely_repeat_in_a_paragraph() -> None:
    # Five words in a row that come back in the same paragraph catch the eye; names and things are left out.
    back, all_of_them = 0, 0
    for prompt in prompts().values():
        story = read(prompt)
        things = {fact.thing for page in story.pages for fact in page.facts if fact.thing}
        names = {fact.name for page in story.pages for fact in page.facts if fact.name}
        for paragraph in paragraphs(prompt):
            for said in things | names:
                paragraph = paragraph.replace(said, "X")
            words = re.findall(r"[a-z']+", paragraph.replace(story.hero, "X"))
            runs = Counter(zip(*(words[i:] for i in range(5)), strict=False))
            back += any(count > 1 for count in runs.values())
            all_of_them += 1
    assert back / all_of_them < 0.01


def test_stories_differ_from_seed_to_seed() -> None:
    for name in STORIES:
        reported = [set(sentences(" ".join(paragraphs(prompts()[f"{name} {seed}"])))) for seed in SEEDS]
        for i, one in enumerate(reported):
            for other in reported[i + 1 :]:
                assert len(one & other) / len(one) < 0.25


def test_who_has_been_met_is_not_introduced_again() -> None:
    for name, prompt in prompts().items():
        met: set[str] = set()
        for page in read(prompt).pages:
            fact = page.only("Meeting")
            again = not re.search(r"\b[Aa]n? (?!second|familiar|hand|small|good)[a-z]", fact.sentence)
            if fact.name in met:
                assert not re.search(
                    r"introduced|acquaintance of|is new|are new here|gave the name|stranger w", fact.sentence
                )
            else:
                assert not again or "occupation of" in fact.sentence, (name, fact.sentence)
            met.add(fact.name)


def test_nobody_but_the_person_of_the_chapter_is_named_outside_hearsay() -> None:
    # Whom the traveller met must not be open to doubt.
    for name, prompt in prompts().items():
        story = read(prompt)
        everybody = {fact.name for _, fact in story.facts("Meeting")}
        for page, chapter in zip(story.pages, chapters_of(prompt), strict=True):
            met = page.only("Meeting").name
            heard = [fact.sentence for fact in page.facts if fact.kind == "Hearsay"]
            for sentence in heard:
                chapter = chapter.replace(sentence, "")
            assert not [other for other in everybody - {met} if other in chapter], (name, page.number)


def test_intro_names_the_traveller_in_full_and_says_what_to_call_him() -> None:
    draft = draft_of("story_retrieval", "intro", 8)
    story = read(prompt_of(draft))
    assert re.match(r"The Travels of (.+)\n\nThis is the story of \1, called \w+ from here on", draft.intro)
    assert story.hero in draft.intro
    assert draft.intro.endswith("\n\n")
    assert context_of(draft).startswith(draft.intro)


def test_filler_is_whole_paragraphs_behind_the_passages_of_a_chapter() -> None:
    plain, filled = draft_of("story_filtering", "filler", 10), fill(draft_of("story_filtering", "filler", 10), 40)
    assert [passage.text for passage in plain.body] == [passage.text for passage in filled.body]
    for passage, following in zip(filled.body, filled.body[1:] + filled.body[-1:], strict=True):
        # Neither between a heading and its chapter nor after the sentence that ends the day.
        if passage.text.startswith("Chapter ") or following.text.startswith("Chapter ") or passage is following:
            assert passage.followers == []
        for text in passage.followers:
            assert text.endswith("\n\n")
            assert text.count("\n\n") == 1
            assert read(prompt_of(filled)).pages
    assert sum(len(passage.followers) for passage in filled.body) == 40 * 4


def test_pronouns_follow_the_traveller_and_the_person() -> None:
    # Of a man and a woman, a pronoun at the head of a sentence means the one that the sentence before is about.
    checked = 0
    for seed in range(12):
        task, stream = task_of("story_retrieval"), Stream("pronouns", seed)
        chronicle = simulate(stream.fork(1), task.plan(stream.fork(2), 30, Depth()))  # type: ignore[attr-defined]
        narrator = Narrator(stream.fork(3), chronicle)
        hero = chronicle.hero
        for chapter, passages in zip(chronicle.chapters, narrator.chapters, strict=True):
            for passage in passages:
                reported = sentences(passage.text.strip())
                for before, sentence in itertools.pairwise(reported):
                    if (found := re.match(r"(He|She)\b", sentence)) is None:
                        continue
                    checked += 1
                    previous = re.match(r"(He|She)\b", before)
                    if before.startswith(hero.first + " "):
                        assert found[1] == ("She" if hero.female else "He")
                    elif before.startswith(chapter.person.first):
                        assert found[1] == ("She" if chapter.person.female else "He")
                    else:
                        assert previous is not None
                        assert found[1] == previous[1]
    assert checked > 100
