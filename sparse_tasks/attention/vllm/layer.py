"""Attention of one layer over a paged cache, under methods, for both backends. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparse_tasks.attention.agreement import Agreement
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.interactions import ceil_div, whole_blocks
from sparse_tasks.attention.kernels.dispatch import EIGHT_BITS, checks
from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import DecodeMethod, EvictMethod, Layer, PrefillMethod
from sparse_tasks.attention.prefill import attend, select_stretches
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.attention.vllm.arguments import Offer
from sparse_tasks.attention.vllm.counting import Counter
from sparse_tasks.attention.vllm.evicted import Evicted
from sparse_tasks.attention.vllm.plan import Plan, Prompt, Step, Steps
from sparse_tasks.attention.vllm.replay import Replays
from sparse_tasks.attention.vllm.requests import Choice
from sparse_tasks.core.errors import EngineError


class Methods:
    """Methods of an attention in one layer, with their state for each request.

    Attributes:
        prefill: The method for prompts; None where they see everything.
        decode: The method for what follows a prompt; None where that sees everything.
        attention: The attention.
        queries: ``[observed, query_heads, head_size]``: the last queries of prompts that are not complete.
        evicted: What an evicting method keeps of each request.
    """

    def __init__(
        self,
        attention: Attention,
        layer: Layer,
        impl: str,
        softmax: Softmax = PLAIN,
        text: Any = None,
        agreements: dict[str, Agreement] | None = None,
    ) -> None:
        # At sparsity 0 a method leaves nothing out: dense attention is the same, and faster.
        self.attention = attention.placed(text)
        prefill, decode = self.attention.prefill, self.attention.decode
        self.prefill = None if prefill is None or prefill.sparsity == 0 else prefill.under(softmax)
        self.decode = None if decode is None or decode.sparsity == 0 else decode.under(softmax).in_layer(layer)
        self.queries: dict[str, Tensor] = {}
        self.evicted = Evicted(self.decode, layer, impl, agreements) if isinstance(self.decode, EvictMethod) else None

    @property
    def recordable(self) -> bool:
        """Whether decoding can be recorded (see ``Replays``)."""
        return isinstance(self.decode, DecodeMethod) and self.decode.recordable

    def forget(self, request: str) -> None:
        """Drop the state of a finished request."""
        self.queries.pop(request, None)
        if self.evicted is not None:
            self.evicted.forget(request)


@dataclass(frozen=True)
class Scales:
    """Scales of values in 8 bits, one per tensor.

    Attributes:
        q: Of queries, where vLLM hands them over in 8 bits.
        k: Of cached keys.
        v: Of cached values.
    """

    q: float = 1.0
    k: float = 1.0
    v: float = 1.0


UNSCALED: Final = Scales()
"""Of a cache in 16 bits or more."""


class SparseLayer:
    """One layer, with its state for requests and for the cache.

    Args:
        layer: Position among the layers.
        offer: The engine's attention, and those that requests may choose.
        counter: Counts the indices that ran.
        scale: Factor of the scores.
        impl: "auto", "triton" or "torch".
        replays: Recorder of decoding steps, shared by all layers; None where layers are not recorded by themselves.
        softmax: Sinks and soft cap of the layer.
        scales: Of a cache in 8 bits.
        of: Layer whose cache, and what methods note of it, this one reads; None has a cache of its own.
        text: ``PretrainedConfig`` of the text model (see ``Attention.placed``).
        agreements: See ``Evicted``.

    Raises:
        UsageError: A method does not support the softmax, or the way in which positions rotate keys.
    """

    def __init__(
        self,
        layer: Layer,
        offer: Offer,
        counter: Counter,
        scale: float,
        impl: str = "auto",
        replays: Replays | None = None,
        softmax: Softmax = PLAIN,
        scales: Scales = UNSCALED,
        of: SparseLayer | None = None,
        text: Any = None,
        agreements: dict[str, Agreement] | None = None,
    ) -> None:
        self._of, self._text, self._agreements = of, text, agreements
        self.scales = scales
        self._layer, self._counter, self._scale, self._impl, self._replays = layer, counter, scale, impl, replays
        self.softmax = softmax
        # All layers are alike: what fits in the first fits in the others.
        self._checked = layer.index == 0
        self.change(offer)

    def change(self, offer: Offer) -> None:
        """Switch to other methods, between requests. Page summaries are rebuilt as pages are written."""
        for method in offer.methods:
            method.check_softmax(self.softmax.what)
        self._own = self._methods_of(offer.attention)
        self._chosen: WeakKeyDictionary[Choice, Methods] = WeakKeyDictionary()
        # What a method notes of the cache is the same at any sparsity.
        noting = [self._own.decode, *(choice.decode for choice in offer.choices)]
        self._noting = {method.name: method for method in noting if isinstance(method, DecodeMethod)}
        self._states: dict[str, Tensor | None] = {}
        self._states_of: tuple[int, torch.Size] | None = None

    def methods(self, choice: Choice | None) -> Methods:
        """The methods of a choice; None is the engine's."""
        if choice is None:
            return self._own
        if choice not in self._chosen:
            self._chosen[choice] = self._methods_of(choice.attention)
        return self._chosen[choice]

    def _methods_of(self, attention: Attention) -> Methods:
        return Methods(attention, self._layer, self._impl, self.softmax, self._text, self._agreements)

    def begin(self, request: str, end: int, cached: int, session: str | None, choice: Choice | None) -> None:
        """Take note of a request before its first step; arguments as of ``Evicted.begin``."""
        if (evicted := self.methods(choice).evicted) is not None:
            evicted.begin(request, end, cached, session)

    def close(self, session: str) -> None:
        """Drop what was chosen for a session."""
        for methods in (self._own, *self._chosen.values()):
            if methods.evicted is not None:
                methods.evicted.close(session)

    def forget(self, requests: Iterable[str]) -> None:
        """Drop the state of finished requests."""
        for request in requests:
            for methods in (self._own, *self._chosen.values()):
                methods.forget(request)

    def notice(self, k: Tensor, keys: Tensor, slots: Tensor) -> None:
        """Update the decoding methods' states with keys just written to the cache.

        Args:
            k: ``[at least tokens, kv_heads, head_size]``; read from the cache instead if that has 8 bits.
            keys: ``[blocks, block_size, kv_heads, head_size]``: the cache.
            slots: int64 ``[tokens]``: ``block * block_size + offset``; -1 is padding.
        """
        if self._of is not None:
            self._of.notice(k, keys, slots)
            return
        if self._states_of != (keys.data_ptr(), keys.shape):  # another cache, as after a trial of vLLM's own
            empty = torch.zeros(1, dtype=torch.int32, device=keys.device)
            cache = PagedCache(keys, keys, empty[None], empty)
            self._states = {name: method.new_state(cache) for name, method in self._noting.items()}
            self._states_of = (keys.data_ptr(), keys.shape)
        if keys.dtype == EIGHT_BITS and self._noting:
            places = slots.clamp_min(0)
            k = keys[places // keys.shape[1], places % keys.shape[1]]
        with checks(self._checked):
            for name, method in self._noting.items():
                method.update(self._states[name], k[: len(slots)], slots, keys.shape[1], impl=self._impl)

    def attend(
        self,
        step: Step,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
    ) -> None:
        """Attention of a step: of its prompts and of its decoding, where a method is for them.

        Args:
            step: The step.
            q: ``[at least tokens, query_heads, head_size]``; in 8 bits, too.
            k: ``[at least tokens, kv_heads, head_size]``; in the cache already; read there if it is another layer's.
            v: Like ``k``.
            keys: ``[blocks, block_size, kv_heads, head_size]``: the cache.
            values: ``[blocks, block_size, kv_heads, value_size]``.
            out: ``[at least tokens, query_heads, value_size]``, written to.
        """
        if self._of is not None:
            k = v = None
        elif step.again is not None and self._noting:
            self.notice(keys[step.again // keys.shape[1], step.again % keys.shape[1]], keys, step.again)
        for plan in step.plans:
            if keys.shape[1] != plan.block_size:
                raise EngineError(
                    f"vLLM's cache has blocks of {keys.shape[1]} positions, and its tables {plan.block_size}"
                )
            methods = self.methods(plan.choice)
            if methods.prefill is not None or methods.evicted is not None:
                for prompt in plan.prompts:
                    queries = self._scaled(q[prompt.tokens], out.dtype)
                    unseen = methods.attention.unseen(prompt.length, prompt.start)
                    key = _sequence(plan, prompt, k, keys, out.dtype, unseen)
                    if methods.prefill is not None:
                        value = _sequence(plan, prompt, v, values, out.dtype, unseen)
                        method = methods.prefill.in_layer(self._layer, plan.handed.setdefault(prompt.request, {}))
                        self._prefill(methods, method, prompt, queries, key, value, out[prompt.tokens])
                    if methods.evicted is not None:
                        reads = methods.evicted.reads_values and prompt.complete
                        weighed = _sequence(plan, prompt, v, values, out.dtype, unseen) if reads else None
                        methods.evicted.read(prompt, queries, key, weighed)
            if plan.steps is not None and methods.decode is not None:
                self._decode(plan, plan.steps, methods, q, keys, values, out)

    def _decode(
        self, plan: Plan, steps: Steps, methods: Methods, q: Tensor, keys: Tensor, values: Tensor, out: Tensor
    ) -> None:
        states = self._states if self._of is None else self._of._states
        state = states.get(methods.decode.name) if isinstance(methods.decode, DecodeMethod) else None
        compute = partial(self._step, methods, state, steps, q=q, keys=keys, values=values, out=out)
        # Recorded steps follow each other, and so are of the engine's attention alone.
        if self._replays is not None and methods.recordable and plan.alone and plan.choice is None:
            tensors = (q, keys, values, out, *(() if state is None else (state,)))
            index = self._replays.run(steps, self._layer.index, tensors, lambda: compute(None))
        else:
            index = compute(steps.shared)
        self._counter.steps(self._layer.index, index, plan.choice)

    def _step(
        self,
        methods: Methods,
        state: Tensor | None,
        steps: Steps,
        shared: dict[object, Tensor] | None,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
    ) -> PageIndex:
        """Attention of decoding, and the index that ran; ``shared`` as of a ``PagedCache``."""
        places = slice(len(steps.requests)) if steps.tokens is None else steps.tokens
        with checks(self._checked):
            queries = self._scaled(q[places], out.dtype)
            cache = PagedCache(keys, values, steps.table, steps.cached, shared, self._layer, steps.handed)
            if methods.evicted is not None:
                index: PageIndex = methods.evicted.step(steps, queries, cache)
            elif isinstance(methods.decode, DecodeMethod):
                index = methods.decode.select(queries, cache, state, impl=self._impl)
            attended = out[places] if steps.tokens is None else out.new_empty(len(queries), *out.shape[1:])
            sparse_decode(queries, cache, index, softmax=self.softmax, impl=self._impl, out=attended)
            if self.scales.v != 1:
                attended *= self.scales.v
            if steps.tokens is not None:
                out[places] = attended
        return index

    def _prefill(
        self,
        methods: Methods,
        method: PrefillMethod,
        prompt: Prompt,
        queries: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
    ) -> None:
        """Attention of a prompt or a chunk."""
        queries = _with_earlier(methods.queries, method.observes, prompt, queries)
        earlier, done = len(queries) - len(out), 0  # earlier queries only help to select
        for part, whole in select_stretches(method, queries, key, value, length=prompt.length, impl=self._impl):
            done += len(part)
            count = min(len(part), done - earlier)
            if count <= 0:
                continue
            index = whole if count == len(part) else whole.tail(count)
            seen = slice(index.n_k)
            attended = attend(
                part[len(part) - count :], key[seen], value[seen], index, softmax=self.softmax, impl=self._impl
            )
            out[done - earlier - count : done - earlier] = attended if self.scales.v == 1 else attended * self.scales.v
            self._counter.prompt(prompt.request, self._layer.index, index)

    def _scaled(self, q: Tensor, dtype: torch.dtype) -> Tensor:
        """Queries scaled so that scores need ``head_size ** -0.5`` alone, which methods and kernels apply.

        The scale of keys in 8 bits goes in as well: all that methods do with keys is the same at any scale.
        """
        factor = self._scale * q.shape[2] ** 0.5 * self.scales.k
        if q.dtype == EIGHT_BITS:
            factor, q = factor * self.scales.q, q.to(dtype)
        return q if abs(factor - 1) < 1e-6 else q * factor


def _with_earlier(before: dict[str, Tensor], observed: int, prompt: Prompt, queries: Tensor) -> Tensor:
    """The queries of a chunk, preceded by those of earlier chunks where the method observes more."""
    earlier = before.pop(prompt.request, None)
    if prompt.start > 0 and earlier is not None and len(queries) < observed:
        queries = torch.cat([earlier[len(queries) - observed :], queries])
    if observed and not prompt.complete:
        before[prompt.request] = queries[-observed:].clone()
    return queries


def _sequence(
    plan: Plan, prompt: Prompt, new: Tensor | None, cached: Tensor, dtype: torch.dtype, unseen: range
) -> Tensor:
    """Keys, or values, of a prompt up to where a chunk ends: ``[end, kv_heads, head_size]``.

    Those of the step for the first chunk, gathered from the cache for later ones; always from one in 8 bits, as what is
    decoded sees them, and from that of another layer. Blocks of positions that are unseen may be others' by now: vLLM's
    empty block 0 takes their place.
    """
    if prompt.start == 0 and cached.dtype != EIGHT_BITS and new is not None:
        return new[prompt.tokens]
    blocks = plan.table[prompt.row, : ceil_div(prompt.end, cached.shape[1])].to(torch.int64, copy=True)
    first, end = whole_blocks(unseen, cached.shape[1])
    blocks[first:end] = 0
    return cached[blocks].flatten(0, 1)[: prompt.end].to(dtype)
