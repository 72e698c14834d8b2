"""Kascade: tokens that anchor layers, chosen for the model, select for those after them (Deshmukh et al. 2025)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from sparse_tasks.attention.method import METHODS, Layer
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.attention.methods.handing import HandingMethod
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.calibration import Calibration
    from sparse_tasks.attention.index import PageIndex

_SAMPLED: Final = 64  # queries of a prompt that are measured
_SHARE: Final = 10  # one in so many keys is selected where layers are held against each other


@dataclass(frozen=True, kw_only=True)
class Kascade(CalibratedMethod, HandingMethod):
    """Anchor layers select by the true attention; in other layers each KV head reads the tokens of a head of the last.

    Which layers are anchors, and which of its heads each head reads, follows from what was measured of the model: how
    much of a head's attention the tokens hold that heads of earlier layers would select. Layers are chosen so that the
    best heads of the last anchor hold most, added up over all layers.
    """

    anchors: int = parameter(5, "layers that select, the first among them", 1)

    name: ClassVar[str] = "kascade"
    place: ClassVar[int] = 7
    summary: ClassVar[str] = "tokens that layers chosen for the model select for the others"
    importance: ClassVar[str] = "true attention in calibrated layers, handed on from head to head"
    source: ClassVar[str] = "Deshmukh et al., 2025, arXiv:2512.16391"
    version: ClassVar[int] = 1
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

    def taken(self, handed: PageIndex, cache: PagedCache) -> PageIndex:
        measured = self.of_layer(cache.layer, cache.kv_heads, cache.keys.device)
        if measured is None:
            return handed
        heads = measured["heads"]
        return replace(handed, pages=handed.pages[:, heads], counts=handed.counts[:, heads])

    def measure(self, seen: Tensor | None, q: Tensor, k: Tensor, handed: list[Tensor]) -> Tensor:
        """fp32 ``[kv_heads, layers so far, kv_heads]``: what heads hold of each other's attention, itself included."""
        import torch

        from sparse_tasks.attention.ops.anchors import held_by, sampled_mass

        mass = sampled_mass(q, k, _SAMPLED, self.softmax)
        handed.append(mass.topk(max(1, len(k) // _SHARE), dim=2).indices)
        held = torch.stack([held_by(mass, tokens) for tokens in handed], 1)
        return held if seen is None else seen + held

    def tensors(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of each layer and KV head what the heads of each layer up to it hold of its attention; 0 after it."""
        import torch

        similarity = torch.zeros(len(sums), *sums[-1].shape)
        for layer, held in enumerate(sums):
            similarity[layer, :, : layer + 1] = held / held[0, -1, 0]  # which is 1 for each prompt
        return {"similarity": similarity}


@functools.lru_cache(maxsize=16)
def _anchored(measured: Calibration, anchors: int) -> tuple[frozenset[int], Calibration]:
    """Anchors, and as a calibration the head of the last anchor that each KV head reads, ``[layers, kv_heads]``."""
    import torch

    from sparse_tasks.attention.ops.anchors import best_anchors

    similarity = measured.tensors["similarity"]
    best = similarity.max(3)  # over the heads of the earlier layer
    chosen = best_anchors(best.values.mean(1), anchors)
    of_each = torch.tensor([max(anchor for anchor in chosen if anchor <= layer) for layer in range(len(similarity))])
    heads = best.indices.gather(2, of_each[:, None, None].expand(-1, best.indices.shape[1], 1))[..., 0]
    return frozenset(chosen), replace(measured, tensors={"heads": heads}, _on={})


METHODS.register("kascade", Kascade)
