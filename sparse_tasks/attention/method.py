"""Base classes of the methods: frozen dataclasses that map queries and keys to an index.

A method takes explicit parameters, or a target ``sparsity`` from which it derives them. If the count of interactions
depends only on the length (``exact``), ``at(length)`` solves for the parameters, and tiles may exceed the target. If it
depends on the content, the method adapts in every call, including what tiles add. Results report the measured density.

Classes can be imported and listed without torch; methods import torch and kernels only to compute.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias, TypeVar, cast

from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import Parametric, parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.registry import Registry, import_modules
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import Kept, KeptBatch, PageIndex, Selected
    from sparse_tasks.attention.rotary import Rotary

Span: TypeAlias = tuple[float, float]
"""The least and the most of something."""


class Phase(StrEnum):
    """When a method acts."""

    PREFILL = "prefill"
    DECODE = "decode"
    EVICT = "evict"


@dataclass(frozen=True)
class Layer:
    """A layer's number, from 0, and the number of layers.

    Where devices share its heads (tensor parallelism), also the device's number, from 0, and the number of devices.
    Each numbers its own heads from 0, so what depends on a head's number in the model adds the heads of lower ranks.
    """

    index: int
    count: int
    rank: int = 0
    ranks: int = 1


ONLY: Final = Layer(0, 1)

M = TypeVar("M", bound="Method")


@dataclass(frozen=True)
class Method(Parametric, ABC):
    """A training-free sparse attention method.

    Class attributes (the paper's four axes, and the source):
        name: Registered name.
        summary: One line.
        phase: When it acts.
        unit: Unit of selection: blocks, verticals and slashes, pages, tokens.
        importance: Estimate of importance.
        budget: Setting and sharing of the budget.
        cache: Fate of the KV cache.
        source: Authors, year, arXiv number.
        exact: Whether the count that meets ``sparsity`` follows from the length alone.
        control: Whether it is a baseline or an oracle to compare others with; boards do not rank controls.
        any_softmax: Whether its selection is valid for models with sinks or capped scores: it uses no scores, or only
            their order, or applies ``softmax`` to them. Other methods are refused for such models.
        reads_positions: Whether it needs ``rotary``, the rotary positions of queries and keys. Models for which they
            are unknown are refused.
    """

    summary: ClassVar[str]
    phase: ClassVar[Phase]
    unit: ClassVar[str]
    importance: ClassVar[str]
    budget: ClassVar[str]
    cache: ClassVar[str]
    source: ClassVar[str]
    exact: ClassVar[bool]
    place: ClassVar[int]
    """Place in lists among the methods of its phase that come with this package."""
    control: ClassVar[bool] = False
    any_softmax: ClassVar[bool] = False
    softmax: ClassVar[Softmax] = PLAIN
    """The softmax of the layer, set by ``under``."""
    reads_positions: ClassVar[bool] = False
    rotary: ClassVar[Rotary | None] = None
    """The model's, set by ``placed``; None if positions turn nothing."""
    layer: ClassVar[Layer] = ONLY
    """The layer that it selects for, set by ``in_layer``."""
    handed: ClassVar[dict[object, Any] | None] = None
    """What layers leave to later ones for the same queries of a prompt, if ``in_layer`` set it."""
    budgets: ClassVar[tuple[str, ...]] = ()
    """The parameters that ``sparsity`` sets; giving both is an error."""

    sparsity: float | None = parameter(
        None, "share of query-key interactions to leave out, instead of explicit budgets", 0.0, 1.0, kind=float
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
                    f"{self.name}.{name}", getattr(self, name), "is also set by sparsity; give only one of them"
                )

    def at(self, length: int) -> Self:
        """The method with explicit parameters for a sequence of ``length`` tokens; itself if it already has them.

        Methods that adapt to the content return themselves.
        """
        if self.sparsity is None or not self.exact:
            return self
        return cast("Self", self._here(_solved(self, length)))

    def under(self, softmax: Softmax) -> Self:
        """The method for a layer with such a softmax.

        Raises:
            UsageError: Its selection is not valid there.
        """
        if softmax is self.softmax or (softmax.plain and self.softmax.plain):
            return self
        self.check_softmax(softmax.what)
        return self._bound(softmax=softmax)

    def in_layer(self, layer: Layer, handed: dict[object, Any] | None = None) -> Self:
        """The method for a layer. In prefill only this sets the layer; other calls also pass it.

        Args:
            layer: Layer number and number of layers.
            handed: Shared by all layers that read the same prompt or chunk; None: layers are independent.
        """
        return self._bound(layer=layer, handed=handed)

    def placed(self, rotary: Rotary) -> Self:
        """The method for a model with these rotary positions."""
        return self._bound(rotary=rotary)

    def in_model(self, text: Any) -> Self:
        """The method in a model; itself if it needs nothing of it.

        Args:
            text: ``PretrainedConfig`` of the text model.

        Raises:
            UsageError: It needs something unknown of the model.
        """
        if not self.reads_positions:
            return self
        from sparse_tasks.attention.rotary import Rotary

        return self.placed(Rotary.of_config(text))

    def _bound(self, **attributes: object) -> Self:
        """The method with context from where it runs, which is not a parameter."""
        bound = copy.copy(self)
        bound.__dict__.update(attributes)
        return bound

    def _here(self, method: M) -> M:
        """Another method with this one's context."""
        own = {field.name for field in fields(self)}
        return method._bound(**{name: value for name, value in vars(self).items() if name not in own})

    def check_softmax(self, what: str) -> None:
        """Refuse a model with additions to its softmax, given in words; none for plain softmax.

        Raises:
            UsageError: Its selection is not valid there.
        """
        if what and not self.any_softmax:
            remedy = f"does not go with a model that has {what}: it estimates another softmax; choose another method"
            raise UsageError("attention", self.name, remedy)

    def solve(self, length: int, density: float) -> Mapping[str, float]:
        """The budgets whose count is nearest to ``density`` at a length. Overridden by exact methods."""
        raise NotImplementedError

    def index_flops(self, shape: Shape, length: float) -> float:
        """FLOPs of one layer's selection over a whole prompt; NaN if unknown.

        Args:
            shape: Sizes of the model.
            length: Tokens of the prompt, above 0.
        """
        return 0.0 if self.phase is Phase.DECODE else math.nan

    def index_reads(self, shape: Shape, length: float) -> float:
        """Elements that a layer reads to select in a decoding step over ``length`` cached tokens; NaN if unknown."""
        return math.nan if self.phase is Phase.DECODE else 0.0

    def read_span(self, prompt: int, cached: int) -> Span:
        """Minimum and maximum positions that a step reads, averaged over heads and layers.

        Wide if the count depends on the content. Other packages' methods need not override it.

        Args:
            prompt: Tokens of the prompt.
            cached: Tokens in the cache at the step, including its own.
        """
        return 0.0, float(cached)

    def unseen(self, prompt: int, position: int) -> range:
        """Positions that no query at ``position`` or later sees, in any layer or head, whatever the content.

        Overridden by methods that choose by position alone; what is unseen at one position stays unseen later.

        Args:
            prompt: Tokens of the prompt.
            position: In the prompt for a prefill method, after it for others.
        """
        return range(0)

    @property
    def unshared(self) -> str | None:
        """Reason why keys of one prompt cannot be reused for another with the same prefix; None if they can."""
        return None

    @property
    def shared_in_sessions(self) -> bool:
        """Whether requests that continue one context can share its keys and what the first of them selected there."""
        return self.unshared is None

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods it is composed of; itself if it is a single one."""
        return (self,)

    @property
    @abstractmethod
    def oracle(self) -> tuple[str, JsonObject]:
        """Name and parameters, without ``sparsity``, of the oracle for the same units of selection."""


@functools.lru_cache(maxsize=1024)
def _solved(method: Method, length: int) -> Method:
    """Cached result of ``at``, which every layer of a prompt needs."""
    budgets: Mapping[str, Any] = method.solve(length, 1 - (method.sparsity or 0.0))
    return replace(method, sparsity=None, **budgets)


class PrefillMethod(Method):
    """A method that selects the keys that the queries of a prompt see."""

    phase = Phase.PREFILL

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_prefill", {}

    @property
    def unshared(self) -> str | None:
        return "what the queries of a prompt see depends on all of it"

    @property
    def observes(self) -> int:
        """Number of last queries that it needs, including those of earlier chunks if a chunk has fewer."""
        return 0

    @property
    def queries_at_once(self) -> int | None:
        """Maximum queries per call of ``select``, which bounds the index; None for any number."""
        return None

    def density_span(self, length: int) -> Span:
        """Minimum and maximum density over a prompt of ``length`` tokens.

        Wide if the count depends on the content, or on an engine's chunks. Other packages' methods need not override
        it.
        """
        return 0.0, 1.0

    def stretches(self, n_q: int, n_k: int, length: int) -> list[int]:
        """Numbers of queries in consecutive calls of ``select``.

        Args:
            n_q: Queries: the last of ``n_k`` positions, at least 1.
            n_k: Keys.
            length: Tokens of the whole prompt.

        Returns:
            Numbers of at least 1 whose sum is ``n_q``.
        """
        at_once = self.queries_at_once or n_q
        return [min(at_once, n_q - start) for start in range(0, n_q, at_once)]

    def skip_threshold(self, n_k: int, length: int) -> float | None:
        """The threshold of a ``SkipIndex`` equivalent to ``select``, for kernels that take one; or None.

        Args:
            n_k: Keys.
            length: Tokens of the whole prompt.
        """
        return None

    @abstractmethod
    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> Selected | None:
        """The index of the keys that each query sees.

        Args:
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
            k: ``[n_k, kv_heads, head_size]``.
            length: Tokens of the whole prompt, for which the budget is solved; ``n_k`` if None. More than ``n_k`` for a
                prompt in chunks.
            impl: "auto", "triton" or "torch".

        Returns:
            The index; None if the input is so short that everything is seen.
        """


@dataclass(frozen=True, kw_only=True)
class Correction(PrefillMethod):
    """A prefill method that corrects another one, joined to it by a plus sign: ``vertical_slash+delta``.

    What it needs, and whether the count is exact, depends on the other method. ``sparsity`` is that of both together.
    """

    of: PrefillMethod | None = None
    """The other one; None is that which it corrects where it stands alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of is not None:
            for name in ("sparsity", "exact", "any_softmax", "reads_positions"):
                object.__setattr__(self, name, getattr(self.of, name))

    @property
    def parts(self) -> tuple[Method, ...]:
        return (self,) if self.of is None else (self.of, replace(self, of=None))

    def in_model(self, text: Any) -> Self:
        here = super().in_model(text)
        return here if self.of is None else here._bound(of=self.of.in_model(text))


class DecodeMethod(Method):
    """A method that selects from a complete cache what the next token's query sees."""

    phase = Phase.DECODE
    recordable: ClassVar[bool] = False
    """Whether ``select`` waits for nothing and follows from shapes alone, so that a CUDA graph can hold it."""

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_decode", {}

    def new_state(self, cache: PagedCache) -> Tensor | None:
        """An empty state for all blocks of a cache, independent of the budget; None if there is no state.

        A larger cache has a state that is at least as large in each dimension; of one block, it begins with the
        smaller one's.
        """
        return None

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        """Update the state in place for newly written keys.

        Args:
            state: As ``new_state`` made it.
            keys: ``[tokens, kv_heads, head_size]``.
            slots: int64 ``[tokens]``: ``block * block_size + offset``; -1 is padding.
            block_size: Positions in a block of the cache.
            impl: "auto", "triton" or "torch".
        """

    @abstractmethod
    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        """The index of the pages that each sequence's query sees.

        Args:
            q: ``[batch, query_heads, head_size]``.
            cache: The cache, including the query's own token; each sequence's budget depends on its length.
            state: As made by ``new_state`` and updated by ``update``.
            impl: "auto", "triton" or "torch".
        """


class EvictMethod(Method):
    """A method that selects, per KV head, the tokens to keep after the prompt, and possibly at each step."""

    phase = Phase.EVICT
    each_step: ClassVar[bool] = False
    """Whether it evicts at every step too, for which it needs that step's attention weights."""
    reads_queries: ClassVar[bool] = True
    """Whether queries decide what stays of a prompt."""
    reads_values: ClassVar[bool] = False
    """Whether values decide what stays of a prompt, too."""

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_evict", {"grows": not self.each_step}

    @property
    def unshared(self) -> str | None:
        if not self.reads_queries:
            return None
        return "what stays of a prompt follows from queries that would not be computed again"

    @property
    def shared_in_sessions(self) -> bool:
        # If each step evicts, what is kept would also depend on steps after the context.
        return not self.each_step

    @property
    def observes(self) -> int | None:
        """Number of last queries of a prompt that ``keep`` needs, at least 1; None for all of them."""
        return None if self.reads_queries else 1

    @abstractmethod
    def keep(
        self,
        q: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        """The tokens of a prompt to keep.

        Args:
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k``; ``observes`` gives how many it needs.
            k: ``[n_k, kv_heads, head_size]``.
            v: ``[n_k, kv_heads, value_size]``, if the method reads values; None: assumed equal.
            length: Tokens for which the budget is solved; ``n_k`` if None.
            layer: Layer number and number of layers.
            impl: "auto", "triton" or "torch".
        """

    def observe(self, seen: Tensor | None, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """The state carried between the chunks of a prompt.

        Args:
            seen: The result for the previous chunk; None for the first.
            q: ``[n_q, query_heads, head_size]``: the chunk's, the last ``n_q`` of ``n_k``.
            k: ``[n_k, kv_heads, head_size]``: all keys of the prompt so far.
            impl: "auto", "triton" or "torch".

        Returns:
            Usually the last queries so far, copied: ``[n, query_heads, head_size]``.
        """
        import torch

        last = q if seen is None else torch.cat([seen, q])
        return (last if self.observes is None else last[-self.observes :]).clone()

    def settle(
        self,
        seen: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        """As ``keep``, for a prompt in chunks: ``seen`` is the result of ``observe`` for the last one."""
        return self.keep(seen, k, v=v, length=length, layer=layer, impl=impl)

    def advance(self, kept: Kept, position: int, weights: Tensor | None = None) -> Kept:
        """The tokens to keep after a decoding step: the new one is added, and methods with ``each_step`` drop others.

        Args:
            kept: What the step could see, without its own token.
            position: The position of the step's own token.
            weights: fp32 ``[kv_heads, width + 1]``: the result of ``weigh`` for the kept tokens in order and then the
                token itself. Needed if ``each_step`` is True.
        """
        return kept.append(position)

    def widen(self, kept: Kept) -> Kept:
        """The kept tokens, with room for a prompt token read after the eviction, kept in addition to the budget.

        It matters for methods with ``each_step``, where that token would displace another one.
        """
        return kept if kept.capacity is None else replace(kept, capacity=kept.capacity + 1)

    def weigh(
        self,
        q: Tensor,
        cache: PagedCache,
        positions: Tensor,
        counts: Tensor,
        *,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Tensor:
        """The attention weights of a step, summed over the group, or a method's estimates of them.

        Args:
            q: ``[batch, query_heads, head_size]``.
            cache: The cache.
            positions: int32 ``[batch, kv_heads, width]``: the kept tokens, then the step's own; undefined past the
                count.
            counts: int32 ``[batch, kv_heads]``.
            layer: Layer number and number of layers.
            impl: "auto", "triton" or "torch".

        Returns:
            fp32 ``[batch, kv_heads, width]``; 0 past the count.
        """
        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.step_weights import step_weights

        listed = PageIndex(positions, counts, 1, cache.lengths)
        return step_weights(q, cache, listed, softmax=self.softmax, impl=impl).clamp_min(0.0)

    def visible(self, seen: Kept, weights: Tensor | None = None, *, impl: str = "auto") -> Kept:
        """The part of the kept tokens and its own that a step sees: all, unless a method selects among them.

        Args:
            seen: The kept tokens, with the step's own.
            weights: As for ``advance``.
            impl: "auto", "triton" or "torch".
        """
        return seen


class StepMethod(EvictMethod):
    """A method that evicts at each step, for all sequences of a batch at once, with as many launches as for one.

    Methods that take one sequence at a time derive from ``EvictMethod`` and set ``each_step``. Subclasses that override
    ``advance``, ``visible`` or ``widen`` also take one at a time.
    """

    each_step: ClassVar[bool] = True

    @abstractmethod
    def advance_all(self, seen: KeptBatch, weights: Tensor) -> KeptBatch:
        """The tokens to keep after a decoding step of all sequences.

        Args:
            seen: What each could see, including its own token, the last.
            weights: fp32 ``[batch, kv_heads, width]``: the result of ``weigh`` for the tokens in ``seen``.
        """

    def visible_all(self, seen: KeptBatch, weights: Tensor, *, impl: str = "auto") -> KeptBatch:
        """The part of the kept tokens and its own that a step sees. Arguments as for ``advance_all``."""
        return seen

    @property
    def widens(self) -> bool:
        """Whether a prompt token read after the eviction needs room in addition to the budget."""
        return True

    @property
    def together(self) -> bool:
        """Whether all sequences are taken at once: no subclass overrides the functions for one."""
        names = ("advance", "visible", "widen")
        return all(getattr(type(self), name) is getattr(StepMethod, name) for name in names)

    def advance(self, kept: Kept, position: int, weights: Tensor | None = None) -> Kept:
        from sparse_tasks.attention.index import KeptBatch
        from sparse_tasks.attention.ops.eviction import check_step

        seen = kept.append(position)
        weights = check_step(self.name, seen, weights)
        return self.advance_all(KeptBatch.of(seen), weights[None]).only(seen.length)

    def visible(self, seen: Kept, weights: Tensor | None = None, *, impl: str = "auto") -> Kept:
        from sparse_tasks.attention.index import KeptBatch
        from sparse_tasks.attention.ops.eviction import check_step

        weights = check_step(self.name, seen, weights)
        return self.visible_all(KeptBatch.of(seen), weights[None], impl=impl).only(seen.length)

    def widen(self, kept: Kept) -> Kept:
        return super().widen(kept) if self.widens else kept


class SharedMethod(EvictMethod):
    """A method in which all heads of all layers keep the same tokens of a prompt, so the others can be freed.

    Each layer ranks the tokens, and after the last one ``agree`` chooses for all: until then no later tokens can be
    read. ``keep`` chooses for a single layer.
    """

    @property
    def shared_in_sessions(self) -> bool:
        return False  # tokens after a context would be read before all layers have seen the context

    @abstractmethod
    def rank(self, q: Tensor, k: Tensor, *, v: Tensor | None = None, impl: str = "auto") -> Tensor:
        """A layer's ranking of a prompt, specific to the method. Arguments as for ``keep``; q as for ``observe``."""

    @abstractmethod
    def agree(self, ranks: Sequence[Tensor], n_k: int, *, length: int | None = None, impl: str = "auto") -> Tensor:
        """The positions to keep in all layers.

        Args:
            ranks: The results of ``rank`` for each layer.
            n_k: Tokens of the prompt.
            length: Tokens by which the budget is solved; ``n_k`` if None.
            impl: "auto", "triton" or "torch".

        Returns:
            int32 ``[width]``, ascending.
        """

    def keep(
        self,
        q: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        from sparse_tasks.attention.index import Kept
        from sparse_tasks.attention.kernels.dispatch import check_sequence

        check_sequence(q, k)
        n_k, kv_heads, _ = k.shape
        stay = self.agree([self.rank(q, k, v=v, impl=impl)], n_k, length=length, impl=impl)
        return Kept.alike(stay, kv_heads, n_k)


class RepeatMethod(EvictMethod):
    """A method that lets the model repeat a prompt, or its context, before it evicts.

    Engines that support this use ``keep_all`` instead of ``keep``; others refuse the method. Repetitions are read after
    the prompt, one by one, each as if there were no others.
    """

    @abstractmethod
    def chunks(self, length: int, most: int) -> list[range]:
        """The chunks of positions of a prompt of ``length`` tokens to repeat, in order, each at most ``most`` long."""

    @abstractmethod
    def instruction(self, chunk: range) -> tuple[str, range]:
        """What precedes the repetition of a chunk: a text, then tokens of the prompt."""

    @abstractmethod
    def repeated(self, q: Tensor, k: Tensor, chunk: range) -> Tensor:
        """Scores of a chunk's tokens from its repetition: fp32 ``[kv_heads, len(chunk)]``.

        Args:
            q: ``[n_q, query_heads, head_size]``: queries of the repetition with its instruction; the last ``n_q`` of
                ``n_k``.
            k: ``[n_k, kv_heads, head_size]``: keys of the prompt and of the repetition.
            chunk: Positions of the chunk.
        """

    @abstractmethod
    def keep_all(self, scores: Sequence[Tensor], *, impl: str = "auto") -> list[Kept]:
        """The tokens to keep in each layer.

        Args:
            scores: For each layer, over the whole prompt: fp32 ``[kv_heads, n_k]``.
            impl: "auto", "triton" or "torch".
        """


METHODS: Registry[type[Method]] = Registry(
    "attention",
    lambda: import_modules("sparse_tasks.attention.methods"),
    "sparse_tasks.attention",
    lambda method: (method.control, list(Phase).index(method.phase), method.place),
)
"""All methods by phase and ``place``, and then the controls; other packages add theirs through the entry point group
``sparse_tasks.attention``."""
