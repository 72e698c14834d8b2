"""Plan of a step for all layers: which tokens belong to prompts, and which are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import power_of_2
from sparse_tasks.attention.vllm.requests import Choice, Row


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one request in a step.

    Attributes:
        row: Row of the block table.
        request: vLLM's id of the request.
        first: Place of the first token in the step.
        start: Position of the first token in the sequence.
        end: Position after the last.
    """

    row: int
    request: str
    first: int
    start: int
    end: int

    @property
    def tokens(self) -> slice:
        """Places of the tokens in the step."""
        return slice(self.first, self.first + self.end - self.start)


@dataclass(frozen=True, slots=True)
class Prompt(Span):
    """Prompt, or a chunk of one.

    Attributes:
        length: Tokens of the whole prompt, or of its context where the rest is read as steps.
    """

    length: int

    @property
    def complete(self) -> bool:
        """Whether this chunk is the last."""
        return self.end == self.length


@dataclass(frozen=True)
class Steps:
    """Decoding: queries that see the cached positions of their request up to their own.

    A request has one query, or several: if it was preempted and is computed again, one for each token that it had
    written; if a question follows its context, one for each token of the question.

    Attributes:
        spans: Spans of the queries.
        requests: Request of each query.
        lengths: Cached positions of each query, its own included.
        tokens: int64 ``[queries]``: places of the queries in the step; None if they are the whole step, in order.
        table: int32 ``[queries, blocks]``: block table.
        cached: int32 ``[queries]``: the lengths, on the device.
        asked: Tokens of the prompt of each request that goes on behind its context: queries below that are of the
            question.
        shared: Tensors that follow from the lengths alone, made by the first layer that needs them.
        handed: What layers hand to later ones (see ``PagedCache``).
    """

    spans: tuple[Span, ...]
    requests: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: Tensor | None
    table: Tensor
    cached: Tensor
    asked: Mapping[str, int] = field(default_factory=dict)
    shared: dict[object, Tensor] = field(default_factory=dict)
    handed: dict[object, PageIndex] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Work of a step, or of its requests under one attention.

    Attributes:
        prompts: Prompts, or chunks of them.
        steps: Decoding; None if nothing is decoded.
        tokens: Number of tokens in the step, without padding.
        table: int32 ``[requests, blocks]``: block table.
        block_size: Positions in a block.
        choice: The attention; None is the engine's.
        alone: Whether it is the whole step.
        handed: What layers leave to later ones for its prompts, by request (see ``Method.in_layer``).
    """

    prompts: tuple[Prompt, ...]
    steps: Steps | None
    tokens: int
    table: Tensor
    block_size: int
    choice: Choice | None = None
    alone: bool = True
    handed: dict[str, dict[object, Any]] = field(default_factory=dict)

    def spans(self, *, prompts: bool, steps: bool) -> tuple[Span, ...]:
        """Spans of prompts, of decoding, or of both."""
        return (*(self.prompts if prompts else ()), *(self.steps.spans if steps and self.steps is not None else ()))

    @classmethod
    def of(
        cls, rows: Sequence[Row], table: Tensor, cached: Tensor, block_size: int, choice: Choice | None = None
    ) -> Plan:
        """Plan of a step for its requests of one choice.

        Args:
            rows: The step's tokens by request, in the order of the table.
            table: int32 ``[at least requests, blocks]``, on the device.
            cached: int32 ``[at least requests]``: cached positions of each request after the step.
            block_size: Positions in a block.
            choice: The choice.
        """
        # The table has room for the longest possible sequence. Its used part grows by an eighth at a time, so that
        # consecutive steps have the same shapes.
        blocks = ceil_div(max(row.end for row in rows), block_size)
        grain = max(1, power_of_2(blocks) // 16)
        table = table[: len(rows), : ceil_div(blocks, grain) * grain]
        prompts, spans = [], []
        for number, row in enumerate(rows):
            if row.choice is not choice:
                continue
            length = row.prompt if row.context is None else row.context
            split = min(max(row.start, length), row.end)
            if row.start < split:
                prompts.append(Prompt(number, row.request, row.first, row.start, split, length))
            if split < row.end:
                spans.append(Span(number, row.request, row.first + split - row.start, split, row.end))
        tokens = sum(row.end - row.start for row in rows)
        asked = {row.request: row.prompt for row in rows if row.context is not None}
        steps = _steps(spans, table, cached[: len(rows)], tokens, asked) if spans else None
        alone = all(row.choice is choice for row in rows)
        return cls(tuple(prompts), steps, tokens, table, block_size, choice, alone)


@dataclass(frozen=True)
class Step:
    """A step for all layers.

    Attributes:
        plans: A plan for each attention of its requests, in no order.
        dense: Spans that no method computes, in the step's order.
        tokens: Number of tokens, without padding.
        table: int32 ``[requests, blocks]``: block table.
        again: int64 ``[tokens]``: slots that methods have to note again, of blocks from which tokens were taken back;
            None where there are none.
    """

    plans: tuple[Plan, ...]
    dense: tuple[Span, ...]
    tokens: int
    table: Tensor
    again: Tensor | None = None

    @property
    def mixed(self) -> bool:
        """Whether methods compute a part of it, and vLLM the other."""
        return 0 < sum(span.end - span.start for span in self.dense) < self.tokens


def noted_again(rows: Sequence[Row], table: Tensor, block_size: int) -> Tensor | None:
    """Slots of the block in which tokens were taken back, up to where the step writes there.

    What a method has stored about a page cannot be separated from what it stored about these tokens. Later blocks start
    afresh.

    Args:
        rows: The step's tokens by request, in the order of the table.
        table: int32 ``[at least requests, blocks]``.
        block_size: Positions in a block.

    Returns:
        int64 ``[tokens]``, on the table's device; None where nothing was taken back.
    """
    places = [
        (number, row.start // block_size, offset)
        for number, row in enumerate(rows)
        if row.taken_back and row.start % block_size
        for offset in range(min(block_size, row.end - row.start // block_size * block_size))
    ]
    if not places:
        return None
    of, block, offset = torch.tensor(places, device=table.device).unbind(1)
    return table[of, block].long() * block_size + offset


def _steps(spans: list[Span], table: Tensor, cached: Tensor, tokens: int, asked: Mapping[str, int]) -> Steps:
    requests = tuple(span.request for span in spans for _ in range(span.start, span.end))
    lengths = tuple(position + 1 for span in spans for position in range(span.start, span.end))
    if len(spans) == tokens == len(table):  # every row decodes one token
        return Steps(tuple(spans), requests, lengths, None, table, cached, asked)
    places = [span.first + n for span in spans for n in range(span.end - span.start)]
    rows = torch.tensor([span.row for span in spans for _ in range(span.start, span.end)], device=table.device)
    return Steps(
        tuple(spans),
        requests,
        lengths,
        torch.tensor(places, device=table.device),
        table[rows],
        torch.tensor(lengths, dtype=torch.int32, device=table.device),
        asked,
    )
