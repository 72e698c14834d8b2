r"""The answer parser: extraction of a model's answer, and the form in which answers are compared.

Every task and every metric uses this parser. It is strict on purpose: prompts ask for ``<answer>``, and prose
around it is not searched for a possible answer. Scoring whole
prose when tags are missing rewards a model for repeating its context (sparse-frontier, variable tracking),
and so does substring matching (RULER).

Three steps, each public; between the first and the others, the rules of ``forms`` read what is not right as it stands:

- ``extract`` (or ``extraction``, with the answer's form): output text -> answer text, or None.
- ``items``: answer text -> the entries of a list answer.
- ``normalise``: an entry -> the form in which it is compared. Both sides of a comparison go through it.

Everything here reads untrusted text, so every function takes time linear in its input.
"""

import re
import string
import unicodedata
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from sparse_tasks.evaluators.announcements import HEADING_LINE
from sparse_tasks.evaluators.thinking import NO_PROMPT, Thinking

How = Literal["tag", "open_tag", "boxed"]


@dataclass(frozen=True, slots=True)
class Extraction:
    """An answer and where it was found.

    Attributes:
        text: The answer, stripped, never empty.
        how: "tag", a closed ``<answer>``; "open_tag", an ``<answer>`` cut off by the end of the output; "boxed", a
            LaTeX box without any tag, as models trained on mathematics write. The last two are fallbacks, which reports
            count separately.
    """

    text: str
    how: How


# --- output text -> answer text -----------------------------------------------------------------------------

_ANSWER_TAG: Final = re.compile(r"<(?P<closing>/?)answer\s*>", re.IGNORECASE)
_BOX: Final = "\\boxed{"
# Words between two tags that are only mentioned; dots alone do not count.
_JOINING: Final = frozenset(
    {"and", "or", "to", "then", "with", "the", "tag", "tags", "opening", "closing", "your", "my", "answer", "here"}
)
_TELLING: Final = _JOINING - {"the", "opening", "closing", "your", "my", "answer"}
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation + "\u2026\u201c\u201d\u2018\u2019")


def extract(text: str, begun: bool = False, thinking: Thinking = NO_PROMPT, before: str = "") -> str | None:
    """The answer in a model's output, or None. See ``extraction``."""
    extracted = extraction(text, begun, thinking, before)
    return None if extracted is None else extracted.text


def extraction(text: str, begun: bool = False, thinking: Thinking = NO_PROMPT, before: str = "") -> Extraction | None:
    r"""The answer in a model's output with its form, or None.

    Outside of thought, in this order: the last closed ``<answer>...</answer>``; an unclosed
    ``<answer>``, to the end; the last ``\boxed{...}``. Tags are matched in any case. The first kind present
    decides: an empty ``<answer></answer>`` is not an answer, even after an earlier answer, because the last word
    counts. Tags that are only mentioned, as in "between <answer> and </answer>", do not count.

    An output that was begun with ``<answer>`` is the answer up to the first ``</answer>``, or else to the end (an
    "open_tag"); anything after the answer is ignored.

    Args:
        text: Output of the model.
        begun: Whether the prompt ended with ``<answer>``.
        thinking: The marks of thought, and whether the prompt opened a block.
        before: The beginning of the answer in the prompt, which the model continues; not part of its thought.
    """
    visible = before + thinking.visible(text)
    closed: str | None = None
    opened: int | None = 0 if begun else None
    opened_at: int | None = None
    for tag in _ANSWER_TAG.finditer(visible):
        if not tag["closing"]:
            # A second opening tag resets: "I will use <answer> tags. <answer>46</answer>" answers 46.
            opened_at, opened = tag.span()
        elif opened is not None:
            between, opened = visible[opened : tag.start()], None
            if opened_at is not None and _named(visible[max(0, opened_at - 2) : opened_at], between):
                continue
            closed = between
            if begun:
                break
    if closed is not None:
        return _extraction(closed, "tag")
    if opened is not None:
        return _extraction(visible[opened:], "open_tag")
    boxed = _last_box(visible)
    return None if boxed is None else _extraction(boxed, "boxed")


def _extraction(text: str, how: How) -> Extraction | None:
    stripped = text.strip()
    return Extraction(stripped, how) if stripped else None


def _named(before: str, between: str) -> bool:
    """Whether tags are only mentioned: "between <answer> and </answer>", "the <answer></answer> tags".

    Args:
        before: The two characters before the opening tag.
        between: The text between the tags.
    """
    if not between.strip(" .\u2026"):
        return between.strip() != "" or (before.endswith(" ") and before[:1].isalnum())
    words = between.translate(_NO_PUNCTUATION).lower().split()
    return _JOINING.issuperset(words) and not _TELLING.isdisjoint(words)


def _last_box(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}``, braces balanced; None without a closed box."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return text[start:position]
    return None


# --- entry -> the form that is compared -----------------------------------------------------------------

_UNIFIED: Final = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u2039\u203a", "'"),
        **dict.fromkeys(
            "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011",
            '"',
        ),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-"),
        # Invisible marks: soft hyphen, zero-width space, direction marks, byte order mark. Zero-width joiners are kept:
        # they are part of the spelling in Persian and in several Indian scripts.
        **dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff", ""),
        # Separators in Arabic numbers, of thousands and of decimals.
        "\u066c": ",",
        "\u066b": ".",
        # Markdown. Underscores are stripped only at the ends, because variable names contain them.
        **dict.fromkeys("*`", ""),
    }
)
# Would become part of a number by removal of marks and the compatibility form: 4*6 and 4\u2076 are not 46.
_TIMES: Final = re.compile(r"(?<=\d)[*`]+(?=\d)")
_RAISED: Final = re.compile("(?<=[0-9])(?=[\u00b2\u00b3\u00b9\u2070-\u209c])")
_OTHER_DIGIT: Final = re.compile(r"(?![0-9])\d")
# Articles of the languages in which tasks are asked, and Chinese numerals with a measure word.
_ARTICLES: Final = "an?|the|der|die|das|den|dem|eine?|einen|einem|einer|el|la|los|las|una?"
_MEASURES: Final = "个只把枚块座方支张尊盏根条顶件副双床幅面本串架"
_LEADING: Final = re.compile(rf"""(?:[\s"'_$:¡¿]|(?:{_ARTICLES})\s|[一那这1][{_MEASURES}](?=\w))+""")
# Blanks between Chinese characters have no meaning.
_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff"
_HAN_BLANK: Final = re.compile(f"(?<=[{_HAN}]) (?=[{_HAN}])")
_TRAILING: Final = " \"'_$.,;:!?\u3002\u3001\u061f\u060c\u0964"
# A line of only these, such as "---" or the bracket of a JSON list, contains no answer.
_PUNCTUATION: Final = " \t" + string.punctuation + "\u2026\u2014"
# Groups of three after a first group, standing alone: 3,117,42 is a list, not a number.
_THOUSANDS: Final = re.compile(r"(?<![\w.])(?<![0-9],)[0-9]{1,3}(?:,[0-9]{3})+(?!\w|[.,][0-9])")
_CHAPTER: Final = re.compile(
    r"(?:ch(?:apters?|\.)|kap(?:iteln?|\.)|cap(?:[ií]tulos?|\.))\s*[:#]?\s*([0-9]+)|第\s*([0-9]+)\s*章"
)


def normalise(item: str) -> str:
    """An answer in the form for comparison; "" if nothing is left to compare.

    Unicode compatibility form and case folding (NFKC, Unicode Standard Annex 15); blanks collapsed, those between
    Chinese characters dropped;
    typographic quotes and dashes made plain; markdown emphasis, surrounding quotes, leading articles and
    final punctuation dropped; "1,234" is "1234"; "Chapter 3" is "3"; "key : value" is "key: value", each side
    treated so. Hyphens, apostrophes and accents inside a word stay: they tell names apart.
    """
    item = _RAISED.sub("^", ascii_digits(item))
    text = unicodedata.normalize("NFKC", _TIMES.sub("\u00d7", item).translate(_UNIFIED)).casefold()
    # Again, because folding can undo the compatibility form, and that form can introduce marks to unify.
    text = unicodedata.normalize("NFKC", text).translate(_UNIFIED)
    text = " ".join(text.split())
    if not text.isascii():
        text = _HAN_BLANK.sub("", text)
    if not text.strip(_PUNCTUATION):
        return ""
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    chapter = _CHAPTER.fullmatch(_tidy(text))
    if chapter:
        return chapter[1] or chapter[2]
    key, _, value = text.lstrip(" :").partition(":")
    return ": ".join(part for part in (_tidy(key), _tidy(value)) if part)


def ascii_digits(text: str) -> str:
    """Text with the decimal digits of all scripts as 0 to 9."""
    return text if text.isascii() else _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)


def _tidy(text: str) -> str:
    """Text without quotes around it, leading articles and final punctuation; "the" alone stays."""
    text = text.rstrip(_TRAILING)
    leading = _LEADING.match(text)
    rest = text[leading.end() :] if leading else text
    return rest if rest.strip(_PUNCTUATION) else text


# --- answer text -> the entries of a list -------------------------------------------------------------------

_MARKDOWN: Final = str.maketrans("", "", "*`")
_BULLET: Final = re.compile(r"(?:[-+\u2013\u2014]\s+|[\u2022\u2023\u25e6\u25aa\u25cf\u00b7]\s*)")
_NUMBERED: Final = re.compile(r"[(（]?([0-9]{1,3})(?:[.)．）](?:\s+|(?=[^\W\d]))|、(?=[^\W\d]))(?=\S)")
_NUMBERED_BY_COLON: Final = re.compile(r"([0-9]{1,3})(?::\s+(?=\S)|[:\uff1a](?=[^\W\d])|\uff1a)")
_NUMBERED_INSIDE: Final = re.compile(r"(?:^|(?<=\s))\(?([0-9]{1,3})[.)]\s+")
_ONLY_NUMBERS: Final = re.compile(
    r"(?:(?:chapters?|kapiteln?|cap[ií]tulos?)\s)?[0-9,;\uff0c\u3001\uff1b\s]+(?:(?:and|und|y)\s+[0-9]+)?[.。]?",
    re.IGNORECASE,
)
_SEMICOLON: Final = re.compile(r"[;\uff1b\u061b](?:\s*(?:and|und|sowie|y)\s)?", re.IGNORECASE)
_COMMA: Final = re.compile(r"[,\uff0c\u3001\u060c](?:\s*(?:and|und|sowie|y)\s)?", re.IGNORECASE)
_AND: Final = re.compile(r"\s(?:and|und|sowie|y)\s", re.IGNORECASE)
# Between names these may be part of a name.
_HAN_AND: Final = re.compile("以及|和|及|与")
_NUMBER_OR_CHAPTER: Final = re.compile("第? ?[0-9]+ ?章?[.。]?")
_MOST_JOINTS: Final = 3  # in a name
_BRACKETS: Final = {"[": "]", "(": ")", "{": "}", "\uff08": "\uff09", "\u3010": "\u3011"}
_QUOTES: Final = {
    '"': '"',
    "'": "'",
    "\u201c": "\u201d",
    "\u201e": "\u201c",
    "\u2018": "\u2019",
    "\u00ab": "\u00bb",
    "\u300c": "\u300d",
    "\u300e": "\u300f",
    "\u3008": "\u3009",
    "\u300a": "\u300b",
    "\u3010": "\u3011",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list answer, and its number ("3. Otter Quay" -> 3), if any."""

    number: int | None
    text: str


def items(answer: str, known: AbstractSet[str] = frozenset()) -> list[str]:
    """The entries of a list answer, in order, repeats included. See ``entries``."""
    return [entry.text for entry in entries(answer, known)]


def entries(answer: str, known: AbstractSet[str] = frozenset()) -> list[Entry]:
    """The entries of a list answer, in order, repeats included, with their numbers.

    Each line of several is an entry, whatever commas it holds, bare numbers apart. A single line is split at
    its numbers ("1. a 2. b"), or else at semicolons, or else at commas, and at "and" before the last.
    Numbering, bullets, emphasis, backticks, quotes and brackets around an entry are removed.

    Args:
        answer: The extracted answer text.
        known: Normalised entries that are never broken up: a metric gives the gold ones. One line cannot say
            whether "Salt and Pepper Inn" is a single place, or "103,217,342" a single number; the gold answer can.
            It earns nothing: an entry still scores only if it equals a gold entry.
    """
    lines = [_bare(line) for line in answer.splitlines()]
    lines = [line for line in lines if line.strip(_PUNCTUATION)]
    if len(lines) > 1:
        # "The chapters are:" announces the list and is not an entry.
        lines = [line for line in lines if not HEADING_LINE.fullmatch(line)]
    if len(lines) == 1:
        pieces = _split_line(lines[0], known)
    else:
        pieces = []
        for line in lines:
            pieces += _split_line(line, known) if _ONLY_NUMBERS.fullmatch(line) else [line]
    bare = [Entry(entry.number, _unquoted(entry.text)) for entry in _numbered(pieces, known)]
    return [entry for entry in bare if entry.text.strip(_PUNCTUATION)]


def unmarked(text: str) -> str:
    """Text without Markdown's emphasis and code marks."""
    return _TIMES.sub("\u00d7", text).translate(_MARKDOWN)


def _bare(line: str) -> str:
    """A line without markdown and bullet."""
    line = unmarked(line).strip()
    bullet = _BULLET.match(line)
    return line[bullet.end() :] if bullet else line


def _split_line(line: str, known: AbstractSet[str]) -> list[str]:
    """The entries of a line, still with their numbers."""
    if _is_known(line, known):
        return [line]
    closing = _BRACKETS.get(line[0])
    if closing and line.find(closing) == len(line) - 1:
        line = line[1:-1].strip()
    markers = list(_NUMBERED_INSIDE.finditer(line))
    # Only 1, 2, 3... from the start of the line is a numbered list; other numbers belong to the text.
    in_sequence = [int(marker[1]) for marker in markers] == list(range(1, len(markers) + 1))
    if len(markers) > 1 and in_sequence and markers[0].start() == 0:
        cuts = [marker.start() for marker in markers] + [len(line)]
        return [line[cuts[i] : cuts[i + 1]].strip() for i in range(len(markers))]
    line = _THOUSANDS.sub(lambda number: _thousands_or_list(number[0], known), line)
    separator = _SEMICOLON if _SEMICOLON.search(line) else _COMMA
    *first, last = (piece.strip() for piece in separator.split(line))
    pieces = [*first, *_divided(last, _AND, known)]
    if line.isascii():
        return pieces
    return [part for piece in pieces for part in _divided(piece, _HAN_AND, known, others=False)]


def _divided(piece: str, joint: re.Pattern[str], known: AbstractSet[str], others: bool = True) -> list[str]:
    """The entries of a piece split at a word, except within known entries.

    Args:
        piece: Some entries.
        joint: The word.
        known: Normalised entries.
        others: Whether it divides other entries, too, or only numbers and known ones from their neighbours.
    """
    edges = [0, *(edge for found in joint.finditer(piece) for edge in found.span()), len(piece)]
    parts = list(zip(edges[::2], edges[1::2], strict=True))
    pieces: list[str] = []
    start, i = 0, 0  # of an undivided span
    while i < len(parts):
        begin = parts[i][0]
        runs = [piece[begin:end].strip() for _, end in parts[i : i + _MOST_JOINTS + 1]]
        length = next((n for n in range(len(runs), 0, -1) if _is_known(runs[n - 1], known)), 0)
        if not length and (others or _NUMBER_OR_CHAPTER.fullmatch(runs[0])):
            length = 1
        if length:
            if i and start < parts[i - 1][1]:
                pieces.append(piece[start : parts[i - 1][1]].strip())
            pieces.append(runs[length - 1])
        i += length or 1
        if length:
            start = parts[i][0] if i < len(parts) else len(piece)
    return [*pieces, piece[start:].strip()] if start < len(piece) else pieces


def _is_known(piece: str, known: AbstractSet[str]) -> bool:
    """Whether a piece, as it is or without its number, is a known entry."""
    marker = _NUMBERED.match(piece) or _NUMBERED_BY_COLON.match(piece)
    return normalise(piece) in known or (marker is not None and normalise(piece[marker.end() :]) in known)


def _thousands_or_list(run: str, known: AbstractSet[str]) -> str:
    """Turn "1,234" into "1234", unless the gold answer shows that it is a list written without blanks."""
    whole = run.replace(",", "")
    parts = run.split(",")
    return ", ".join(parts) if whole not in known and any(part in known for part in parts) else whole


def _numbered(pieces: list[str], known: AbstractSet[str]) -> list[Entry]:
    """Entries with their numbers removed.

    "1: x" is a numbered x only if every piece has such a number and they ascend from 1; else it is a pair.
    """
    gold = [normalise(piece) in known for piece in pieces]
    by_colon = [_NUMBERED_BY_COLON.match(piece) for piece in pieces]
    colon_numbers = [int(marker[1]) for marker in by_colon if marker]
    rising = all(earlier < later for earlier, later in pairwise(colon_numbers))
    if colon_numbers[:1] == [1] and len(colon_numbers) == len(pieces) and rising and not any(gold):
        return [Entry(int(marker[1]), marker.string[marker.end() :]) for marker in by_colon if marker]
    numbered = []
    for piece, is_gold in zip(pieces, gold, strict=True):
        marker = None if is_gold else _NUMBERED.match(piece)
        numbered.append(Entry(int(marker[1]), piece[marker.end() :]) if marker else Entry(None, piece))
    return numbered


def _unquoted(text: str) -> str:
    """An entry without a final comma and a pair of quotes. A lone apostrophe (James') is kept."""
    text = text.strip().rstrip(",;").strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text
