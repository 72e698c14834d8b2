"""ExpectedAttention: the tokens that future queries will attend to, on average (Devoto et al. 2025, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.interactions import ranking_flops
from sparse_tasks.attention.method import METHODS, ONLY, Layer
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept


@dataclass(frozen=True, kw_only=True)
class ExpectedAttention(CapacityMethod):
    """Models future queries as normally distributed, with the mean and the covariance of the prompt's queries.

    The rotation by position is removed from the prompt's queries, and the mean and covariance are rotated to the next
    ``future`` positions instead, and averaged. A key then has an expected weight in closed form, to which ``floor`` is
    added, and which is multiplied by the norm of the token's value.

    ``keep`` needs all queries of the prompt, once each: a product for each query, and two for each key and query head.
    The queries of first tokens differ from others; first tokens are always kept, up to half of the capacity.
    """

    future: int = parameter(512, "positions after the prompt whose queries are expected", 1)
    floor: float = parameter(0.0, "weight that is added to each token's, so that values decide among light ones", 0.0)
    sinks: int = parameter(4, "first tokens that always stay, and whose queries do not count", 0)

    name: ClassVar[str] = "expected_attention"
    place: ClassVar[int] = 8
    summary: ClassVar[str] = "tokens by the expected attention of future queries"
    importance: ClassVar[str] = "expected attention of future queries, times the norm of the value"
    source: ClassVar[str] = "Devoto et al., 2025, arXiv:2510.00636"
    reads_positions: ClassVar[bool] = True
    reads_values: ClassVar[bool] = True

    def index_flops(self, shape: Shape, length: float) -> float:
        """Products of the queries with themselves, of each key with a matrix and a vector, norms and a ranking."""
        of_query_head = length * (2 * shape.head_size**2 + 2 * shape.head_size**2 + 6 * shape.head_size)
        return shape.query_heads * of_query_head + shape.kv_heads * (
            2 * length * shape.head_size + ranking_flops(length)
        )

    def fixed(self, capacity: int) -> tuple[int, int]:
        return min(self.sinks, capacity // 2), 0

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        return self._expected(self.observe(None, q, k, impl=impl), k)

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
        return self.settle(self.observe(None, q, k, impl=impl), k, v=v, length=length, layer=layer, impl=impl)

    def observe(self, seen: Tensor | None, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """fp32 ``[query_heads, head_size + 1, head_size + 1]``: sums of the products of the queries so far.

        Queries are extended by a 1, so the last row is their sum and ends in their number.
        """
        import torch
        from torch.nn.functional import pad

        positions = torch.arange(len(k) - len(q), len(k), device=q.device)
        queries = q.float() if self.rotary is None else self.rotary.turn(q, -positions)
        queries = pad(queries, (0, 1), value=1.0).masked_fill((positions < self.sinks)[:, None, None], 0.0)
        sums = queries.permute(1, 2, 0) @ queries.transpose(0, 1)
        return sums if seen is None else seen + sums

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
        scores = self._expected(seen, k) + self.floor
        if v is not None:
            scores = scores * v.float().norm(dim=2).T
        return self.kept(scores, length=length, layer=layer, impl=impl)

    def _expected(self, seen: Tensor, k: Tensor) -> Tensor:
        """Expected weights, fp32 ``[kv_heads, n_k]``: means over the group; 0 for the first tokens."""
        import torch

        (n_k, kv_heads, size), first = k.shape, min(self.sinks, len(k) - 1)
        count = seen[:, -1, -1].clamp_min(1.0)  # a prompt may only have first tokens
        mean = seen[:, -1, :-1] / count[:, None]
        covariance = seen[:, :-1, :-1] / count[:, None, None] - mean[:, :, None] * mean[:, None]
        if self.rotary is not None:
            next_ones = torch.arange(n_k, n_k + self.future, device=k.device)
            mean = self.rotary.average(mean, next_ones)
            covariance = self.rotary.average(self.rotary.average(covariance, next_ones).mT, next_ones)
        weights = torch.zeros(kv_heads, n_k, device=k.device)
        group = len(mean) // kv_heads
        for head in range(len(mean)):  # one at a time: all would take the memory of the keys, times the group
            keys = k[first:, head // group].float()
            scores = keys @ mean[head] * size**-0.5 + ((keys @ covariance[head]) * keys).sum(1) / (2 * size)
            weights[head // group, first:] += scores.softmax(0) / group
        return weights


METHODS.register("expected_attention", ExpectedAttention)
