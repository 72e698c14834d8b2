"""Sentence ends, and cutting texts at them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

_LINE = re.compile(r"[^\n]+\n*")
# Scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer; then the marks, kana and characters of
# Chinese and Japanese.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff"
_IDEOGRAPHIC = "\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
# Stops that end a sentence whatever follows: of Chinese and Japanese, Arabic, Devanagari, Ethiopic, Burmese, Khmer,
# Tibetan, Armenian and Syriac; and those of ASCII between Chinese or Japanese characters.
_STOP = f"(?:[。．｡！？‼⁇⁈⁉؟۔।॥።፧፨။។៕།༎๚๛։܀܁܂]|(?<=[{_IDEOGRAPHIC}])[!?](?=[{_IDEOGRAPHIC}]))"
_CLOSING = "\"'”’»)\\]」』】〉》〕）］｝｣"
_WIDE_END = re.compile(rf"[.!?…]*{_STOP}(?:{_STOP}|[.!?…])*[{_CLOSING}]*")
_END = re.compile(rf"{_WIDE_END.pattern}|[.!?…]+[{_CLOSING}]*(?=\s|$)")
_PLAIN_END = re.compile(rf"[.!?…]+[{_CLOSING}]*")
_BETWEEN = re.compile(f"[{_IDEOGRAPHIC}]{{2}}")  # two adjacent characters
_LONGEST_WORD = 40  # in characters; longer runs mean that blanks do not separate words
_DENSE = re.compile(rf"[{_UNSPACED}{_IDEOGRAPHIC}]|(?<=\S{{{_LONGEST_WORD}}})\S")
_LONG_RUN = re.compile(rf"\S{{{_LONGEST_WORD + 1}}}")
_PAUSE = re.compile(r"[,;:、，；：،؛၊]|\s+")
# A text with longer sentences or words than this counts as having none.
_FEW_SENTENCES, _FEW_WORDS = 400, 60
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Lt|Capt|Sgt|Rev|vs|etc|No|Vol|e\.g|i\.e))$"
)


def sentence_ends(text: str) -> list[int]:
    """Offsets behind the sentences of a text, in order.

    >>> sentence_ends("Mr. Ames left. He came back!")
    [14, 28]
    """
    marks = list(_END.finditer(text))
    ends = [mark.end() for mark in marks if _is_end(text, mark)]
    # If most marks seem to end nothing, the text has no capitals: each mark ends a sentence.
    return ends if 3 * len(ends) > len(marks) else [mark.end() for mark in marks]


def split_wide(text: str) -> Iterator[str]:
    """A text, cut behind stops that end a sentence whatever follows.

    >>> list(split_wide("你好。「再见！」Done. And on"))
    ['你好。', '「再见！」', 'Done. And on']
    """
    start = 0
    for mark in _WIDE_END.finditer(text):
        yield text[start : mark.end()].strip()
        start = mark.end()
    if rest := text[start:].strip():
        yield rest


def divisions(text: str) -> list[int]:
    """Offsets after the sentences of a text; if there are almost none, after its ``fragments``."""
    ends = sentence_ends(text)
    return ends if len(text) <= _FEW_SENTENCES * len(ends) else fragments(text)


def fragments(text: str) -> list[int]:
    """Offsets after the words of a text; if blanks are rare, after its characters.

    Characters are grapheme clusters.
    """
    words = [word.end() for word in re.finditer(r"\S+", text)]
    return words if len(text) <= _FEW_WORDS * len(words) else _clusters(text)


def _clusters(text: str) -> list[int]:
    import regex

    return [cluster.end() for cluster in regex.finditer(r"\X", text) if not cluster[0].isspace()]


def dense(text: str) -> int:
    """Number of characters in words of scripts without blanks.

    >>> dense("A few words"), dense("几个字")
    (0, 3)
    """
    return 0 if _is_spaced(text) else sum(1 for _ in _DENSE.finditer(text))


def _is_spaced(text: str) -> bool:
    """Whether a text certainly has no dense characters; a shortcut."""
    return text.isascii() and _LONG_RUN.search(text) is None


def pieces(text: str, most: int) -> Iterator[str]:
    """A text in pieces of at most ``most`` dense characters, cut at a pause if there is one, else at a cluster."""
    if _is_spaced(text):
        yield text.strip()
        return
    start = 0
    while (end := _piece_end(text, start, most)) is not None:
        yield text[start:end].strip()
        start = end
    yield text[start:].strip()


def _piece_end(text: str, start: int, most: int) -> int | None:
    """End of the piece from an offset on; None if all that follows is one piece."""
    beyond = next(islice(_DENSE.finditer(text, start), most, None), None)
    if beyond is None:
        return None
    end = beyond.start()
    if pauses := [pause.end() for pause in _PAUSE.finditer(text, (start + end) // 2, end)]:
        return pauses[-1]
    clusters = _clusters(text[start : end + 64])  # with following text, or the last might be partial
    return start + max((at for at in clusters if start + at <= end), default=clusters[0])


def gap(before: str, after: str) -> str:
    """The separator of two parts of a text: a blank, or nothing within Chinese or Japanese."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    return "" if _BETWEEN.fullmatch(before[-1] + after[0]) else " "


def join(parts: Iterable[str]) -> str:
    """Parts of a text, with the blanks that belong between them.

    >>> join(["One.", "Two."]), join(["一。", "二。"])
    ('One. Two.', '一。二。')
    """
    joined = [""]
    for part in filter(None, parts):
        joined += [gap(joined[-1], part), part]
    return "".join(joined)


def _is_end(text: str, mark: re.Match[str]) -> bool:
    if not _PLAIN_END.fullmatch(mark[0]) or text[mark.end() : mark.end() + 1].strip():
        return True
    rest = text[mark.end() : mark.end() + 8].lstrip()
    if not rest or "\n" in text[mark.end() : mark.end() + 1]:
        return True
    if mark[0].startswith("."):
        if _ABBREVIATION.search(text, max(0, mark.start() - 8), mark.start()):
            return False
        # Tokenised texts have a blank before the full stop, and are in lower case.
        return not rest[0].islower() or text[mark.start() - 1 : mark.start()] == " "
    return not rest[0].islower() or mark[0][-1] in "!?"


def cut(
    text: str, room: int, cost: Callable[[str], int], divide: Callable[[str], list[int]] = divisions
) -> tuple[str, int] | None:
    """The longest beginning that fits and ends at a position of ``divide``, with its tokens; None if there is none.

    ``room`` covers the beginning and an empty line after it, in tokens; ``cost`` gives the tokens of a paragraph.
    """
    ends = divide(text)
    best: tuple[int, int, int] | None = None  # its end, the start of its last line, tokens ahead of that line
    spent = 0
    for line in _LINE.finditer(text):
        here = ends[bisect_right(ends, line.start()) : bisect_right(ends, line.end())]
        tokens = cost(line[0] if line[0].endswith("\n") else f"{line[0]}\n\n")
        # A last line is followed by an empty one, which may cost another token or two.
        if spent + tokens + 2 > room:
            n = bisect_left(here, True, key=lambda end: spent + cost(f"{text[line.start() : end]}\n\n") > room)
            if n:
                best = here[n - 1], line.start(), spent
            break
        if here:
            best = here[-1], line.start(), spent
        spent += tokens
    if best is None:
        return None
    end, start, ahead = best
    total = ahead + cost(f"{text[start:end]}\n\n")
    return (text[:end], total) if total <= room else None
