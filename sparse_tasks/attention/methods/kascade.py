"""Kascade: what anchor layers, chosen for the model, select for those after them (Deshmukh et al. 2025, section 3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from sparse_tasks.attention.interactions import (
    BLOCK,
    causal_count,
    ceil_div,
    nearest,
    ranking_flops,
    window_density,
    window_flops,
)
from sparse_tasks.attention.method import METHODS, Layer, PrefillMethod, Span
from sparse_tasks.attention.methods.adaptive import QUERIES
from sparse_tasks.attention.methods.blocks import check_block
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.attention.methods.handing import HandingMethod
from sparse_tasks.attention.methods.paged import TOKEN_BUDGET
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.calibration import Calibration
    from sparse_tasks.attention.index import BlockIndex, PageIndex

_SAMPLED: Final = 64  # measured queries per prompt
_SHARE: Final = 10  # of this many keys one is selected when layers are compared


@dataclass(frozen=True, kw_only=True)
class KascadeMethod(CalibratedMethod):
    """Anchor layers select by the true attention; other layers' KV heads read the selection of a head of the last one.

    Which layers are anchors, and which of their heads each head reads, follows from measurements of the model: the
    share of a head's attention that falls on the tokens selected by heads of earlier layers. Layers are chosen to
    maximise this share for the best heads of the last anchor, summed over all layers. They are the same in both phases.
    """

    anchors: int = parameter(5, "layers that select, the first among them", 1)

    importance: ClassVar[str] = "true attention in calibrated layers, handed on from head to head"
    source: ClassVar[str] = "Deshmukh et al., 2025, arXiv:2512.16391"
    any_softmax: ClassVar[bool] = True
    version: ClassVar[int] = 1
    family: ClassVar[str] = "kascade"
    instead: ClassVar[str] = "layers that select are spread evenly, and heads read what those of their number selected"
    chosen: ClassVar[frozenset[int]] = frozenset()
    """The anchors, where the method is in a model and has a calibration."""

    def in_model(self, text: Any) -> Self:
        here = super().in_model(text)
        if here.measured is None:
            return here
        chosen, heads = _anchored(here.measured, self.anchors)
        return here._bound(chosen=chosen, measured=heads)

    def selects(self, layer: Layer) -> bool:
        if self.measured is not None:
            return layer.index in self.chosen
        return layer.index in {place * layer.count // self.anchors for place in range(self.anchors)}

    def heads_of(self, layer: Layer, kv_heads: int, device: Any) -> Tensor | None:
        """int64 ``[kv_heads]``: the head of the last anchor that each head reads; None: the one with its number."""
        measured = self.of_layer(layer, kv_heads, device)
        return None if measured is None else measured["heads"]

    def measure(self, seen: Tensor | None, q: Tensor, k: Tensor, handed: list[Tensor]) -> Tensor:
        """fp32 ``[kv_heads, layers so far, kv_heads]``: shares that heads hold of each other's attention.

        Raises:
            UsageError: The layers before it have another number of KV heads.
        """
        import torch

        from sparse_tasks.attention.ops.anchors import held_by, sampled_mass

        if handed and len(handed[0]) != k.shape[1]:
            remedy = (
                f"does not go with a model whose layers differ in KV heads ({len(handed[0])} and {k.shape[1]}), for "
            )
            raise UsageError("method", "kascade", f"{remedy}each reads what one of another layer selected")
        mass = sampled_mass(q, k, _SAMPLED, self.softmax)
        handed.append(mass.topk(max(1, len(k) // _SHARE), dim=2).indices)
        held = torch.stack([held_by(mass, tokens) for tokens in handed], 1)
        return held if seen is None else seen + held

    def tensors(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """For each layer and KV head the share of its attention that heads of each layer up to it hold; else 0."""
        import torch

        similarity = torch.zeros(len(sums), *sums[-1].shape)
        for layer, held in enumerate(sums):
            similarity[layer, :, : layer + 1] = held / held[0, -1, 0]  # which is 1 per prompt
        return {"similarity": similarity}


@dataclass(frozen=True, kw_only=True)
class KascadePrefill(KascadeMethod, PrefillMethod):
    """The queries of a prompt: tiles of 128 read the blocks of keys that hold most of their attention, and the group's.

    All layers, including selecting ones, read the same number. A tile's own positions are always read, in addition to
    the budget.
    """

    token_budget: int | None = parameter(
        None, "tokens before it that a tile reads, in whole blocks; 1024 if neither this nor sparsity is given", 1,
        kind=int,
    )  # fmt: skip
    block: int = parameter(16, "keys in a block: 16, 32, 64 or 128", 16, BLOCK)

    name: ClassVar[str] = "kascade_prefill"
    place: ClassVar[int] = 12
    summary: ClassVar[str] = "key blocks that layers chosen for the model select for the others"
    unit: ClassVar[str] = "blocks"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "kept"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("token_budget",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(self.name, self.block)

    @property
    def queries_at_once(self) -> int:
        return QUERIES

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_prefill", {"block": self.block}

    def density_span(self, length: int) -> Span:
        if self.sparsity is None:
            tokens = max(self.block, self.token_budget or TOKEN_BUDGET)
            return window_density(length, max(1, tokens - self.block)), window_density(length, tokens + BLOCK)
        density, half = 1 - self.sparsity, self.block / length
        return density - half, max(density + half, window_density(length, self.block + BLOCK))

    def index_flops(self, shape: Shape, length: float) -> float:
        """Attention of all queries and a ranking, in the layers that select, averaged over all."""
        selecting = sum(self.selects(Layer(index, shape.layers)) for index in range(shape.layers))
        ranking = shape.kv_heads * length / BLOCK * ranking_flops(length / self.block)
        return (window_flops(shape, length, length / 2) + ranking) * selecting / shape.layers

    def solve(self, length: int, density: float) -> dict[str, int]:
        """The whole blocks whose exact count is nearest to the density."""
        target, most = density * causal_count(length, length), ceil_div(length, self.block)
        return {"token_budget": nearest(lambda number: self._count(length, number), target, 1, most) * self.block}

    def _count(self, length: int, number: int) -> int:
        """Interactions of a prompt whose tiles read this many blocks before them, or all."""
        tiles = (range(first, min(first + BLOCK, length)) for first in range(0, length, BLOCK))
        return sum(causal_count(len(t), len(t)) + len(t) * min(number * self.block, t.start) for t in tiles)

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        from sparse_tasks.attention.kernels.dispatch import check_sequence
        from sparse_tasks.attention.ops.anchors import blocks_of_groups

        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        budget = self.at(n_k if length is None else length).token_budget or TOKEN_BUDGET
        number = max(1, budget // self.block)
        if number * self.block >= (n_k - 1) // BLOCK * BLOCK:
            return None
        what = self, n_q, n_k
        handed: BlockIndex | None = None if self.handed is None else self.handed.get(what)
        if handed is not None and not self.selects(self.layer):
            heads = self.heads_of(self.layer, k.shape[1], k.device)
            if heads is None:
                return handed
            return replace(handed, blocks=handed.blocks[heads], counts=handed.counts[heads])
        index = blocks_of_groups(q, k, number, tile=BLOCK, block=self.block, softmax=self.softmax, impl=impl)
        if self.handed is not None:
            self.handed[what] = index
        return index


@dataclass(frozen=True, kw_only=True)
class KascadeDecode(KascadeMethod, HandingMethod):
    """The steps after a prompt: tokens, by the attention of each group."""

    name: ClassVar[str] = "kascade_decode"
    place: ClassVar[int] = 7
    summary: ClassVar[str] = "tokens that layers chosen for the model select for the others"

    def taken(self, handed: PageIndex, cache: PagedCache) -> PageIndex:
        heads = self.heads_of(cache.layer, cache.kv_heads, cache.keys.device)
        return (
            handed if heads is None else replace(handed, pages=handed.pages[:, heads], counts=handed.counts[:, heads])
        )


@functools.lru_cache(maxsize=16)
def _anchored(measured: Calibration, anchors: int) -> tuple[frozenset[int], Calibration]:
    """The anchors, and as a calibration the head of the last anchor that each KV head reads, ``[layers, kv_heads]``."""
    import torch

    from sparse_tasks.attention.ops.anchors import best_anchors

    similarity = measured.tensors["similarity"]
    best = similarity.max(3)  # over the heads of the earlier layer
    chosen = best_anchors(best.values.mean(1), anchors)
    of_each = torch.tensor([max(anchor for anchor in chosen if anchor <= layer) for layer in range(len(similarity))])
    heads = best.indices.gather(2, of_each[:, None, None].expand(-1, best.indices.shape[1], 1))[..., 0]
    return frozenset(chosen), replace(measured, tensors={"heads": heads}, _on={})


METHODS.register("kascade_prefill", KascadePrefill)
METHODS.register("kascade_decode", KascadeDecode)
