"""From what happened to prose: chapters as passages, with a note of where each event is told."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_tasks.generators.prose.grammar import Rule
from sparse_tasks.generators.prose.people import Person
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.story.world import Chapter, Chronicle, Event
from sparse_tasks.generators.task import Mark, Offer, Passage, Telling

# Elements that may stand around an event; a chapter uses each at most once before any comes again.
_AROUND = ("Thought", "Folk", "Meal", "Mishap", "Animal", "Custom", "Short", "Weather", "Wonder", "PlaceLook")
# Elements of filler, which may repeat within a chapter.
FILLER = ("Thought", "Folk", "Mishap", "Animal", "Custom", "Weather", "Wonder", "PlaceLook")
# Elements of the setting, which has its weather from the chapter's opening.
_SETTING = ("PlaceLook", "Folk", "Animal", "Custom")
# A sentence drawn within this many others, or with a phrase of the same chapter, is redrawn, at most this often.
_MEMORY, _REDRAWS = 240, 4


class Narrator:
    """Tells one chronicle.

    Attributes:
        intro: The story's title and first sentence.
        body: The passages of all chapters.
        chapters: The passages of each chapter, its heading first.
        told: Where each event is told.
    """

    def __init__(self, stream: Stream, chronicle: Chronicle) -> None:
        self._stream = stream
        self._tongue = tongue = chronicle.tongue
        self._scenes = tongue.scenes
        self._events = tongue.events
        # Number of scenes so far, and of the last scene with each sentence.
        self._scene_count = 0
        self._last: dict[str, int] = {}
        self._phrases: set[str] = set()
        self._repeated = tongue.phrases
        self._hero, *company = (f"{{{slot}}}{tongue.blank}" for slot in ("hero", "person", "pfirst"))
        self._company = tuple(company)
        self._met: set[str] = set()
        self._deck: list[str] = []
        hero = chronicle.hero
        self._slots = {"hero": hero.first, **tongue.pronouns[hero.female]}
        self.told: dict[Event, Telling] = {}
        self.intro = (
            f"{tongue.sentence('title', name=hero.name)}\n\n"
            f"{tongue.sentence('opening', name=hero.name, first=hero.first)}\n\n"
            f"{self._sentence(chronicle.setting_out)}\n\n"
        )
        # Filler may follow any paragraph except a heading and a chapter's last, and repeats no phrase of its chapter.
        self._open: list[tuple[Passage, set[str]]] = []
        self.chapters = [self._chapter(chapter) for chapter in chronicle.chapters]
        self.body = [passage for chapter in self.chapters for passage in chapter]

    def chapter_mark(self, i: int) -> Mark:
        """All of a chapter as evidence; ``i`` counts from 0."""
        passages = self.chapters[i]
        return Mark(passages[0], 0, passages[-1], len(passages[-1].text.rstrip()), passages[0].text.rstrip())

    def heading(self, i: int) -> str:
        """The heading of a chapter; ``i`` counts from 0."""
        return self.chapters[i][0].text.rstrip()

    def heading_mark(self, i: int) -> Mark:
        """The heading of a chapter as evidence."""
        return Telling(self.chapters[i][0], 0, len(self.heading(i))).mark(self.heading(i))

    def sentence(self, event: Event) -> str:
        """The sentence that tells an event."""
        told = self.told[event]
        return told.passage.text[told.start : told.end]

    def filler(self, stream: Stream, sentences: int) -> Offer:
        """A paragraph of this many sentences without events; 0 is a single short sentence."""
        passage, self._phrases = stream.choice(self._open)
        elements = stream.sample(FILLER, sentences) or ["Short"]
        text = self._joined([self._scene(element, stream) for element in elements])[0]
        return Offer([text], [], lambda: passage.followers.append(text))

    def _chapter(self, chapter: Chapter) -> list[Passage]:
        stream = self._stream
        self._meet(chapter.person)
        self._deck = []
        self._phrases = set()
        setting: list[str | Event] = [
            self._scene("Opening").replace("{date}", self._tongue.date(chapter.day)),
            chapter.arrival,
            self._scene("PlaceLook"),
        ]
        if stream.below(3):
            setting.insert(2 + stream.below(2), self._scene(stream.choice(_SETTING)))
        company: list[str | Event] = [chapter.meeting, self._scene("Look"), self._scene("Talk")]
        if stream.below(2):
            company.append(self._scene("Talk"))
        paragraphs = [setting, company]
        for event in chapter.events:
            paragraph: list[str | Event] = [event]
            paragraph.insert(stream.below(2), self._scene(self._around()))
            # Some events follow one another in a paragraph, most have one of their own.
            if len(paragraphs) > 2 and stream.below(4) == 0:
                paragraphs[-1] += paragraph
            else:
                paragraphs.append(paragraph)
        closing: list[str | Event] = [self._scene("Night")]
        if stream.below(3) == 0:
            closing.insert(0, self._scene(self._around()))
        paragraphs.append(closing)
        passages = [self._paragraph(paragraph) for paragraph in paragraphs]
        self._open += [(passage, self._phrases) for passage in passages[:-1]]
        return [Passage(f"{self._tongue.sentence('chapter', n=chapter.number)}\n\n"), *passages]

    def _around(self) -> str:
        """An element around an event; none repeats before all were used."""
        if not self._deck:
            self._deck = list(_AROUND)
            self._stream.shuffle(self._deck)
        return self._deck.pop()

    def _paragraph(self, sentences: list[str | Event]) -> Passage:
        text, spans = self._joined(sentences)
        passage = Passage(text)
        for event, (start, end) in spans.items():
            self.told[event] = Telling(passage, start, end)
        return passage

    def _joined(self, sentences: Sequence[str | Event]) -> tuple[str, dict[Event, tuple[int, int]]]:
        """A paragraph of open sentences and events, and the positions of the events."""
        text, subject, blank = "", "", self._tongue.blank
        spans: dict[Event, tuple[int, int]] = {}
        for sentence in sentences:
            if isinstance(sentence, Event):
                filled, subject = self._sentence(sentence), ""
                spans[sentence] = len(text), len(text) + len(filled)
            else:
                about = self._about(sentence)
                # A pronoun for a name that begins the sentence before it too.
                again = about and about == subject
                filled = self._filled(f"{{{about}}}{sentence.partition('}')[2]}" if again else sentence, {})
                subject = "" if about and _names_both(sentence) else about
            text += filled + blank
        return text.rstrip() + "\n\n", spans

    def _sentence(self, event: Event) -> str:
        kind = event.kind
        if kind == "Meeting":
            # People met before are not introduced again.
            kind = "Reunion" if event.slots["person"] in self._met else kind
            self._met.add(event.slots["person"])
        return self._filled(self._drawn(self._events[kind], self._stream), event.slots)

    def _scene(self, element: str, stream: Stream | None = None) -> str:
        sentence = self._drawn(self._scenes[element], stream or self._stream)
        self._scene_count += 1
        self._last[sentence] = self._scene_count
        return sentence

    def _drawn(self, rule: Rule, stream: Stream) -> str:
        """An open sentence that was not used a little earlier and repeats no phrase, if a few draws find one."""
        forgotten = max(0, self._scene_count - _MEMORY)
        for _ in range(_REDRAWS):
            pieces = rule.pieces(stream)
            sentence = "".join(pieces).lstrip()
            if self._phrases.isdisjoint(pieces) and self._last.get(sentence, 0) <= forgotten:
                break
        self._phrases |= self._repeated.intersection(pieces)
        return sentence

    def _about(self, sentence: str) -> str:
        """Whom a sentence begins with: ``He`` for the traveller, ``PHe`` for the person met, else nobody."""
        if not sentence.startswith("{"):
            return ""
        if sentence.startswith(self._hero):
            return "He"
        return "PHe" if sentence.startswith(self._company) else ""

    def _filled(self, sentence: str, slots: dict[str, str]) -> str:
        filled = sentence.format_map(self._slots | slots if slots else self._slots) if "{" in sentence else sentence
        # A leading pronoun may be empty, as in Spanish.
        filled = filled.lstrip()
        # Not every script with capitals uses them at the start of a sentence (Georgian does not).
        first, head = filled[0], filled[0].title()
        return self._tongue.sounded(filled if head == first else head + filled[1:])

    def _meet(self, person: Person) -> None:
        # The sentence of the meeting gives the full name; after that the first name is enough.
        self._slots |= {"person": person.first, "pfirst": person.first}
        pronouns = self._tongue.pronouns[person.female]
        self._slots |= {("P" if name[0].isupper() else "p") + name: word for name, word in pronouns.items()}


def _names_both(sentence: str) -> bool:
    """Whether a sentence names the traveller and the person met, so that a pronoun could mean either."""
    return "{hero}" in sentence and ("{person}" in sentence or "{pfirst}" in sentence)
