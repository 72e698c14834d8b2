"""Ends of sentences, and texts cut there."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable

_LINE = re.compile(r"[^\n]+\n*")
_END = re.compile(r"""[.!?…]+["'”’»)\]]*(?=\s|$)""")
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
    # Where most marks seem to end nothing, the text is one without capitals: each of them ends a sentence.
    return ends if 3 * len(ends) > len(marks) else [mark.end() for mark in marks]


def _is_end(text: str, mark: re.Match[str]) -> bool:
    rest = text[mark.end() : mark.end() + 8].lstrip()
    if not rest or "\n" in text[mark.end() : mark.end() + 1]:
        return True
    if mark[0].startswith("."):
        if _ABBREVIATION.search(text, max(0, mark.start() - 8), mark.start()):
            return False
        # In texts that come in tokens a blank stands before the full stop, and all is in lower case.
        return not rest[0].islower() or text[mark.start() - 1 : mark.start()] == " "
    return not rest[0].islower() or mark[0][-1] in "!?"


def cut(text: str, room: int, cost: Callable[[str], int]) -> tuple[str, int] | None:
    """The longest beginning of whole sentences that fits, with its tokens; None if there is none.

    ``room`` is for the beginning and an empty line behind it, in tokens; ``cost`` gives those of a paragraph.
    """
    ends = sentence_ends(text)
    best: tuple[int, int, int] | None = None  # its end, the start of its last line, tokens ahead of that line
    spent = 0
    for line in _LINE.finditer(text):
        here = [end for end in ends if line.start() < end <= line.end()]
        tokens = cost(line[0] if line[0].endswith("\n") else f"{line[0]}\n\n")
        # As the last line it would have an empty one behind it, which may cost another token or two.
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
