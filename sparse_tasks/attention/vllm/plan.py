"""A step, cut into what is read of prompts and what is decoded: once for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.vllm.requests import Row

__all__ = ["Plan", "Prompt", "Span", "Steps"]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one request that stand together in a step.

    Attributes:
        row: Which row of the block table.
        request: vLLM's id of the request.
        first: The first of them among the tokens of the step.
        start: The position of that token.
        end: The position after the last.
    """

    row: int
    request: str
    first: int
    start: int
    end: int

    @property
    def tokens(self) -> slice:
        """Where they are among the tokens of the step."""
        return slice(self.first, self.first + self.end - self.start)


@dataclass(frozen=True, slots=True)
class Prompt(Span):
    """A prompt, or a chunk of it.

    Attributes:
        length: Tokens of the whole prompt.
    """

    length: int

    @property
    def complete(self) -> bool:
        """Whether it ends here."""
        return self.end == self.length


@dataclass(frozen=True)
class Steps:
    """Decoding: queries that each see what their request has cached up to themselves.

    As a rule one for each request. One that was preempted has all that it had written computed again, in one step of
    the model: each of these tokens is a query with a length of its own, as it was the first time.

    Attributes:
        spans: What they are of.
        requests: The request of each query.
        lengths: Cached positions of each, its own included.
        tokens: int64 ``[queries]``: their places among the tokens of the step; None: they are all of them, in order.
        table: int32 ``[queries, blocks]``.
        cached: int32 ``[queries]``: the lengths, on the device.
        shared: What follows from the lengths alone, made by the first layer that needs it.
    """

    spans: tuple[Span, ...]
    requests: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: Tensor | None
    table: Tensor
    cached: Tensor
    shared: dict[object, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a step has to compute.

    Attributes:
        prompts: What it reads of prompts.
        steps: What it decodes; None if nothing.
        tokens: All of its tokens, without padding.
        table: int32 ``[requests, blocks]``: the blocks of each row.
        block_size: Positions in a block.
    """

    prompts: tuple[Prompt, ...]
    steps: Steps | None
    tokens: int
    table: Tensor
    block_size: int

    def spans(self, *, prompts: bool, steps: bool) -> tuple[Span, ...]:
        """Those of prompts, of what is decoded, or both."""
        return (*(self.prompts if prompts else ()), *(self.steps.spans if steps and self.steps is not None else ()))

    @classmethod
    def of(cls, rows: Sequence[Row], table: Tensor, cached: Tensor, block_size: int) -> Plan:
        """The plan of a step.

        Args:
            rows: The requests' shares, in the order of the table.
            table: int32 ``[at least requests, blocks]``, on the device.
            cached: int32 ``[at least requests]``: positions that each request has in the cache after the step.
            block_size: Positions in a block.
        """
        # A table has room for the longest sequence there may ever be; what is derived of it need not. It grows by an
        # eighth at a time, so that steps stay alike for a while.
        blocks = ceil_div(max(row.end for row in rows), block_size)
        grain = max(1, power_of_2(blocks) // 16)
        table = table[: len(rows), : ceil_div(blocks, grain) * grain]
        prompts, spans = [], []
        for number, row in enumerate(rows):
            split = min(max(row.start, row.prompt), row.end)
            if row.start < split:
                prompts.append(Prompt(number, row.request, row.first, row.start, split, row.prompt))
            if split < row.end:
                spans.append(Span(number, row.request, row.first + split - row.start, split, row.end))
        tokens = sum(row.end - row.start for row in rows)
        steps = _steps(spans, table, cached[: len(rows)], tokens) if spans else None
        return cls(tuple(prompts), steps, tokens, table, block_size)


def _steps(spans: list[Span], table: Tensor, cached: Tensor, tokens: int) -> Steps:
    requests = tuple(span.request for span in spans for _ in range(span.start, span.end))
    lengths = tuple(position + 1 for span in spans for position in range(span.start, span.end))
    if len(spans) == tokens == len(table):  # every row decodes one token
        return Steps(tuple(spans), requests, lengths, None, table, cached)
    places = [span.first + n for span in spans for n in range(span.end - span.start)]
    rows = torch.tensor([span.row for span in spans for _ in range(span.start, span.end)], device=table.device)
    return Steps(
        tuple(spans),
        requests,
        lengths,
        torch.tensor(places, device=table.device),
        table[rows],
        torch.tensor(lengths, dtype=torch.int32, device=table.device),
    )
