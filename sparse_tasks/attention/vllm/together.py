"""Eviction at each step for all requests at once, with no more launches for a batch than for one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, KeptBatch, PageIndex
from sparse_tasks.attention.method import Layer, StepMethod
from sparse_tasks.attention.vllm.plan import Steps
from sparse_tasks.core.errors import EngineError


class _Batch:
    """Requests whose lists are in the same tensors. Some may have ended since, or have their lists elsewhere.

    Attributes:
        requests: The requests.
        lengths: Positions that each has been through.
        kept: The lists.
    """

    def __init__(self, requests: Sequence[str], lengths: Sequence[int], kept: KeptBatch) -> None:
        self.requests, self.lengths, self.kept = tuple(requests), tuple(lengths), kept
        self._row_of = {request: row for row, request in enumerate(self.requests)}

    def part(self, requests: Sequence[str]) -> _Batch:
        """Some of the requests, in that order."""
        rows = [self._row_of[request] for request in requests]
        return _Batch(requests, [self.lengths[row] for row in rows], self.kept.take(rows))

    def width(self, request: str) -> int:
        """The most tokens that the request's lists have had, or may have."""
        row = self._row_of[request]
        return max(self.kept.sizes[row], self.kept.limits[row])


@dataclass(frozen=True)
class _Round:
    """Queries that a step takes at once: of requests that all differ, and whose lists are of similar lengths.

    Attributes:
        rows: Numbers of the queries.
        index: The same on the device; None if they are all queries, in order.
    """

    rows: tuple[int, ...]
    index: Tensor | None


class Together:
    """Lists of requests, in batches that last while the same requests decode.

    Args:
        method: The method.
        layer: Position among the layers.
        impl: "auto", "triton" or "torch".
    """

    def __init__(self, method: StepMethod, layer: Layer, impl: str) -> None:
        self._method, self._layer, self._impl = method, layer, impl
        self._batches: dict[str, _Batch] = {}
        self._requests: tuple[str, ...] = ()  # the queries that the rounds are of
        self._rounds: list[_Round] = []

    def begin(self, request: str, kept: Kept) -> None:
        """Take over what was kept of a request's prompt."""
        self._batches[request] = _Batch((request,), (kept.length,), KeptBatch.of(kept))
        self._requests = ()

    def forget(self, request: str) -> None:
        """Drop a finished request."""
        self._batches.pop(request, None)

    def step(self, steps: Steps, q: Tensor, cache: PagedCache) -> PageIndex:
        """Tokens that each query sees. Queries of a request keep their order; the n-th of all requests go together.

        Args:
            steps: The queries.
            q: ``[queries, query_heads, head_size]``, scaled so that scores need ``head_size ** -0.5``.
            cache: The cache of these queries.
        """
        for request in steps.requests:
            if request not in self._batches:
                raise EngineError(f"{request}: decoding begins before {self._method.name} has seen the prompt")
        if steps.requests != self._requests:
            self._requests, self._rounds = steps.requests, self._rounds_of(steps.requests, q.device)
        seen = [self._round(one, steps, q, cache) for one in self._rounds]
        if self._rounds[0].index is None:
            return PageIndex(seen[0].positions, seen[0].counts, 1, cache.lengths)
        width = max(part.positions.shape[2] for part in seen)
        pages = seen[0].positions.new_zeros(len(q), cache.kv_heads, width)
        counts = seen[0].counts.new_zeros(len(q), cache.kv_heads)
        for one, part in zip(self._rounds, seen, strict=True):
            pages[one.index, :, : part.positions.shape[2]] = part.positions
            counts[one.index] = part.counts
        return PageIndex(pages, counts, 1, cache.lengths)

    def _rounds_of(self, requests: tuple[str, ...], device: torch.device) -> list[_Round]:
        turns: list[list[int]] = []
        before: dict[str, int] = {}
        for row, request in enumerate(requests):
            turn = before[request] = before.get(request, -1) + 1
            if turn == len(turns):
                turns.append([])
            turns[turn].append(row)
        width = {request: self._batches[request].width(request) for request in before}
        alike: list[list[int]] = []
        for rows in turns:
            widest = None
            # Short lists are padded to the longest beside them: to twice their own length at most.
            for row in sorted(rows, key=lambda row: -width[requests[row]]):
                if widest is None or 2 * width[requests[row]] < widest:
                    widest = width[requests[row]]
                    alike.append([])
                alike[-1].append(row)
        if len(alike) == 1:
            return [_Round(tuple(range(len(requests))), None)]
        rounds = [tuple(sorted(rows)) for rows in alike]
        return [_Round(rows, torch.tensor(rows, device=device)) for rows in rounds]

    def _round(self, one: _Round, steps: Steps, q: Tensor, cache: PagedCache) -> KeptBatch:
        requests = tuple(steps.requests[row] for row in one.rows)
        lengths = tuple(steps.lengths[row] for row in one.rows)
        batch = self._gathered(requests)
        for request, before, length in zip(requests, batch.lengths, lengths, strict=True):
            if before != length - 1:
                raise EngineError(f"{request}: {self._method.name} has seen {before} tokens of {length - 1}")
        kept = batch.kept
        if self._method.widens and steps.asked:
            asked = [length <= steps.asked.get(request, 0) for request, length in zip(requests, lengths, strict=True)]
            kept = kept.widen(asked) if any(asked) else kept
        if one.index is not None:
            q, cache = q[one.index], cache.rows(one.index)
        seen = kept.append(cache.lengths - 1)
        weights = self._method.weigh(q, cache, seen.positions, seen.counts, layer=self._layer, impl=self._impl)
        batch.kept, batch.lengths = self._method.advance_all(seen, weights), lengths
        return self._method.visible_all(seen, weights, impl=self._impl)

    def _gathered(self, requests: tuple[str, ...]) -> _Batch:
        """The batch of these requests, made of those that they are in unless it is there already."""
        sources = dict.fromkeys(self._batches[request] for request in requests)
        batch = next(iter(sources))
        if len(sources) == 1 and batch.requests == requests:
            return batch
        parts, together = [], set(requests)
        for source in sources:
            here = [request for request in source.requests if self._batches.get(request) is source]
            parts.append(source.part([request for request in here if request in together]))
            left = [request for request in here if request not in together]
            if left:  # they would hold all of the old lists
                self._move(source.part(left))
        joined = _Batch(
            [request for part in parts for request in part.requests],
            [length for part in parts for length in part.lengths],
            KeptBatch.joined([part.kept for part in parts]),
        )
        return self._move(joined.part(requests))

    def _move(self, batch: _Batch) -> _Batch:
        self._batches.update(dict.fromkeys(batch.requests, batch))
        return batch
