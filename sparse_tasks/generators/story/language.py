"""Languages of the stories: each is a folder of ``languages``, with its grammars, word lists and wording as data.

A language is added as a folder; ``languages/en/language.toml`` documents its fields.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from importlib.resources import files
from string import Formatter
from types import MappingProxyType
from typing import Final, Literal

from sparse_tasks.generators.instructions import Instructions
from sparse_tasks.generators.overlap import Words
from sparse_tasks.generators.prose.grammar import Rule, read_grammars, read_lexicon
from sparse_tasks.generators.prose.words import with_article

ENGLISH: Final = "en"
_FOLDER = files(__package__) / "languages"
Form = str | Mapping[str, str]
"""A text, or one for each case: of grammatical number (``one``, ``many``) or of the class of a noun."""


@cache
def languages(*needed: str) -> tuple[str, ...]:
    """Codes of the languages with all needed sentences, English first."""
    codes = {path.name for path in _FOLDER.iterdir() if (path / "language.toml").is_file()}
    known = (ENGLISH, *sorted(codes - {ENGLISH}))
    return tuple(code for code in known if not needed or set(needed) <= set(language(code).say))


@cache
def language(code: str = ENGLISH) -> Language:
    """The language with this code, one of ``languages()``."""
    data = tomllib.loads((_FOLDER / code / "language.toml").read_text(encoding="utf-8"))
    frame = Instructions(data.pop("preview"), data.pop("explained"), data.pop("plain"))
    pronouns = data.pop("pronouns")
    by_sex = {True: pronouns["female"], False: pronouns["male"]}
    words = Words(frozenset(data.pop("function").casefold().split()), tuple(data.pop("endings")), bool(data["blank"]))
    return Language(code=code, instructions=frame, pronouns=by_sex, words=words, **data)


@dataclass(frozen=True, eq=False)
class Language:
    """A language, as its folder has it.

    Attributes:
        code: Name of the folder, a code of ISO 639 (``de``).
        locale: The default locale of faker for names.
        version: Raised when its stories change.
        blank: Separator of words: a blank or nothing.
        called: How named people are referred to: by their ``first`` name, or their full ``name``.
        words: Function words and endings, for the overlap of questions and texts.
        years: The first and the last year in which a story may begin.
        instructions: The frame of prompts.
        end: Matches the end of a sentence, which is one of the marks in ``stops``, with what it takes to be sure.
        stops: Marks at which a sentence may end.
        thing: Matches the name of a thing.
        weekdays, months: Names, Monday and January first.
        names: How the names of things and places are put together, and made longer where all short ones are taken.
        pronouns: Slots of a person's pronouns and endings, by whether the person is a woman.
        things: Slots of a thing, in which ``{thing}`` is its name and ``{sort}`` the class of its noun.
        say: The sentences around a story, and the questions.
        parties: Endings of the slots of people without a name, one for each column of their word lists.
        sorts: Classes of nouns, one for each column of the list of adjectives, where these agree with nouns.
        sounds: Words that are others (``as``) where something that matches ``before`` follows them.
        comma: Separator of numbers.
        order: Sort keys of letters in the alphabet; other letters sort as themselves.
    """

    code: str
    version: int
    locale: str
    blank: str
    called: Literal["first", "name"]
    words: Words
    years: tuple[int, int]
    instructions: Instructions
    end: str
    stops: str
    thing: str
    weekdays: tuple[str, ...]
    months: tuple[str, ...]
    names: Mapping[str, str]
    pronouns: Mapping[bool, Mapping[str, str]]
    things: Mapping[str, Form]
    say: Mapping[str, Form]
    parties: tuple[str, ...] = ("",)
    sorts: tuple[str, ...] = ()
    sounds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    comma: str = ", "
    order: Mapping[str, str] = field(default_factory=dict)

    @property
    def events(self) -> dict[str, Rule]:
        """Sentences that carry facts, by kind of event (``Purchase``)."""
        return _grammars(self.code, "events", self.blank)

    @property
    def scenes(self) -> dict[str, Rule]:
        """Sentences without facts, by element (``Weather``)."""
        return _grammars(self.code, "scenes", self.blank)

    def lexicon(self, name: str) -> list[list[str]]:
        """Entries of a word list, each split into its columns."""
        return _lexicon(self.code, name)

    @property
    def jobs(self) -> list[list[str]] | None:
        """Occupations as grammars have them, of a man and of a woman; None: those of ``People``."""
        return None if self.code == ENGLISH else self.lexicon("jobs.tsv")

    @property
    def sorts_of_nouns(self) -> list[str]:
        """All classes of nouns in the word list."""
        return sorted({noun[4] for noun in self.lexicon("nouns.tsv") if len(noun) > 4})

    def sort(self, name: str, column: str | None) -> str:
        """The class of a noun: as its word list has it; in English, the article that the name takes."""
        return with_article(name).partition(" ")[0] if column is None else column

    def item(self, name: str, sort: str, female: bool) -> dict[str, str]:
        """The slots of a thing that is the traveller's, a woman or not."""
        return {slot: form.replace("{thing}", name) for slot, form in _forms(self, sort, female).items()}

    def party(self, slot: str, forms: Sequence[str]) -> dict[str, str]:
        """The slots of a person, with a form for each case, or one for all."""
        return {f"{slot}{ending}": forms[min(i, len(forms) - 1)] for i, ending in enumerate(self.parties)}

    def price(self, amount: int) -> str:
        """A sum of money in words and figures.

        >>> language().price(1), language("de").price(1200)
        ('1 crown', '1200 Kronen')
        """
        return self.sentence("price", count=amount)

    def date(self, day: date) -> str:
        """A date with its weekday."""
        weekday, month = self.weekdays[day.weekday()], self.months[day.month - 1]
        return self.sentence("date", weekday=weekday, day=day.day, month=month, year=day.year)

    def sentence(self, key: str, **values: object) -> str:
        """A sentence of ``say``; of two forms the one for ``count``."""
        form = self.say[key]
        if not isinstance(form, str):
            form = form["one" if values["count"] == 1 else "many"]
        return form.format_map(values)

    def heard(self, key: str, text: str) -> dict[str, str] | None:
        """Values of a sentence's placeholders if a text matches it; else None."""
        found = next(filter(None, (pattern.search(text) for pattern in _patterns(self, key))), None)
        return None if found is None else found.groupdict()

    def pattern(self, key: str, **values: Sequence[str]) -> str:
        """A regular expression for a sentence, with a group for each placeholder; of two forms for either.

        Args:
            key: Name of the sentence.
            values: Expressions of placeholders.
        """
        form = self.say[key]
        if isinstance(form, str):
            return _written(form, values)
        # A group name can occur only once, so forms differ only after their placeholder.
        head = form["many"][: form["many"].index("}") + 1]
        rest = "|".join(re.escape(form[number].removeprefix(head)) for number in ("many", "one"))
        return f"{_written(head)}(?:{rest})"

    def sounded(self, text: str) -> str:
        """A sentence with words adapted to the sound of the next word."""
        for pattern, other in _sounded(self):
            text = pattern.sub(other, text)
        return text

    def unsounded(self, text: str, mask: str) -> str:
        """The sentence as in its grammar; ``mask`` may replace a name in it."""
        for pattern, word in _unsounded(self, mask):
            text = pattern.sub(word, text)
        return text

    def sorted_as(self, name: str) -> str:
        """The sort key of a name in the alphabet.

        >>> sorted(["Zürcher Uhr", "Ulmer Uhr", "Überlinger Uhr"], key=language("de").sorted_as)
        ['Überlinger Uhr', 'Ulmer Uhr', 'Zürcher Uhr']
        """
        return name.casefold().translate(self._order)

    @cached_property
    def _order(self) -> dict[int, str]:
        return {ord(letter): plain for plain, letters in self.order.items() for letter in letters}

    def is_of(self, material: str, thing: str) -> bool:
        """Whether a thing's name says that it is made of a material."""
        return material in (thing.split() if self.blank else thing)

    @cached_property
    def phrases(self) -> frozenset[str]:
        """Pieces of grammars whose repetition a reader would notice: at least two words."""
        pieces = {piece for rule in (*self.events.values(), *self.scenes.values()) for piece in rule.texts()}
        return frozenset(piece for piece in pieces if (piece.rfind(" ") > 0 if self.blank else len(piece) > 4))


@cache
def _forms(language: Language, sort: str, female: bool) -> dict[str, str]:
    """The slots of a thing, in which ``{thing}`` still stands for its name."""
    values = {"thing": "{thing}", "sort": sort, **language.pronouns[female]}
    forms = {slot: form if isinstance(form, str) else form[sort] for slot, form in language.things.items()}
    return {slot: form.format_map(values) for slot, form in forms.items()}


# Placeholders that are numbers; all others are anything within a line.
_NUMBERS = {"n", "count", "day", "year"}


@cache
def _sounded(language: Language) -> list[tuple[re.Pattern[str], str]]:
    """Words that depend on the sound of the next word, and their other forms."""
    return [
        (re.compile(rf"(?<= ){word}(?= (?:{other['before']}))"), other["as"]) for word, other in language.sounds.items()
    ]


@cache
def _unsounded(language: Language, mask: str) -> list[tuple[re.Pattern[str], str]]:
    """The other forms, also before ``mask``, and the words."""
    return [
        (re.compile(rf"(?<= ){other['as']}(?= (?:{mask}|{other['before']}))"), word)
        for word, other in language.sounds.items()
    ]


@cache
def _patterns(language: Language, key: str) -> list[re.Pattern[str]]:
    form = language.say[key]
    return [re.compile(_written(each)) for each in ([form] if isinstance(form, str) else form.values())]


def _written(form: str, values: Mapping[str, Sequence[str]] = MappingProxyType({})) -> str:
    """A regular expression for a filled form, with a group for each placeholder."""
    written, seen = "", set[str]()
    for literal, name, _, _ in Formatter().parse(form):
        written += re.escape(literal)
        if name is not None:
            value = "|".join(map(re.escape, values[name])) if name in values else _value(name)
            written += f"(?P={name})" if name in seen else f"(?P<{name}>{value})"
            seen.add(name)
    return written


def _value(name: str) -> str:
    return r"\d+" if name in _NUMBERS else r"[^\n]+?"


@cache
def _grammars(code: str, folder: str, blank: str) -> dict[str, Rule]:
    return read_grammars(_FOLDER / code / folder, blank)


@cache
def _lexicon(code: str, name: str) -> list[list[str]]:
    return read_lexicon(_FOLDER / code / "lexicon" / name)
