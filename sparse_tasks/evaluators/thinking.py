"""Blocks in which models think: a draft of an answer inside one is not an answer.

Families of marks are data. A block only ends at a mark of its own family, so a draft with other marks remains a draft.
If the prompt opens the block, the output begins inside it.

Every function takes time linear in its input.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from sparse_tasks.core.errors import UsageError, nearest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from sparse_tasks.core.tokenizers import PromptTokenizer
    from sparse_tasks.core.tokenizers.template import ChatTemplate

ANY: Final = "any"
"""Stands for the family of a block that the prompt opened, where it is not known which."""


@dataclass(frozen=True, slots=True)
class Family:
    """Marks around a model's thinking.

    Attributes:
        opening: Regular expression of the mark that opens a block.
        closing: Of the mark that closes it.
        final: Regular expression of marks that end all thinking, so everything before was thought, opened or not: the
            closing mark itself if a template may have opened the block.
        tokens: Marks that may be special tokens, which decoding removes.
    """

    opening: str
    closing: str
    final: str
    tokens: tuple[str, ...]

    @classmethod
    def between(cls, opening: str, closing: str) -> Family:
        """The family of two marks, in any case of letters."""
        patterns = ("(?i:" + re.sub(">$", r"\\s*>", re.escape(mark)) + ")" for mark in (opening, closing))
        start, end = patterns
        return cls(start, end, end, (opening, closing))


FAMILIES: Final[dict[str, Family]] = {
    "think": Family.between("<think>", "</think>"),
    "thinking": Family.between("<thinking>", "</thinking>"),
    "thought": Family.between("<thought>", "</thought>"),
    "reasoning": Family.between("<reasoning>", "</reasoning>"),
    "seed": Family.between("<seed:think>", "</seed:think>"),
    "longcat": Family.between("<longcat_think>", "</longcat_think>"),
    "mistral": Family.between("[THINK]", "[/THINK]"),
    "kimi": Family.between("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    "cohere": Family.between("<|START_THINKING|>", "<|END_THINKING|>"),
    "open_thoughts": Family.between("<|begin_of_thought|>", "<|end_of_thought|>"),
    "gemma": Family.between("<|channel>thought", "<channel|>"),
    # Every channel except the final one, also without special tokens: "analysis...assistantfinal...".
    "harmony": Family(
        opening=r"<\|channel\|>(?!\s*final)|\A\s*analysis",
        closing=r"<\|(?:end|call|return)\|>",
        final=r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|assistantfinal",
        tokens=("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|end|>"),
    ),
}
"""Families by name."""
# Other models end every message with it.
_NOT_OF_THOUGHT: Final = "<|end|>"
_QUOTES: Final = "`'\"\u201c\u201d\u2018\u2019"


@dataclass(frozen=True, slots=True)
class Thinking:
    """The blocks of a run.

    Attributes:
        tags: Names of families, or two marks each with a blank between.
        opened: The one of them that the prompt opens; ``ANY`` if it is unknown which; None if it opens none.
        budget: Maximum tokens of thought, in addition to the answer budget; None without such a budget.
    """

    tags: tuple[str, ...] = tuple(FAMILIES)
    opened: str | None = None
    budget: int | None = None

    @classmethod
    def of(cls, tags: Sequence[str], opened: str | None = None, budget: int | None = None) -> Thinking:
        """The blocks that a user named.

        Args:
            tags: As ``--thinking-tags`` takes them: names of families, ``all``, or two marks with a blank between;
                empty for all families.
            opened: See ``Thinking``.
            budget: See ``Thinking``.

        Raises:
            UsageError: A name is unknown, or the budget is not a number of tokens.
        """
        chosen: dict[str, None] = {}
        for tag in tags or ("all",):
            marks = tag.split()
            if tag == "all":
                chosen |= dict.fromkeys(FAMILIES)
            elif tag in FAMILIES or (len(marks) == 2 and marks[0] != marks[1]):
                chosen[" ".join(marks)] = None
            else:
                remedy = f"{nearest(tag, [*FAMILIES, 'all'])}; or give two marks, as in '<plan> </plan>'"
                raise UsageError("thinking-tags", tag, remedy)
        if budget is not None and budget < 1:
            raise UsageError("thinking-budget", budget, "must be at least 1")
        return cls(tuple(chosen), opened, budget)

    def visible(self, text: str) -> str:
        """The text outside blocks.

        An unclosed block hides all that follows: the output was cut off in thought. A closing mark without its opening
        hides all that precedes: the chat template opened the block in the prompt.
        """
        end, kept = 0, []
        for start, stop in self.hidden(text):
            kept.append(text[end:start])
            end = stop
        return "".join([*kept, text[end:]])

    def unfinished(self, text: str) -> bool:
        """Whether the text ends in thought."""
        return _blocks(text, self.tags, self.opened)[1] is not None

    def hidden(self, text: str) -> list[tuple[int, int]]:
        """First and last offset of each block, its marks included."""
        return _blocks(text, self.tags, self.opened)[0]

    def opens(self, tail: str) -> str | None:
        """The tag whose block is open at the end of a rendered prompt; None if there is none."""
        return _blocks(tail, self.tags, None)[1]


NO_PROMPT: Final = Thinking()
"""All families, where nothing is known of the prompt."""


def _blocks(text: str, tags: tuple[str, ...], opened: str | None) -> tuple[list[tuple[int, int]], str | None]:
    """Blocks of a text, and the tag of the one that is open at its end."""
    hidden: list[tuple[int, int]] = []
    inside, start = opened, 0
    for mark in _marks(tags).finditer(text):
        # "I closed `</think>`" only mentions a mark.
        if mark.start() and text[mark.start() - 1] in _QUOTES and text[mark.end() : mark.end() + 1] in tuple(_QUOTES):
            continue
        kind, number = (mark.lastgroup or "").split("_")
        if kind == "opening":
            if inside is None:
                inside, start = tags[int(number)], mark.start()
        elif inside is not None:
            if inside in (ANY, tags[int(number)]):
                hidden.append((start, mark.end()))
                inside = None
        elif kind == "final":
            hidden = [(0, mark.end())]
    if inside is not None:
        hidden.append((start, len(text)))
    return hidden, inside


@lru_cache(maxsize=32)
def _marks(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Marks of all tags; a group's name says the kind of a mark and the number of its tag."""
    parts = []
    for number, tag in enumerate(tags):
        family = FAMILIES.get(tag) or Family.between(*tag.split())
        parts += [f"(?P<opening_{number}>{family.opening})", f"(?P<final_{number}>{family.final})"]
        if family.closing != family.final:
            parts.append(f"(?P<closing_{number}>{family.closing})")
    return re.compile("|".join(parts))


# --- prompts ------------------------------------------------------------------------------------------------

_PROBE: Final = "Which chapter is it?"


def opened_by(
    template: ChatTemplate | PromptTokenizer | None, tags: tuple[str, ...], beginning: str = ""
) -> str | None:
    """The tag whose block a chat template opens in the prompt; None if it opens none.

    Args:
        template: Renders prompts; None for bare ones.
        tags: See ``Thinking``.
        beginning: Beginning of the model's answer, with which prompts end.
    """
    if template is None:
        return None
    return Thinking(tags).opens(template.render(_PROBE, beginning).rpartition(_PROBE)[2])


# --- tokens -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counted:
    """An output with its tokens counted by kind.

    Attributes:
        text: The output, with marks of thought that are special tokens, without other special tokens.
        tokens: Its tokens.
        thinking: Those of thought, marks included.
        cut: Whether tokens beyond a budget were cut off.
    """

    text: str
    tokens: int
    thinking: int
    cut: bool


def counted(text: str, ids: Sequence[int], backend: Tokenizer, thinking: Thinking, answer_budget: int) -> Counted:
    """Count the tokens of thought and of the answer, and limit each to its budget if thought has one.

    Args:
        text: The output as the engine decoded it, without special tokens.
        ids: Its token ids.
        backend: The tokenizer.
        thinking: The blocks of the run.
        answer_budget: Maximum tokens outside thought.
    """
    special = {number: token.content for number, token in backend.get_added_tokens_decoder().items() if token.special}
    marks = {mark for tag in thinking.tags for mark in (FAMILIES[tag].tokens if tag in FAMILIES else tag.split())}
    if not {special[token] for token in ids if token in special} & marks - {_NOT_OF_THOUGHT}:
        marks = set()
    shown = [place for place, token in enumerate(ids) if token not in special or special[token] in marks]
    if marks:
        text = _decoded(backend, [ids[place] for place in shown])
    flags = _flags(ids, shown, backend, thinking)
    end = len(ids)
    if thinking.budget is not None:
        left = {True: thinking.budget, False: answer_budget}
        for place, thought in enumerate(flags):
            left[thought] -= 1
            if left[thought] < 0:
                end = place
                text = _decoded(backend, [ids[place] for place in shown if place < end])
                break
    return Counted(text, end, sum(flags[:end]), end < len(ids))


def _flags(ids: Sequence[int], shown: Sequence[int], backend: Tokenizer, thinking: Thinking) -> list[bool]:
    """Whether each token is of thought."""
    flags = [False] * len(ids)
    text = _decoded(backend, [ids[place] for place in shown])
    # Number of first tokens that write this many characters; decoding a part costs its length.
    ends = _Lengths([ids[place] for place in shown], backend)
    for start, stop in thinking.hidden(text):
        # A character of several tokens counts with the first of them.
        first, last = bisect_left(ends, start + 1), len(shown) if stop == len(text) else bisect_left(ends, stop)
        for place in shown[max(first - 1, 0) : last]:
            flags[place] = True
    return flags


class _Lengths(Sequence[int]):
    """Characters of the first tokens, for a bisection."""

    def __init__(self, ids: Sequence[int], backend: Tokenizer) -> None:
        self._ids, self._backend = ids, backend

    def __len__(self) -> int:
        return len(self._ids) + 1

    def __getitem__(self, tokens: int) -> int:  # type: ignore[override]
        return len(_decoded(self._backend, self._ids[:tokens]))


def _decoded(backend: Tokenizer, ids: Sequence[int]) -> str:
    text: str = backend.decode(list(ids), skip_special_tokens=False)
    return text
