"""Prompts as a model gets them, rendered and encoded by the code that counts them in ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sparse_tasks.core.beginning import begun, unbegun
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import Record
from sparse_tasks.core.sample import Turn
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.turns import messages, request_id, stem_of
from sparse_tasks.evaluators.dataset import Dataset, Selection
from sparse_tasks.evaluators.engines.engine import Request


class _Short(Record, frozen=True, kw_only=True):
    id: str
    task: str
    index: int
    length: int
    input_tokens: int
    max_new_tokens: int


class SampleInfo(_Short, frozen=True, kw_only=True):
    """The short columns of a sample that a run needs.

    Attributes:
        later: Tokens of the prompt of each question after the first, where it asks several.
        chat: Whether questions follow others.
    """

    later: tuple[int, ...] = ()
    chat: bool = False

    @property
    def requests(self) -> list[str]:
        """Ids of its requests, one for each question."""
        return [request_id(self.id, number) for number in range(1 + len(self.later))]


class _Counted(_Short, frozen=True, kw_only=True):
    turns: list[Turn]


class _Prompted(_Counted, frozen=True, kw_only=True):
    prompt: str
    context: str
    question: str
    answer_prefix: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """Messages of a request: the user's first, those after it, and the beginning of the model's answer."""

    prompt: str
    beginning: str
    later: tuple[str, ...] = ()


def made_for(dataset: Dataset, tokenizer: PromptTokenizer, begin_answer: bool = False) -> bool:
    """Whether the data set's own counts are valid for this tokenizer, chat template and begun answers."""
    template = dataset.manifest.chat_template
    recorded = None if template is None else template.sha256
    ours = None if tokenizer.template is None else tokenizer.template.sha256
    same = dataset.manifest.tokenizer.sha256 == tokenizer.sha256 and recorded == ours
    return same and dataset.begins_answer == begin_answer


def count_tokens(
    dataset: Dataset,
    selection: Selection,
    tokenizer: PromptTokenizer | None,
    counted: Callable[[], None] = lambda: None,
    *,
    begin_answer: bool = False,
) -> Iterator[tuple[SampleInfo, int]]:
    """Every sample of the selection, with the tokens that its prompt has for this model.

    The data set's counts are used if valid; else each prompt is encoded.

    Args:
        dataset: The data set.
        selection: Its samples.
        tokenizer: The model's; None to take the data set's counts.
        counted: Called for each sample that was encoded.
        begin_answer: Whether prompts end inside the answer.
    """
    if tokenizer is None or made_for(dataset, tokenizer, begin_answer):
        for sample in dataset.samples(selection, _Counted):
            yield _info(sample, [turn.input_tokens for turn in sample.turns[1:]]), sample.input_tokens
        return
    for prompted in dataset.samples(selection, _Prompted):
        asks = _asked(dataset, prompted, tokenizer, begin_answer)
        tokens, *later = (tokenizer.count(asked.prompt, asked.beginning, asked.later) for asked in asks)
        counted()
        yield _info(prompted, later), tokens


def _info(sample: _Counted, later: list[int]) -> SampleInfo:
    short = {name: getattr(sample, name) for name in _Short.__struct_fields__}
    return SampleInfo(**short, later=tuple(later), chat=any(turn.history for turn in sample.turns))


def requests(
    dataset: Dataset,
    selection: Selection,
    tokenizer: PromptTokenizer | None,
    budgets: dict[str, int],
    *,
    begin_answer: bool = False,
    contexts: bool = False,
) -> Iterator[Request]:
    """The requests for the samples in ``budgets``, one for each question, read and encoded as they are needed.

    In a chat, what a method that evicts keeps is chosen once: where the context ends, or else the first prompt.

    Args:
        dataset: The data set.
        selection: Its samples.
        tokenizer: None where the engine renders prompts itself.
        budgets: Answer budget in tokens by id.
        begin_answer: Whether prompts end inside the answer.
        contexts: Whether each says how many of its tokens are of the context.

    Raises:
        UsageError: A rendered prompt begins with its first special token twice, or it cannot be told where its context
            ends.
    """
    for sample in dataset.samples(selection, _Prompted):
        if sample.id not in budgets:
            continue
        asks, first = _asked(dataset, sample, tokenizer, begin_answer), list[int]()
        for number, asked in enumerate(asks):
            ids = [] if tokenizer is None else checked_ids(tokenizer, asked.prompt, asked.beginning, asked.later)
            if not asked.later:
                first = ids
            context = None
            if contexts and tokenizer is not None:
                context = context_tokens(
                    tokenizer, asked.prompt, sample.context, ids, asked.beginning, later=asked.later
                )
            elif asked.later and tokenizer is not None:
                context = _alike(first, ids)
            yield Request(
                request_id(sample.id, number), asked.prompt, ids, budgets[sample.id], asked.beginning, context,
                asked.later, sample.id if len(asks) > 1 else "", len(asks),
            )  # fmt: skip


def _asked(dataset: Dataset, sample: _Prompted, tokenizer: PromptTokenizer | None, begin_answer: bool) -> list[_Asked]:
    """What a sample asks, one question or several."""
    chat, prefix = tokenizer is None or tokenizer.template is not None, sample.answer_prefix

    def opened(message: str) -> tuple[str, str]:
        if begin_answer:
            return begun(message, prefix, chat)
        return unbegun(message, prefix, chat) if dataset.begins_answer else message, ""

    if not sample.turns:
        return [_Asked(*opened(sample.prompt))]
    stem = stem_of(sample.prompt, sample.question, prefix)
    ending = sample.prompt.removeprefix(stem + sample.question)
    asks = []
    for number in range(len(sample.turns)):
        *before, last = messages(stem, sample.turns, number, ending)
        last, beginning = opened(last)
        first, *later = [*before, last]
        asks.append(_Asked(first, beginning, tuple(later)))
    return asks


def _alike(first: list[int], ids: list[int]) -> int:
    """The length of the common prefix of two prompts' ids."""
    return next((i for i, (one, other) in enumerate(zip(first, ids, strict=False)) if one != other), len(first))


def checked_ids(tokenizer: PromptTokenizer, prompt: str, beginning: str = "", later: Sequence[str] = ()) -> list[int]:
    """The ids of a rendered prompt, which must not begin with a doubled special token (usually BOS).

    A chat template that writes BOS and a tokenizer that adds it again give two, and scores near zero that look like
    the model's.
    """
    ids = tokenizer.ids(prompt, beginning, later)
    if len(ids) > 1 and ids[0] == ids[1]:
        token = tokenizer.backend.get_added_tokens_decoder().get(ids[0])
        if token is not None and token.special:
            raise UsageError(
                "chat-template",
                token.content,
                "occurs twice at the beginning of the rendered prompt; remove it from the template "
                "(--chat-template FILE) or from the tokenizer's post-processor",
            )
    return ids


def context_tokens(
    tokenizer: PromptTokenizer,
    prompt: str,
    context: str,
    ids: list[int],
    beginning: str = "",
    *,
    later: Sequence[str] = (),
) -> int:
    """The number of first ids of a rendered prompt that cover its context and the template before it.

    They equal the ids of the text up to the end of the context, so no question changes them. If a token crosses that
    end, the count stops before it.

    Args:
        tokenizer: The tokenizer.
        prompt: The user's message.
        context: Its beginning.
        ids: Ids of the rendered prompt.
        beginning: Beginning of the model's answer.
        later: Messages after the user's.

    Raises:
        UsageError: The prompt does not begin with the context, or the template does not write it once, as it is.
    """
    if not context or not prompt.startswith(context):
        raise UsageError(
            "compress", "context", "needs prompts that begin with their context; run sparse-tasks validate"
        )
    text = tokenizer.render(prompt, beginning, later)
    if text.count(prompt) != 1:
        raise UsageError(
            "chat-template",
            "auto" if tokenizer.template else "none",
            "changes or repeats prompts, so contexts have no known end; leave out --compress",
        )
    end = text.index(prompt) + len(context)
    alone = tokenizer.encode(text[:end], context)
    return _alike(alone, ids)


def check_context(needs: list[tuple[int, int, int]], context: int | None) -> int:
    """The most tokens that a request needs, if all fit into the model's context.

    Args:
        needs: For each sample its length in the data set, its prompt's tokens and its answer budget.
        context: Most tokens that prompt and answer may have together; None where nothing limits them.

    Raises:
        UsageError: Some do not fit; the shortest length among them is named.
    """
    largest = max(prompt + answer for _, prompt, answer in needs)
    if context is not None and largest > context:
        length, prompt, answer = min(need for need in needs if need[1] + need[2] > context)
        raise UsageError(
            "length",
            length,
            f"is too long for the model: a prompt of {prompt:,} tokens and an answer of up to {answer:,} do not fit "
            f"into its context of {context:,}; choose shorter ones with --length, or --max-new-tokens",
        )
    return largest
