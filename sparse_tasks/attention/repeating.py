"""Prompt repetition in ``transformers``, for methods that evict by it.

Within a block each new prompt, up to its context's end, is first read into a separate cache and then repeated after it,
chunk by chunk. The tokens to keep are chosen there, before the prompt itself is read: layers are computed one after
another, and a question after the context sees only kept tokens from the first layer on.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun, read_by
from sparse_tasks.attention.method import RepeatMethod
from sparse_tasks.attention.prefill import sparse_prefill
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError

_LOG: Final = logging.getLogger("sparse_tasks")


@contextmanager
def repeating(model: Any, run: SparseRun, method: RepeatMethod) -> Iterator[None]:
    """Let a method choose what to keep of each prompt, before a run reads it, within a block.

    Args:
        model: The model, whose attention the run computes.
        run: The run.
        method: The method.
    """
    name = cache_name(model)

    def before(model: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        ids, cache = arguments[0] if arguments else named.get("input_ids"), named.get(name)
        past = 0 if cache is None else int(cache.get_seq_length())
        if ids is None:
            raise UsageError("input_ids", None, f"are what {method.name} has the model repeat; give them")
        if past and (ids.shape[1] == 1 or past >= (run.context or past + 1)):
            return
        mask = named.get("attention_mask")
        for row, of_row in enumerate(ids):
            own = of_row if mask is None else of_row[mask[row, -len(of_row) :].bool()]
            end = run.context or len(own)
            if past or len(own) < end:
                raise UsageError("input_ids", f"{len(own)} tokens", f"are a part of what {method.name} has the model "
                                 f"repeat; give the prompt, or its context, whole")  # fmt: skip
            _choose(model, run, method, own[None, :end], row)

    hook = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _choose(model: Any, run: SparseRun, method: RepeatMethod, ids: Tensor, row: int) -> None:
    """Let a model read and repeat ``[1, n]`` ids, and record what to keep of them."""
    text, n = model.config.get_text_config(), ids.shape[1]
    # The first and a later one.
    instructions = [_instruction(method, chunk, text) for chunk in (range(n), range(n, n + 1))]
    room = getattr(text, "max_position_embeddings", None)
    most = n if room is None else room - n - max(sum(map(len, parts)) for parts in instructions)
    if most < 1:
        raise UsageError("attention", method.name, f"has the model repeat {n:,} tokens after the prompt, but the "
                         f"model's {room:,} positions leave no room; use shorter prompts")  # fmt: skip
    reading = _Reading(run, method)
    # Without the output layer, since the logits are not needed.
    with read_by(reading, run), torch.no_grad():
        name = cache_name(model.base_model)
        cache = getattr(model.base_model(input_ids=ids, use_cache=True), name)
        for chunk in method.chunks(n, most):
            before, again, after = _instruction(method, chunk, text)
            parts = ids.new_tensor([before]), ids[:, again.start : again.stop], ids.new_tensor([after])
            repetition = torch.cat([*parts, ids[:, chunk.start : chunk.stop]], 1)
            reading.chunk = chunk
            model.base_model(input_ids=repetition, use_cache=True, **{name: copy.deepcopy(cache)})
    numbers = sorted(reading.scores)
    kept = method.keep_all([torch.cat(reading.scores[number], 1) for number in numbers], impl=run.impl)
    run.chosen |= {(number, row): of_layer for number, of_layer in zip(numbers, kept, strict=True)}


def cache_name(model: Any) -> str:
    """The name of a model's cache argument and output, which changed in transformers 5.24."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


class _Reading(SparseRun):
    """A run that reads a prompt like another one, and lets a method score what its repetitions attend to."""

    def __init__(self, run: SparseRun, method: RepeatMethod) -> None:
        super().__init__(Attention.of(*([] if run.reads_by is None else [run.reads_by])), run.impl)
        self.chunk: range | None = None
        self.scores: dict[int, list[Tensor]] = {}
        self._repeats = method

    def _read_at_once(self, n_q: int, n_k: int) -> int:
        return n_q  # a repetition of one token is not a step

    def _prompt(self, number: int, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        if self.chunk is None:
            return super()._prompt(number, q, k, v, softmax)
        found = self._repeats.under(softmax).repeated(q, k, self.chunk)
        self.scores.setdefault(number, []).append(found)
        return sparse_prefill(None, q, k, v, softmax=softmax, impl=self.impl)[0]


def _instruction(method: RepeatMethod, chunk: range, text: Any) -> tuple[list[int], range, list[int]]:
    """Ids before the repetition of a chunk, tokens of the prompt after these, and ids after those."""
    words, again = method.instruction(chunk)
    source = getattr(text, "_name_or_path", ""), getattr(text, "_commit_hash", None)
    before, after = _encoded(method.name, words, *source)
    return before, again, after


@functools.lru_cache(maxsize=16)
def _encoded(method: str, words: str, model: str, revision: str | None) -> tuple[list[int], list[int]]:
    """Ids of an instruction, and of the chat template's text between it and the model's answer.

    Raises:
        UsageError: The model's tokenizer cannot be read.
    """
    if not model:
        _LOG.warning("%s: the model's tokenizer is not available; prompts are repeated without an instruction", method)
        return [], []
    from sparse_tasks.core.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(model if revision is None or Path(model).is_dir() else f"{model}@{revision}")
    after = tokenizer.render(words).rpartition(words.strip())[2] if tokenizer.template else ""
    before, ending = (tokenizer.backend.encode(part, add_special_tokens=False).ids for part in (words, after))
    return before, ending
