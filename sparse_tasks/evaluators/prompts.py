"""Prompts as a model gets them: rendered and encoded here, by the code that counted them when they were made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.dataset import Dataset, Selection
from sparse_tasks.evaluators.engines.engine import Request

__all__ = ["check_context", "count_tokens", "made_for", "requests"]

COLUMNS = ("id", "task", "index", "length", "input_tokens", "max_new_tokens", "prompt")


def made_for(dataset: Dataset, tokenizer: PromptTokenizer) -> bool:
    """Whether the data set's own counts hold for this tokenizer and chat template."""
    template = dataset.manifest["chat_template"]
    recorded = None if template is None else template["sha256"]
    ours = None if tokenizer.template is None else tokenizer.template.sha256
    return bool(dataset.manifest["tokenizer"]["sha256"] == tokenizer.sha256) and recorded == ours


def count_tokens(
    dataset: Dataset,
    selection: Selection,
    tokenizer: PromptTokenizer | None,
    counted: Callable[[], None] = lambda: None,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Every sample of the selection, without its prompt, and the tokens that its prompt has for this model.

    The data set's counts where they hold, else one encode of each prompt.

    Args:
        tokenizer: The model's; None where it is not at hand, and the data set's counts have to do.
        counted: Called for each sample that was encoded.
    """
    if tokenizer is not None and made_for(dataset, tokenizer):
        tokenizer = None
    for row in dataset.rows(selection, [name for name in COLUMNS if name != "prompt" or tokenizer is not None]):
        if tokenizer is None:
            yield row, row["input_tokens"]
        else:
            tokens = tokenizer.count(row.pop("prompt"))
            counted()
            yield row, tokens


def requests(
    dataset: Dataset,
    selection: Selection,
    tokenizer: PromptTokenizer | None,
    wanted: dict[str, int],
) -> Iterator[Request]:
    """The requests for the samples in ``wanted`` (id to answer budget), read and encoded one at a time.

    Args:
        tokenizer: None where the engine renders prompts itself.

    Raises:
        UsageError: A rendered prompt begins with its first special token twice.
    """
    for row in dataset.rows(selection, COLUMNS):
        if row["id"] in wanted:
            ids = [] if tokenizer is None else checked_ids(tokenizer, row["prompt"])
            yield Request(row["id"], row["prompt"], ids, wanted[row["id"]])


def checked_ids(tokenizer: PromptTokenizer, prompt: str) -> list[int]:
    """The ids of a rendered prompt, which must not begin with a doubled special token (BOS, as a rule).

    A chat template that writes BOS and a tokenizer that adds it again give two, and scores near zero that look like
    the model's.
    """
    ids = tokenizer.ids(prompt)
    if len(ids) > 1 and ids[0] == ids[1]:
        token = tokenizer.backend.get_added_tokens_decoder().get(ids[0])
        if token is not None and token.special:
            raise UsageError(
                "chat-template",
                token.content,
                "stands twice at the beginning of the rendered prompt; take it out of the template "
                "(--chat-template FILE) or out of the tokenizer's post-processor",
            )
    return ids


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
