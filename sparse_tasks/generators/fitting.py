"""Fitting to exact length: the size at which a task is composed, and the filling of the last tokens.

1. *Estimate*: the mean cost of typical pieces (``Task.specimens``) gives how many fit, less a margin for the spread.
2. *Measure*: every passage is encoded once; costs add up where the tokenizer is proven to add up over paragraphs.
3. *Fill*: the draft's offers are taken, from large to small, as long as they fit.
4. *Verify*: where the tokenizer is not proven, draft and finished prompt are encoded whole, and a difference shifts the
   target of another round.

Everything here depends only on the key, and so do the bytes.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from sparse_tasks.core.errors import DataError, TooShortError, UsageError
from sparse_tasks.core.length import TOLERANCE
from sparse_tasks.core.sample import Evidence
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.prompts import unexplained
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import Asked, Completion, Draft, Mark, Offer, Task
from sparse_tasks.generators.wording import Template

_ROUNDS = 24
# Consecutive offers of one size that may fail to fit before smaller ones are tried.
_PATIENCE = 4
# Stop at this many remaining tokens.
_ENOUGH = 3
# An upper bound of characters per token in English.
_CHARACTERS = 6


@dataclass(frozen=True)
class Layout:
    """Arrangement of a prompt.

    Attributes:
        position: ``both`` states the question before and after the context, ``after`` only after it.
        answer_prefix: Opens the answer, at the end of the prompt.
        completed: Whether questions are asked as completions, where a task can, with a prefix of their own.
        template: The user's wording of parts of it.
        beginning: Opens the answer in the model's turn, after the prompt.
        begun: Whether the answer is begun, so no explanation is requested.
    """

    position: str
    answer_prefix: str
    completed: bool = False
    template: Template | None = None
    beginning: str = ""
    begun: bool = False

    def before(self, draft: Draft) -> str:
        """Text before the context."""
        return self._frame(draft).preview if self.position == "both" else ""

    def intro(self, draft: Draft) -> str:
        """Opening of the context."""
        own = self._frame(draft).intro
        return draft.intro if own is None else own

    def question(self, draft: Draft) -> str:
        """Text after the context."""
        return self._frame(draft).question

    def asked(self, draft: Draft, turn: Asked) -> str:
        """The wording of one of several questions."""
        own = Completion("", turn.question, "")
        return (unexplained(own, draft.instructions) if self.begun else own).question

    def prefix(self, draft: Draft) -> str:
        """Beginning of the answer."""
        return self._frame(draft).prefix

    def after(self, draft: Draft) -> str:
        """Everything after the context."""
        return self.question(draft) + self.prefix(draft)

    def frame(self, draft: Draft) -> str:
        """The prompt without its body."""
        return self.before(draft) + self.intro(draft) + self.after(draft)

    def _frame(self, draft: Draft) -> Completion:
        if self.completed and draft.completion is not None:
            own = draft.completion
        else:
            own = Completion(draft.preview, draft.question, self.answer_prefix)
        frame = own if self.template is None else self.template.fill(own, draft.fields)
        return unexplained(frame, draft.instructions) if self.begun else frame


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt of exact length with its parts and its evidence, also for each turn."""

    prompt: str
    context: str
    input_tokens: int
    evidence: list[Evidence]
    draft: Draft
    of_turns: list[list[Evidence]]


@dataclass(frozen=True)
class Seeds:
    """The random streams of one sample.

    Attributes:
        own: Depends on the whole key.
        smallest: Depends on the key without the length, and is used for drafts of the smallest size. So a sample's
            smallest prompt is the same at every length, and the shortest length that fits it is known.
    """

    own: Stream
    smallest: Stream


def fit(task: Task, tokenizer: PromptTokenizer, layout: Layout, seeds: Seeds, depth: Depth, target: int) -> Fitted:
    """A sample whose rendered prompt has between ``target - 32`` and ``target`` tokens.

    Raises:
        TooShortError: The smallest sample of this key is longer than ``target``.
        UsageError: There is not enough text.
    """
    room = target
    size = (_known if task.sized_in_tokens else _estimate)(task, tokenizer, layout, target)
    for attempt in range(_ROUNDS):
        draft = _compose(task, seeds, depth, size, attempt)
        tokens = _measure(draft, tokenizer, layout)
        if tokens > target:
            if size == task.smallest():
                raise TooShortError("length", target, f"is too short for {task.name}: a sample needs {tokens} tokens")
            size = _smaller(task, size, excess=(tokens - target) / tokens)
            continue
        tokens += _fill(draft, tokenizer, room - tokens)
        fitted = _assemble(draft, layout, tokens)
        if not tokenizer.additive:
            fitted = replace(fitted, input_tokens=tokenizer.count(fitted.prompt, layout.beginning))
        if target - TOLERANCE <= fitted.input_tokens <= target:
            return fitted
        if size == task.largest() and fitted.input_tokens < target:
            raise UsageError(
                "length",
                target,
                f"is more than {task.name} has text for, which ends at about {fitted.input_tokens:,} tokens; take a "
                f"larger corpus{'' if task.settings().get('repeats', True) else ', or --allow-repeats'}",
            )
        # Additions cost more or less than when measured alone: aim that much lower or higher.
        missing = target - TOLERANCE // 4 - fitted.input_tokens
        room += missing
        if task.sized_in_tokens:
            # Where counts add up, there may just be no text of the right length: other draws may have one.
            size = _within(task, size + (missing // 2 if tokenizer.additive else missing))
    if task.sized_in_tokens:
        raise UsageError("length", target, f"cannot be reached with the documents of {task.name}: too few can be cut")
    raise DataError(f"{task.name} found no sample of {target} tokens in {_ROUNDS} rounds; please report the key")


def smallest_prompt(
    task: Task,
    tokenizer: PromptTokenizer,
    layout: Layout,
    seeds: Seeds,
    depth: Depth,
    refused: int = 0,
    ample: int = 0,
) -> int:
    """Tokens of the smallest prompt with this key.

    Args:
        refused: A length that is too short. A prompt that looks longer than it is assumed to be the last to be counted.
        ample: A length that is long enough. A prompt of no more bytes is not counted, since tokens have at least one
            byte each, and its bytes are returned; so the tokenizer need not be loaded.
    """
    draft = _compose(task, seeds, depth, task.smallest(), 0)
    if task.sized_in_tokens:
        return tokenizer.count(layout.frame(draft), layout.beginning) + task.smallest()
    prompt = _assemble(draft, layout, 0).prompt if refused or ample else ""
    if ample and (most := len(tokenizer.render(prompt, layout.beginning).encode())) <= ample:
        return most
    if refused and len(prompt) > _CHARACTERS * refused:
        return tokenizer.count_once(prompt, layout.beginning)
    return _measure(draft, tokenizer, layout)


def _compose(task: Task, seeds: Seeds, depth: Depth, size: int, attempt: int) -> Draft:
    # Fork, since a task may draw from the stream, and the smallest draft may be composed again.
    stream = seeds.smallest.fork("draft") if size == task.smallest() else seeds.own.fork("draft", attempt)
    return task.compose(stream, size, depth)


def _smaller(task: Task, size: int, excess: float) -> int:
    """The next size to try after a draft of ``size`` was too long by a share of ``excess``."""
    return max(task.smallest(), min(size - 1, int(size * (1 - 1.1 * excess))))


def _measure(draft: Draft, tokenizer: PromptTokenizer, layout: Layout) -> int:
    """Tokens of the rendered prompt; exact with every tokenizer."""
    if not tokenizer.additive:
        return tokenizer.count(_assemble(draft, layout, 0).prompt, layout.beginning)
    return tokenizer.count(layout.frame(draft), layout.beginning) + tokenizer.total(draft.texts())


def _fill(draft: Draft, tokenizer: PromptTokenizer, room: int) -> int:
    """Take offers until almost no room is left, and return the tokens they added."""
    left = room
    for make in draft.offers:
        failures = 0
        while left > _ENOUGH and failures < _PATIENCE:
            offer = make()
            if offer is None:
                break
            cost = _cost(offer, tokenizer)
            if 0 < cost <= left:
                offer.accept()
                left -= cost
                failures = 0
            else:
                failures += 1
    return room - left


def _cost(offer: Offer, tokenizer: PromptTokenizer) -> int:
    removed = sum(tokenizer.cost(text) for text in offer.removed)
    return sum(tokenizer.cost(text) for text in offer.added) - removed


def _assemble(draft: Draft, layout: Layout, tokens: int) -> Fitted:
    before = layout.before(draft)
    intro = layout.intro(draft)
    # Few passages have followers.
    texts = [passage.text + "".join(passage.followers) if passage.followers else passage.text for passage in draft.body]
    ends = accumulate(map(len, texts), initial=len(before) + len(intro))
    starts = dict(zip(map(id, draft.body), ends, strict=False))
    context = intro + "".join(texts)

    def found(marks: list[Mark]) -> list[Evidence]:
        evidence = [
            Evidence(
                start=start,
                end=starts[id(mark.last)] + mark.end,
                depth=round((start - len(before)) / len(context), 6),
                label=mark.label,
            )
            for mark in marks
            for start in [starts[id(mark.first)] + mark.start]
        ]
        return sorted(evidence, key=lambda span: (span.start, span.end))

    prompt = before + context + layout.after(draft)
    return Fitted(prompt, context, tokens, found(draft.marks()), draft, [found(turn.marks()) for turn in draft.turns])


def _known(task: Task, tokenizer: PromptTokenizer, layout: Layout, target: int) -> int:
    """The size that fills ``target``, for a task whose sizes are tokens."""
    frame = layout.frame(task.compose(Stream("frame", task.key()), task.smallest(), Depth()))
    return _within(task, target - tokenizer.count(frame, layout.beginning))


def _within(task: Task, size: int) -> int:
    """The nearest possible size."""
    most = task.largest()
    return max(task.smallest(), size if most is None else min(size, most))


@lru_cache(maxsize=256)
def _estimate(task: Task, tokenizer: PromptTokenizer, layout: Layout, target: int) -> int:
    """The size whose body should stay just below ``target`` tokens.

    Costs are estimated on specimens that depend only on the task. The margin is a number of standard deviations of
    their mean and of the sample's own sum: three for long drafts, which are expensive to compose again, one for short
    drafts, in which filler would show.
    """
    stream = Stream("estimate", task.key())
    size = smallest = task.smallest()
    pilot = task.compose(stream.fork("pilot"), smallest, Depth())
    costs = [tokenizer.cost(text) for text in task.specimens(stream.fork("specimens"), smallest)]
    room = target - _measure(pilot, tokenizer, layout) + statistics.fmean(costs) * task.units(smallest)
    for _ in range(4):
        mean, deviation = statistics.fmean(costs), statistics.pstdev(costs)
        n = max(room / mean, 1.0)
        margin = (1 + 2 * min(n / 150, 1)) * deviation * math.sqrt(n + n * n / len(costs))
        before, size = size, _largest(task, (room - margin) / mean)
        if size == before:
            break
        costs = [tokenizer.cost(text) for text in task.specimens(stream.fork("specimens"), size)]
    return size


def _largest(task: Task, pieces: float) -> int:
    """The largest size whose body has at most this many pieces, but at least the smallest size."""
    low, high = task.smallest(), max(task.smallest() + 1, int(pieces) + 1)
    if (most := task.largest()) is not None:
        high = min(high, most + 1)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if task.units(middle) <= pieces else (low, middle)
    return low
