"""Making one sample from its key, and the smallest length at which samples exist."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from sparse_tasks.core.beginning import ANSWER, BARE_ANSWER, EXPLANATION
from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.sample import Sample, Turn
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.fast import EncoderError
from sparse_tasks.core.turns import messages, stem_of
from sparse_tasks.generators.encoding import compare
from sparse_tasks.generators.fitting import Fitted, Layout, Seeds, fit, smallest_prompt
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.seeds import Stream, digest
from sparse_tasks.generators.task import Task

# Prompts counted before the whole tokenizer is loaded; each takes about a sixth of that time.
_FEW = 3


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disable the garbage collector: a sample consists of many objects, almost none of them in cycles."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@_uncollected()
def make_sample(request: Request, tokenizer: PromptTokenizer, task: Task, length: int, index: int) -> Sample:
    """Make the sample with this key, on which alone it depends.

    The oracle checks every finished prompt.

    Raises:
        TooShortError: The length is too short for the question.
        DataError: The oracle does not find the gold answer: a defect of the task.
    """
    layout = _layout(request, tokenizer, task)
    seeds = _seeds(request, tokenizer, task, length, index)
    bound = task.at(tokenizer, request.seed, index)
    fitted = fit(bound, tokenizer, layout, seeds, request.depth(task), request.target(task, length))
    draft = fitted.draft
    canonical = fitted.prompt if layout.template is None else layout.template.read_back(task, fitted.prompt)
    if (wrong := task.verify(canonical, draft.answer, draft.answers)) is not None:
        raise DataError(f"{task.name}: {wrong} ({_key(request, tokenizer, task, length, index)})")
    params = task.settings() | {"depth": str(request.depth(task))} | {"drawn": draft.drawn}
    return Sample(
        id=sample_id(request, tokenizer, task, length, index),
        task=task.name,
        index=index,
        length=length,
        input_tokens=fitted.input_tokens,
        max_new_tokens=request.new_tokens(task),
        prompt=fitted.prompt,
        context=fitted.context,
        question=layout.question(draft),
        answer_prefix=layout.prefix(draft) + layout.beginning,
        answer=draft.answer,
        answers=draft.answers,
        metric=(task.ruler_metric if request.completed else None) or draft.metric or task.metric,
        evidence=fitted.evidence,
        question_position=request.question_position,
        params=json.dumps(params, ensure_ascii=False, sort_keys=True),
        seed=request.seed,
        turns=_turns(tokenizer, task, layout, fitted),
    )


def _turns(tokenizer: PromptTokenizer, task: Task, layout: Layout, fitted: Fitted) -> list[Turn]:
    """The questions of a sample that asks several, each counted and checked against the oracle.

    Raises:
        DataError: The oracle does not find a gold answer: a defect of the task.
    """
    draft = fitted.draft
    turns = [
        Turn(
            level=asked.level,
            history=asked.history,
            question=layout.asked(draft, asked),
            answer=asked.answer,
            answers=asked.answers,
            metric=asked.metric,
            input_tokens=fitted.input_tokens,
            evidence=evidence,
        )
        for asked, evidence in zip(draft.turns, fitted.of_turns, strict=True)
    ]
    whole = layout.before(draft) + fitted.context
    # Where counts add up over paragraphs, the context adds the same to every question.
    stem = layout.before(draft) + layout.intro(draft) if tokenizer.additive else whole
    counts = list[int]()
    for number, turn in enumerate(turns):
        if (wrong := task.verify(whole + turn.question, turn.answer, turn.answers)) is not None:
            raise DataError(f"{task.name}: question {number + 1}: {wrong}")
        first, *later = messages(stem, turns, number, layout.answer_prefix)
        counts.append(tokenizer.count(first, layout.beginning, later))
    return [
        replace(turn, input_tokens=fitted.input_tokens + tokens - counts[0])
        for turn, tokens in zip(turns, counts, strict=True)
    ]


def sample_id(request: Request, tokenizer: PromptTokenizer, task: Task, length: int, index: int) -> str:
    """The id of the sample with this key, derived without making it."""
    key = digest(*_key(request, tokenizer, task, length, index)).hex()[:12]
    return f"{task.name}-{length}-{index:05d}-{key}"


def check_count(request: Request, tokenizer: PromptTokenizer, sample: Sample) -> None:
    """Compare a sample's count, which may be a sum over paragraphs, with an encode of the whole rendered prompt.

    If the tokenizer uses another encoder than Hugging Face's, both are compared, too.

    Raises:
        EncoderError: The encoders differ.
        DataError: The counts differ.
    """
    beginning = _beginning(request, tokenizer)
    text = tokenizer.render(sample.prompt, beginning)
    if tokenizer.encoder is not None:
        compare(tokenizer, text, sample.prompt, sample.id)
    counted = [(sample.id, len(tokenizer.encode(text, sample.prompt)), sample.input_tokens)]
    prefix = sample.answer_prefix.removesuffix(beginning)
    stem = stem_of(sample.prompt, sample.question, prefix)
    for number, turn in enumerate(sample.turns):
        first, *later = messages(stem, sample.turns, number, prefix)
        tokens = tokenizer.count(first, beginning, later)
        counted.append((f"question {number + 1} of {sample.id}", tokens, turn.input_tokens))
    for name, tokens, expected in counted:
        if tokens != expected:
            if tokenizer.encoder is not None:
                raise EncoderError(f"{name} has {tokens:,} tokens, not {expected:,}")
            raise DataError(
                f"{name} has {tokens:,} tokens, but {expected:,} were added up: please report the tokenizer"
            )


def check_texts(request: Request, tokenizer: PromptTokenizer) -> None:
    """Check that control tokens in the user's template are allowed.

    Raises:
        UsageError: They are not allowed.
    """
    for task in request.tasks:
        for part, text in ({} if (template := request.template(task)) is None else template.describe()).items():
            if (token := tokenizer.spells_control(text)) is not None:
                where = f"{task.name}.{part}"
                why = f"spells {token}, which prompts hold as text; add --control-tokens keep, if it is meant"
                raise UsageError("template", where, why)


def check_lengths(request: Request, tokenizer: PromptTokenizer) -> None:
    """Check that every sample of the request can be made.

    Raises:
        UsageError: A length is too short for a task, and the message names the smallest that works; or there is not
            enough text for it.
    """
    check_texts(request, tokenizer)
    for task in request.tasks:
        task.at(tokenizer, request.seed, request.samples - 1)
    for length in request.lengths:
        needed = {task.name: shortest_length(request, tokenizer, task, length) for task in request.tasks}
        if short := [name for name, shortest in needed.items() if shortest > length]:
            remedy = f"is too short for {', '.join(short)}; the smallest that works is {max(needed.values())}"
            raise UsageError("length", length, remedy)
        for task in request.tasks:
            if task.at(tokenizer, request.seed, 0).largest() is not None:
                make_sample(request, tokenizer, task, length, 0)


def _key(
    request: Request, tokenizer: PromptTokenizer, task: Task, length: int | None, index: int
) -> tuple[object, ...]:
    return (
        task.key(),
        length,
        None if length is None else request.target(task, length),
        request.question_position,
        str(request.depth(task)),
        tokenizer.sha256,
        None if tokenizer.template is None else tokenizer.template.sha256,
        request.seed,
        index,
        # Only if set, so that other keys stay as they were before these options existed.
        *(("completed",) if request.completed else ()),
        *(("begin_answer",) if request.begin_answer else ()),
        *(("keep control tokens",) if request.keeps_control else ()),
        *(() if (template := request.template(task)) is None else (template.describe(),)),
    )


def _seeds(request: Request, tokenizer: PromptTokenizer, task: Task, length: int, index: int) -> Seeds:
    return Seeds(
        Stream(*_key(request, tokenizer, task, length, index)), Stream(*_key(request, tokenizer, task, None, index))
    )


def _layout(request: Request, tokenizer: PromptTokenizer, task: Task) -> Layout:
    # The model continues a bare prompt, so the prompt itself opens the answer.
    bare = BARE_ANSWER if request.begin_answer else EXPLANATION
    prefix = "" if tokenizer.template else bare
    beginning = _beginning(request, tokenizer)
    begun = request.begin_answer
    return Layout(request.question_position, prefix, request.completed, request.template(task), beginning, begun)


def _beginning(request: Request, tokenizer: PromptTokenizer) -> str:
    return ANSWER if request.begin_answer and tokenizer.template else ""


def shortest_length(request: Request, tokenizer: PromptTokenizer, task: Task, length: int) -> int:
    """The shortest length for all samples of a task; an estimate if ``length`` is far above it."""
    layout, depth = _layout(request, tokenizer, task), request.depth(task)
    answer = request.new_tokens(task) if request.length_includes_output else 0
    refused = max(length - answer, 1) if request.samples * len(request.tasks) <= _FEW else 0
    ample = max(length - answer, 0) // 2

    def needed(index: int, ample: int = 0) -> int:
        seeds, bound = _seeds(request, tokenizer, task, length, index), task.at(tokenizer, request.seed, index)
        return smallest_prompt(bound, tokenizer, layout, seeds, depth, refused, ample) + answer

    first = needed(0, ample)
    # Generated texts are similar in length, those of a corpus are not.
    far = first - answer <= ample and not task.sized_in_tokens
    return first if far else max([first, *map(needed, range(1, request.samples))])
