"""Attention of one layer over a paged cache, under methods, for both backends. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import checks
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import DecodeMethod, EvictMethod, Layer, PrefillMethod
from sparse_tasks.attention.prefill import attend, select_stretches
from sparse_tasks.attention.vllm.counting import Counter
from sparse_tasks.attention.vllm.evicted import Evicted
from sparse_tasks.attention.vllm.plan import Plan, Prompt, Steps
from sparse_tasks.attention.vllm.replay import Replays
from sparse_tasks.core.errors import EngineError


class SparseLayer:
    """One layer, with its state of requests and of the cache.

    Args:
        layer: Position among the layers.
        attention: The methods.
        counter: Counts the indices that ran.
        scale: Factor of the scores.
        impl: "auto", "triton" or "torch".
        replays: Recorder of decoding steps, shared by all layers; None launches each step anew.
    """

    def __init__(
        self,
        layer: Layer,
        attention: Attention,
        counter: Counter,
        scale: float,
        impl: str = "auto",
        replays: Replays | None = None,
    ) -> None:
        self._layer, self._counter, self._scale, self._impl, self._replays = layer, counter, scale, impl, replays
        # All layers are alike: what fits in the first fits in the others.
        self._checked = layer.index == 0
        self.change(attention)

    def change(self, attention: Attention) -> None:
        """Switch to other methods, between requests. Page summaries are made anew as pages are written."""
        # At sparsity 0 a method leaves nothing out: dense attention is the same, and faster.
        self.prefill, self.decode = attention.prefill, attention.decode
        if self.prefill is not None and self.prefill.sparsity == 0:
            self.prefill = None
        if self.decode is not None and self.decode.sparsity == 0:
            self.decode = None
        self._queries: dict[str, Tensor] = {}  # the last of prompts that are not complete
        self._evicted = Evicted(self.decode, self._layer, self._impl) if isinstance(self.decode, EvictMethod) else None
        self._state: Tensor | None = None
        self._state_of: tuple[int, torch.Size] | None = None

    def forget(self, requests: Iterable[str]) -> None:
        """Drop the state of finished requests."""
        for request in requests:
            self._queries.pop(request, None)
            if self._evicted is not None:
                self._evicted.forget(request)

    def notice(self, k: Tensor, keys: Tensor, slots: Tensor) -> None:
        """Update the decoding method's state with keys just written to the cache.

        Args:
            k: ``[at least tokens, kv_heads, head_size]``.
            keys: ``[blocks, block_size, kv_heads, head_size]``: the cache.
            slots: int64 ``[tokens]``: ``block * block_size + offset``; -1 is padding.
        """
        if not isinstance(self.decode, DecodeMethod):
            return
        if self._state_of != (keys.data_ptr(), keys.shape):  # another cache, as after a trial of vLLM's own
            empty = torch.zeros(1, dtype=torch.int32, device=keys.device)
            self._state = self.decode.new_state(PagedCache(keys, keys, empty[None], empty))
            self._state_of = (keys.data_ptr(), keys.shape)
        with checks(self._checked):
            self.decode.update(self._state, k[: len(slots)], slots, keys.shape[1], impl=self._impl)

    def attend(self, plan: Plan, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """Attention of a step: of its prompts and of its decoding, where a method is for them.

        Args:
            plan: The step.
            q: ``[at least tokens, query_heads, head_size]``.
            k: ``[at least tokens, kv_heads, head_size]``; in the cache already.
            v: Like ``k``.
            keys: ``[blocks, block_size, kv_heads, head_size]``: the cache.
            values: Like ``keys``.
            out: ``[at least tokens, query_heads, head_size]``, written to.
        """
        if keys.shape[1] != plan.block_size:
            raise EngineError(f"vLLM's cache has blocks of {keys.shape[1]} positions, and its tables {plan.block_size}")
        if self.prefill is not None or self._evicted is not None:
            for prompt in plan.prompts:
                queries, key = self._scaled(q[prompt.tokens]), _sequence(plan, prompt, k, keys)
                if self.prefill is not None:
                    value = _sequence(plan, prompt, v, values)
                    self._prefill(self.prefill, prompt, queries, key, value, out[prompt.tokens])
                if self._evicted is not None:
                    self._evicted.read(prompt, queries, key)
        if plan.steps is not None and self.decode is not None:
            self._decode(plan.steps, q, keys, values, out)

    def _decode(self, steps: Steps, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        if self._replays is not None and isinstance(self.decode, DecodeMethod) and self.decode.recordable:
            tensors = (q, keys, values, out, *(() if self._state is None else (self._state,)))
            index = self._replays.run(
                steps, self._layer.index, tensors, lambda: self._step(steps, None, q, keys, values, out)
            )
        else:
            index = self._step(steps, steps.shared, q, keys, values, out)
        self._counter.steps(self._layer.index, index)

    def _step(
        self, steps: Steps, shared: dict[object, Tensor] | None, q: Tensor, keys: Tensor, values: Tensor, out: Tensor
    ) -> PageIndex:
        """Attention of decoding, and the index that ran; ``shared`` as of a ``PagedCache``."""
        places = slice(len(steps.requests)) if steps.tokens is None else steps.tokens
        with checks(self._checked):
            queries = self._scaled(q[places])
            cache = PagedCache(keys, values, steps.table, steps.cached, shared)
            if self._evicted is not None:
                index: PageIndex = self._evicted.step(steps, queries, cache)
            elif isinstance(self.decode, DecodeMethod):
                index = self.decode.select(queries, cache, self._state, impl=self._impl)
            if steps.tokens is None:
                sparse_decode(queries, cache, index, impl=self._impl, out=out[places])
            else:
                out[places] = sparse_decode(queries, cache, index, impl=self._impl)
        return index

    def _prefill(
        self, method: PrefillMethod, prompt: Prompt, queries: Tensor, key: Tensor, value: Tensor, out: Tensor
    ) -> None:
        """Attention of a prompt or a chunk."""
        queries = self._with_earlier(method, prompt, queries)
        earlier, done = len(queries) - len(out), 0  # earlier queries only help to select
        for part, whole in select_stretches(method, queries, key, length=prompt.length, impl=self._impl):
            done += len(part)
            count = min(len(part), done - earlier)
            if count <= 0:
                continue
            index = whole if count == len(part) else whole.tail(count)
            seen = slice(index.n_k)
            attended = attend(part[len(part) - count :], key[seen], value[seen], index, impl=self._impl)
            out[done - earlier - count : done - earlier] = attended
            self._counter.prompt(prompt.request, self._layer.index, index)

    def _with_earlier(self, method: PrefillMethod, prompt: Prompt, queries: Tensor) -> Tensor:
        """The queries of a chunk, preceded by those of earlier chunks where the method observes more."""
        observed = method.observes
        earlier = self._queries.pop(prompt.request, None)
        if prompt.start > 0 and earlier is not None and len(queries) < observed:
            queries = torch.cat([earlier[len(queries) - observed :], queries])
        if observed and not prompt.complete:
            self._queries[prompt.request] = queries[-observed:].clone()
        return queries

    def _scaled(self, q: Tensor) -> Tensor:
        """Queries scaled so that scores need ``head_size ** -0.5`` alone, which methods and kernels apply."""
        factor = self._scale * q.shape[2] ** 0.5
        return q if abs(factor - 1) < 1e-6 else q * factor


def _sequence(plan: Plan, prompt: Prompt, new: Tensor, cached: Tensor) -> Tensor:
    """Keys, or values, of a prompt up to where a chunk ends: ``[end, kv_heads, head_size]``.

    Those of the step for the first chunk, gathered from the cache for later ones.
    """
    if prompt.start == 0:
        return new[prompt.tokens]
    blocks = plan.table[prompt.row, : ceil_div(prompt.end, cached.shape[1])]
    return cached[blocks.long()].flatten(0, 1)[: prompt.end]
