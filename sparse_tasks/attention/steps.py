"""Selection of a method for one sequence: of its prompt, and step by step after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparse_tasks.attention.agreement import Agreement
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, PageIndex, PrefillIndex
from sparse_tasks.attention.method import ONLY, DecodeMethod, EvictMethod, Layer, PrefillMethod, SharedMethod
from sparse_tasks.attention.prefill import select_stretches
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError

_PAGE = 16  # of dense attention, for speed alone


def select_prompt(method: PrefillMethod, q: Tensor, k: Tensor, *, impl: str = "auto") -> list[PrefillIndex]:
    """Indices that ``sparse_prefill`` runs, without the attention.

    Args:
        method: The method.
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        impl: "auto", "triton" or "torch".

    Returns:
        One, or one for each stretch of queries where the method takes them in turn.
    """
    return [index for _, index in select_stretches(method, q, k, impl=impl)]


class Memory:
    """State of one sequence in one layer, under a method.

    Args:
        method: None is dense attention.
        layer: Position among the layers.
        impl: "auto", "triton" or "torch".
        softmax: The model's sinks and soft cap.

    Raises:
        UsageError: The method does not go with the softmax.
    """

    def __init__(
        self,
        method: DecodeMethod | EvictMethod | None,
        layer: Layer = ONLY,
        impl: str = "auto",
        softmax: Softmax = PLAIN,
    ) -> None:
        self._method = None if method is None else method.under(softmax)
        self._layer, self._impl = layer, impl
        self._chosen: Kept | None = None
        self._agreement: tuple[Agreement, int] | None = None  # that will say what is kept, in so many KV heads
        self._state: Tensor | None = None
        self._noticed = 0  # keys that the state knows of
        self.handed: dict[object, PageIndex] | None = None
        """What layers hand to later ones in the next step (see ``PagedCache``)."""

    @property
    def _kept(self) -> Kept | None:
        """What a method that evicts has left; None before it has."""
        if self._agreement is not None:
            agreement, kv_heads = self._agreement
            self._chosen, self._agreement = agreement.kept(kv_heads), None
        return self._chosen

    @_kept.setter
    def _kept(self, kept: Kept) -> None:
        self._chosen = kept

    def read(self, q: Tensor, k: Tensor, v: Tensor | None, handed: dict[object, Any] | None = None) -> None:
        """Read a prompt, or a chunk of it.

        Args:
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
            k: ``[n_k, kv_heads, head_size]``.
            v: ``[n_k, kv_heads, value_size]``; None takes values to be alike.
            handed: One for all layers that read this, for methods that choose for all of them; None stands alone.
        """
        if isinstance(self._method, SharedMethod) and handed is not None:
            new = Agreement(self._method, self._layer.count, len(k), self._impl)
            agreement: Agreement = handed.setdefault(Agreement, new)
            agreement.add(self._method.rank(q, k, v=v, impl=self._impl))
            self._agreement = agreement, k.shape[1]
        elif isinstance(self._method, EvictMethod):
            self._kept = self._method.keep(q, k, v=v, layer=self._layer, impl=self._impl)

    def take(self, kept: Kept) -> None:
        """Let these tokens stay of a prompt, which were chosen before it was read."""
        self._kept = kept

    def follow(self, first: int, end: int) -> Kept | None:
        """Let tokens follow what was kept, as their steps would, if the method then evicts and hides nothing.

        Args:
            first: Position of the first of them.
            end: Position after the last.

        Returns:
            What was kept before them; None where ``step`` has to take one after the other.
        """
        kept, method = self._kept, self._method
        if not isinstance(method, EvictMethod) or kept is None or kept.length != first or method.each_step:
            return None
        if (type(method).advance, type(method).visible) != (EvictMethod.advance, EvictMethod.visible):
            return None
        after = kept
        for position in range(first, end):
            after = method.advance(after, position)
        self._kept = after
        return kept

    def widen(self) -> None:
        """Make room for the next token beside the budget: it is of the prompt, and follows what was kept of that."""
        if isinstance(self._method, EvictMethod) and self._kept is not None:
            self._kept = self._method.widen(self._kept)

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[PagedCache, PageIndex]:
        """Select for the next token's query.

        Args:
            q: ``[1, query_heads, head_size]``, scaled so that scores need ``head_size ** -0.5`` and no more.
            k: ``[n_k, kv_heads, head_size]``: all keys so far, its own the last; views will do.
            v: ``[n_k, kv_heads, value_size]``.

        Returns:
            The cache for kernels, a batch of one, and the index of what the query sees.

        Raises:
            UsageError: The method evicts, and has not read all earlier tokens.
        """
        lengths = torch.tensor([len(k)], dtype=torch.int32, device=k.device)
        cache = PagedCache.contiguous(k.transpose(0, 1)[None], v.transpose(0, 1)[None], lengths)
        if isinstance(self._method, EvictMethod):
            return cache, self._evict(self._method, q, cache, len(k) - 1)
        if isinstance(self._method, DecodeMethod):
            self._notice(self._method, k, cache)
            cache = replace(cache, layer=self._layer, handed=self.handed)
            return cache, self._method.select(q, cache, self._state, impl=self._impl)
        return cache, PageIndex.dense(lengths, cache.kv_heads, _PAGE, len(k))

    def _evict(self, method: EvictMethod, q: Tensor, cache: PagedCache, position: int) -> PageIndex:
        if self._kept is None or self._kept.length != position:
            raise UsageError(
                "cache", f"{position} tokens", f"have not all been read with {method.name}, so what it kept is unknown"
            )
        seen = self._kept.append(position)
        weights = None
        if method.each_step:
            (weights,) = method.weigh(
                q, cache, seen.positions[None], seen.counts[None], layer=self._layer, impl=self._impl
            )
        self._kept = method.advance(self._kept, position, weights)
        return method.visible(seen, weights, impl=self._impl).pages()

    def _notice(self, method: DecodeMethod, k: Tensor, cache: PagedCache) -> None:
        """Grow the state with the cache, in which all keeps its place since it is one block."""
        grown = method.new_state(cache)
        if grown is None:
            return
        if self._state is not None:
            grown[tuple(slice(length) for length in self._state.shape)] = self._state
        slots = torch.arange(self._noticed, len(k), device=k.device)
        method.update(grown, k[self._noticed :], slots, cache.block_size, impl=self._impl)
        self._state, self._noticed = grown, len(k)


def attend_after(kept: Kept, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax = PLAIN) -> Tensor:
    """Attention of the tokens that follow an eviction: each sees what was kept, those before it and itself.

    Args:
        kept: Of the positions before them.
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        softmax: The model's sinks and soft cap.

    Returns:
        ``[n_q, query_heads, value_size]`` in q's dtype.
    """
    (n_q, heads, size), (kv_heads, width) = q.shape, kept.positions.shape
    own = torch.arange(kept.length, kept.length + n_q, device=k.device)
    entry = torch.arange(width + n_q, device=k.device)
    there = (entry < kept.counts[:, None]) | (entry >= width)  # past the counts anything
    positions = torch.where(there, torch.cat([kept.positions.long(), own.expand(kv_heads, -1)], 1), 0)
    seen = there[:, None] & (entry < width + torch.arange(1, n_q + 1, device=k.device)[:, None])
    head = torch.arange(kv_heads, device=k.device)[:, None]
    queries = q.view(n_q, kv_heads, -1, size).permute(1, 2, 0, 3).float()  # [kv_heads, group, n_q, head_size]
    scores = softmax.capped(queries @ k[positions, head].float().mT[:, None] * size**-0.5)
    weights = softmax.of(slice(None), kv_heads, -1, 1).weights(scores.masked_fill(~seen[:, None], float("-inf")))
    return (weights @ v[positions, head].float()[:, None]).permute(2, 0, 1, 3).reshape(n_q, heads, -1).to(q.dtype)
