"""Attention of one layer over a paged cache, under methods: what both backends share. It knows nothing of vLLM."""

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

__all__ = ["SparseLayer"]


class SparseLayer:
    """One layer, and what it remembers of its requests and of its cache.

    Args:
        layer: Which of how many.
        attention: The methods.
        counter: What is told of the indices that ran.
        scale: Factor of the scores.
        impl: "auto", "triton" or "torch".
        replays: Records steps, for all layers; None: they are launched anew each time.
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
        """From now on these methods; no request may be running. What pages hold is noticed anew as it is written."""
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
        """They are over."""
        for request in requests:
            self._queries.pop(request, None)
            if self._evicted is not None:
                self._evicted.forget(request)

    def notice(self, k: Tensor, keys: Tensor, slots: Tensor) -> None:
        """Keys were just written to the cache.

        Args:
            k: ``[at least tokens, kv_heads, head_size]``.
            keys: ``[blocks, block_size, kv_heads, head_size]``: the cache.
            slots: int64 ``[tokens]``: ``block * block_size + offset``; -1 is padding.
        """
        if not isinstance(self.decode, DecodeMethod):
            return
        if self._state_of != (keys.data_ptr(), keys.shape):  # another cache, as after a trial of vLLM's own
            nobody = torch.zeros(1, dtype=torch.int32, device=keys.device)
            self._state = self.decode.new_state(PagedCache(keys, keys, nobody[None], nobody))
            self._state_of = (keys.data_ptr(), keys.shape)
        with checks(self._checked):
            self.decode.update(self._state, k[: len(slots)], slots, keys.shape[1], impl=self._impl)

    def attend_prompts(
        self, plan: Plan, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, out: Tensor
    ) -> None:
        """What the step reads of prompts, under the method for prefill.

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
        if self.prefill is None:
            return
        for prompt in plan.prompts:
            key = _sequence(plan, prompt, k, keys)
            value = _sequence(plan, prompt, v, values)
            queries = self._with_earlier(self.prefill, prompt, self._scaled(q[prompt.tokens]))
            self._read(self.prefill, prompt, queries, key, value, out[prompt.tokens])

    def observe_prompts(self, plan: Plan, q: Tensor, k: Tensor, keys: Tensor) -> None:
        """What a method that evicts has to know of prompts; arguments as of ``attend_prompts``."""
        if self._evicted is None:
            return
        for prompt in plan.prompts:
            self._evicted.read(prompt, self._scaled(q[prompt.tokens]), _sequence(plan, prompt, k, keys))

    def attend_steps(self, plan: Plan, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """What the step decodes, under the method for it; arguments as of ``attend_prompts``."""
        steps = plan.steps
        if steps is None or self.decode is None:
            return
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
        """One step, and what was read; ``shared`` as of a ``PagedCache``."""
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

    def _read(
        self, method: PrefillMethod, prompt: Prompt, queries: Tensor, key: Tensor, value: Tensor, out: Tensor
    ) -> None:
        """Attention of a prompt or a chunk; of the queries, those before ``out`` only help to select."""
        earlier, done = len(queries) - len(out), 0
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
        """The queries of a chunk, and before them, where they are fewer than the method looks at, those before them."""
        wanted = method.observes
        earlier = self._queries.pop(prompt.request, None)
        if prompt.start > 0 and earlier is not None and len(queries) < wanted:
            queries = torch.cat([earlier[len(queries) - wanted :], queries])
        if wanted and not prompt.complete:
            self._queries[prompt.request] = queries[-wanted:].clone()
        return queries

    def _scaled(self, q: Tensor) -> Tensor:
        """Methods and kernels scale by ``head_size ** -0.5`` of their own accord."""
        factor = self._scale * q.shape[2] ** 0.5
        return q if abs(factor - 1) < 1e-6 else q * factor


def _sequence(plan: Plan, prompt: Prompt, new: Tensor, cached: Tensor) -> Tensor:
    """Keys, or values, of a prompt up to where a chunk ends: ``[end, kv_heads, head_size]``.

    They are those of this step where it is the first chunk; else they are gathered from the cache.
    """
    if prompt.start == 0:
        return new[prompt.tokens]
    blocks = plan.table[prompt.row, : ceil_div(prompt.end, cached.shape[1])]
    return cached[blocks.long()].flatten(0, 1)[: prompt.end]
