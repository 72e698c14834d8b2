"""TriAttention: the tokens that a model's mean query will attend to at future distances (Mao et al. 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ranking_flops
from sparse_tasks.attention.method import METHODS, ONLY, Layer, StepMethod
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import Kept, KeptBatch


@dataclass(frozen=True, kw_only=True)
class TriAttention(CalibratedMethod, StepMethod, CapacityMethod):
    """A head's queries are similar before rotation, so their mean represents future queries.

    The mean is measured once, rotated to distances of 1, 2, 4 and so on, and averaged, to score each key. The norms of
    a key's pairs are added, weighted by how much longer the queries' pairs are than the mean's. Scores are standardised
    in each query head, and a KV head takes the maximum of its group. Each step evicts the token with the lowest score,
    once there are more than ``capacity``, unless it is recent.
    """

    reach: int = parameter(16, "distances are powers of 2, up to 2 to the power of this", 0, 30)
    recent: int = parameter(128, "last tokens that always stay, at most half of the capacity", 0)

    name: ClassVar[str] = "triattention"
    place: ClassVar[int] = 10
    summary: ClassVar[str] = "tokens by the model's mean query at future distances"
    importance: ClassVar[str] = "calibrated mean queries, rotated to future distances"
    cache: ClassVar[str] = "evicted after the prompt and at each step"
    source: ClassVar[str] = "Mao et al., 2026, arXiv:2604.04921"
    any_softmax: ClassVar[bool] = True
    reads_positions: ClassVar[bool] = True
    version: ClassVar[int] = 1
    instead: ClassVar[str] = "the last query of a prompt, and the query of each step, stand in for the mean"

    @property
    def observes(self) -> int:
        return 1

    @property
    def unshared(self) -> str | None:
        return super().unshared if self.calibration is None else None  # else only keys matter

    def index_flops(self, shape: Shape, length: float) -> float:
        """A product of each key with one query per head, norms, and a ranking."""
        return shape.query_heads * 4 * length * shape.head_size + shape.kv_heads * ranking_flops(length)

    def fixed(self, capacity: int) -> tuple[int, int]:
        return 0, min(self.recent, capacity // 2)

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        return self._of_prompt(q, k, ONLY)

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
        from sparse_tasks.attention.kernels.dispatch import check_sequence

        check_sequence(q, k)
        return self.kept(self._of_prompt(q, k, layer), length=length, layer=layer, impl=impl)

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
        import torch

        listed = torch.arange(positions.shape[2], device=q.device) < counts[..., None]
        positions = torch.where(listed, positions, 0)
        head = torch.arange(cache.kv_heads, device=q.device)[:, None]
        found = []
        for rows, some in cache.groups(positions[0].numel() * cache.head_size):
            block, offset, _ = some.locate(positions[rows])
            keys = cache.keys[block, offset, head]
            found.append(self._scores(q[rows], some.lengths - 1, keys, listed[rows], layer))
        return torch.cat(found)

    def advance_all(self, seen: KeptBatch, weights: Tensor) -> KeptBatch:
        from sparse_tasks.attention.ops.eviction import drop_lowest

        return drop_lowest(seen, weights, (seen.capacities // 2).clamp_max(self.recent))

    def measure(self, seen: Tensor | None, q: Tensor, k: Tensor, handed: list[Tensor]) -> Tensor:
        """fp32 ``[query_heads, head_size + pairs + 1]``: sums of queries, of the norms of their pairs, and of 1."""
        import torch

        positions = torch.arange(len(k) - len(q), len(k), device=q.device)
        queries = q.float() if self.rotary is None else self.rotary.turn(q, -positions)
        parts = queries, self._lengths(queries), torch.ones_like(queries[..., :1])
        sums = torch.cat(parts, 2).sum(0)
        return sums if seen is None else seen + sums

    def tensors(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean queries, and how much longer their pairs are, on average, than the mean's."""
        import torch

        of_all = torch.stack([*sums])
        means = of_all[..., :-1] / of_all[..., -1:]
        pairs = 0 if self.rotary is None else len(self.rotary.frequencies)
        centers, lengths = means.split([means.shape[-1] - pairs, pairs], dim=-1)
        return {"centers": centers, "spread": (lengths - self._lengths(centers)).clamp_min(0.0)}

    def _of_prompt(self, q: Tensor, k: Tensor, layer: Layer) -> Tensor:
        import torch

        keys = k.transpose(0, 1)[None]
        last = torch.full((1,), len(k) - 1, device=k.device)
        return self._scores(q[-1:], last, keys, torch.ones_like(keys[..., 0], dtype=torch.bool), layer)[0]

    def _scores(self, q: Tensor, last: Tensor, keys: Tensor, listed: Tensor, layer: Layer) -> Tensor:
        """Scores of some tokens of each sequence.

        Args:
            q: ``[batch, query_heads, head_size]``: each sequence's last query.
            last: ``[batch]``: its position.
            keys: ``[batch, kv_heads, width, head_size]``.
            listed: Bool ``[batch, kv_heads, width]``: which of them exist.
            layer: Layer number and number of layers.

        Returns:
            fp32 ``[batch, kv_heads, width]``; 0 where there is none.
        """
        import torch

        (batch, heads, size), kv_heads = q.shape, keys.shape[1]
        measured, keys = self.of_layer(layer, heads, q.device), keys.float()
        if measured is not None:
            query = measured["centers"].expand(batch, -1, -1)
        else:
            query = q.float() if self.rotary is None else self.rotary.turn(q, -last)
        if self.rotary is not None:
            distances = 2 ** torch.arange(self.reach + 1, device=q.device)
            query = self.rotary.average(query, last[:, None, None] + distances)
        scores = query.reshape(batch, kv_heads, -1, size) @ keys.mT
        if measured is not None:
            spread = measured["spread"].view(kv_heads, heads // kv_heads, -1)
            scores = scores + spread @ self._lengths(keys).mT
        there = listed[:, :, None]
        count = there.sum(3, keepdim=True).clamp_min(1)
        centered = (scores - (scores * there).sum(3, keepdim=True) / count) * there
        deviation = (centered.square().sum(3, keepdim=True) / count).sqrt()
        return (centered / deviation.clamp_min(torch.finfo(torch.float32).tiny)).amax(2)

    def _lengths(self, x: Tensor) -> Tensor:
        """Norms of rotated pairs, ``[..., pairs]``, of ``[..., head_size]``."""
        import torch

        pairs = 0 if self.rotary is None else len(self.rotary.frequencies)
        return torch.hypot(x[..., :pairs], x[..., pairs : 2 * pairs])


METHODS.register("triattention", TriAttention)
