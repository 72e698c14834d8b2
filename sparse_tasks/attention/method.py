"""What a method is: a frozen dataclass that says what it is and maps queries and keys to an index.

A method takes explicit parameters, or ``sparsity``: then it finds its own. Where the count of interactions is a matter
of the length alone (``exact``), ``at(length)`` solves for the parameters, and tiles may add to what was asked; where it
depends on content, it adapts at every call, with what tiles add counted in. The measured density is what counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from typing import ClassVar, Final, Self

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import Kept, PageIndex, PrefillIndex
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import Parametric, parameter
from sparse_tasks.core.registry import Registry

__all__ = [
    "DENSE",
    "METHODS",
    "ONLY",
    "Attention",
    "DecodeMethod",
    "EvictMethod",
    "Layer",
    "Method",
    "Phase",
    "PrefillMethod",
    "find_attention",
]

DENSE: Final = "dense"
"""The name of attention without a method."""


class Phase(StrEnum):
    """When a method acts."""

    PREFILL = "prefill"
    DECODE = "decode"
    EVICT = "evict"


@dataclass(frozen=True)
class Layer:
    """Which layer of how many."""

    index: int
    count: int


ONLY: Final = Layer(0, 1)


@dataclass(frozen=True)
class Method(Parametric, ABC):
    """A training-free sparse attention method.

    Class attributes (the paper's four axes and where it comes from):
        name: Registered name.
        summary: One line.
        phase: When it acts.
        unit: What it selects: blocks, verticals and slashes, pages, tokens.
        importance: How it estimates what matters.
        budget: How the budget is set and shared.
        cache: What becomes of the KV cache.
        source: Authors, year, arXiv number.
        exact: Whether ``sparsity`` is met by the count at a length, whatever the content.
    """

    summary: ClassVar[str]
    phase: ClassVar[Phase]
    unit: ClassVar[str]
    importance: ClassVar[str]
    budget: ClassVar[str]
    cache: ClassVar[str]
    source: ClassVar[str]
    exact: ClassVar[bool]
    budgets: ClassVar[tuple[str, ...]] = ()
    """The parameters that ``sparsity`` sets; to give both is an error."""

    sparsity: float | None = parameter(
        None, "share of query-key interactions not to compute, instead of explicit budgets", 0.0, 1.0, kind=float
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is None:
            return
        if self.sparsity >= 1:
            raise UsageError(f"{self.name}.sparsity", self.sparsity, "has to be below 1: a query sees at least one key")
        for name in self.budgets:
            if getattr(self, name) is not None:
                raise UsageError(
                    f"{self.name}.{name}", getattr(self, name), "is what sparsity would set; give one of the two"
                )

    def at(self, length: int) -> Self:
        """This method with explicit parameters for a sequence of ``length`` tokens; itself where it has them already.

        Methods that adapt to content return themselves.
        """
        if self.sparsity is None or not self.exact:
            return self
        return replace(self, sparsity=None, **self.solve(length, 1 - self.sparsity))

    def solve(self, length: int, density: float) -> dict[str, int]:
        """The budgets whose count is nearest to ``density`` at a length. Exact methods override it."""
        raise NotImplementedError

    @property
    def unshared(self) -> str | None:
        """Why keys that were computed for another prompt cannot serve one that begins alike; None where they can."""
        return None


class PrefillMethod(Method):
    """Chooses what the queries of a prompt see."""

    phase = Phase.PREFILL

    @property
    def unshared(self) -> str | None:
        return "what the queries of a prompt see depends on all of it"

    @property
    def observes(self) -> int:
        """How many of the last queries it looks at, to which those of earlier chunks belong where a chunk has fewer."""
        return 0

    @property
    def queries_at_once(self) -> int | None:
        """How many queries may be selected for at once, so that the index stays small; None: any number."""
        return None

    def stretches(self, n_q: int, n_k: int, length: int) -> list[int]:
        """How many queries each call of ``select`` is for, where the queries are taken in turn from the first on.

        Args:
            n_q: Queries: the last of ``n_k`` positions, at least 1.
            n_k: Keys.
            length: Tokens of the whole prompt.

        Returns:
            Numbers of at least 1 whose sum is ``n_q``.
        """
        at_once = self.queries_at_once or n_q
        return [min(at_once, n_q - start) for start in range(0, n_q, at_once)]

    @abstractmethod
    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> PrefillIndex | None:
        """What each query sees.

        Args:
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
            k: ``[n_k, kv_heads, head_size]``.
            length: Tokens of the whole prompt, by which the budget is solved; ``n_k`` if None. More than ``n_k`` where
                a prompt comes in chunks.
            impl: "auto", "triton" or "torch".

        Returns:
            The index; None where the input is so short that everything is seen.
        """


class DecodeMethod(Method):
    """Chooses what the next token's query sees of a cache that keeps everything."""

    phase = Phase.DECODE
    recordable: ClassVar[bool] = False
    """Whether ``select`` waits for nothing and follows from shapes alone, so that a CUDA graph can hold it."""

    def new_state(self, cache: PagedCache) -> Tensor | None:
        """What the method remembers of each physical page of a cache, empty; None if it remembers nothing."""
        return None

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        """Take notice of keys just written, in place.

        Args:
            state: As ``new_state`` made it.
            keys: ``[tokens, kv_heads, head_size]``.
            slots: int64 ``[tokens]``: ``block * block_size + offset``; -1 is padding.
            block_size: Positions in a block of the cache.
            impl: "auto", "triton" or "torch".
        """

    @abstractmethod
    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        """What each sequence's query sees.

        Args:
            q: ``[batch, query_heads, head_size]``.
            cache: The cache, with the query's own token in it; each sequence's budget follows its own length.
            state: As ``new_state`` made it and ``update`` kept it.
            impl: "auto", "triton" or "torch".
        """


class EvictMethod(Method):
    """Chooses, per KV head, which tokens of the cache stay visible after the prompt, and perhaps after every step."""

    phase = Phase.EVICT
    each_step: ClassVar[bool] = False
    """Whether it evicts at every step too, for which it needs that step's attention weights."""

    @property
    def unshared(self) -> str | None:
        return "what stays of a prompt follows from queries that would not be computed again"

    @property
    def observes(self) -> int | None:
        """How many of the last queries of a prompt ``keep`` needs; None: all of them."""
        return None

    @abstractmethod
    def keep(self, q: Tensor, k: Tensor, *, length: int | None = None, layer: Layer = ONLY, impl: str = "auto") -> Kept:
        """The tokens of a prompt that stay.

        Args:
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k``; a method says how many it needs.
            k: ``[n_k, kv_heads, head_size]``.
            length: Tokens by which the budget is solved; ``n_k`` if None.
            layer: Which layer of how many.
            impl: "auto", "triton" or "torch".
        """

    def observe(self, seen: Tensor | None, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """What has to be remembered of a prompt that comes in chunks, until it is whole.

        Args:
            seen: What this gave for the chunk before; None for the first.
            q: ``[n_q, query_heads, head_size]``: the chunk's, the last ``n_q`` of ``n_k``.
            k: ``[n_k, kv_heads, head_size]``: of the prompt so far.
            impl: "auto", "triton" or "torch".

        Returns:
            As a rule the last queries so far, copied: ``[n, query_heads, head_size]``.
        """
        last = q if seen is None else torch.cat([seen, q])
        return (last if self.observes is None else last[-self.observes :]).clone()

    def settle(
        self, seen: Tensor, k: Tensor, *, length: int | None = None, layer: Layer = ONLY, impl: str = "auto"
    ) -> Kept:
        """As ``keep``, of a prompt that came in chunks: ``seen`` is what ``observe`` gave for the last of them."""
        return self.keep(seen, k, length=length, layer=layer, impl=impl)

    def advance(self, kept: Kept, position: int, weights: Tensor | None = None) -> Kept:
        """What stays after a decoding step: the new token joins, and methods with ``each_step`` let others go.

        Args:
            kept: What the step could see before its own token.
            position: The position of the step's own token.
            weights: fp32 ``[kv_heads, width + 1]``: the step's attention weights, summed over the group, over the kept
                tokens in their order and then the token itself. Needed where ``each_step`` is True.
        """
        return kept.append(position)


@dataclass(frozen=True)
class Attention:
    """A method for the prompt and one for what follows; dense where there is none."""

    prefill: PrefillMethod | None = None
    decode: DecodeMethod | EvictMethod | None = None

    @property
    def name(self) -> str:
        """As the user writes it: ``vertical_slash+quest``."""
        return "+".join(m.name for m in self.methods) or DENSE

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those that there are."""
        return tuple(m for m in (self.prefill, self.decode) if m is not None)

    def settings(self) -> dict[str, dict[str, object]]:
        """The parameters of each method."""
        return {m.name: m.settings() for m in self.methods}


def find_attention(
    name: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
) -> Attention:
    """Methods by name, composed with a plus sign.

    Args:
        name: ``dense``, a method, or a method for prefill and one for decoding or eviction: ``vertical_slash+quest``.
        sparsity: For all of them, in [0, 1).
        arguments: ``METHOD.PARAMETER`` to a value or its text; the method may be left out where there is only one.

    Raises:
        UsageError: A method is unknown, two act in the same phase, or a parameter is none of theirs.
    """
    names = [] if name == DENSE else name.split("+")
    kinds = [METHODS.get(part) for part in names]
    settings: dict[str, dict[str, object]] = {part: {} for part in names}
    for path, value in (arguments or {}).items():
        owner, dot, parameter_name = path.rpartition(".")
        if not dot and len(names) == 1:
            owner = names[0]
        if owner not in settings:
            known = ", ".join(f"{part}.{parameter_name}" for part in names) or "none: dense attention takes none"
            raise UsageError("argument", path, f"is of no method in {name!r}; write {known}")
        settings[owner][parameter_name] = value
    if sparsity and not names:
        raise UsageError("sparsity", sparsity, f"goes with a method; {DENSE} attention leaves nothing out")
    if sparsity is not None:
        for values in settings.values():
            values.setdefault("sparsity", sparsity)
    prefill: PrefillMethod | None = None
    decode: DecodeMethod | EvictMethod | None = None
    for kind, part in zip(kinds, names, strict=True):
        method = kind.from_settings(settings[part])
        if isinstance(method, PrefillMethod) and prefill is None:
            prefill = method
        elif isinstance(method, DecodeMethod | EvictMethod) and decode is None:
            decode = method
        else:
            raise UsageError(
                "attention", name, "composes two methods of one phase; one for prefill and one for decode or evict go"
            )
    return Attention(prefill, decode)


def _import_all() -> None:
    import_module("sparse_tasks.attention.methods")


METHODS: Registry[type[Method]] = Registry("attention", _import_all, "sparse_tasks.attention")
"""All methods; other packages add theirs through the entry point group ``sparse_tasks.attention``."""
