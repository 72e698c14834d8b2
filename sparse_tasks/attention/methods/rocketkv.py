"""RocketKV: eviction after the prompt, then selection at each step (Behnam et al. 2025, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.method import METHODS, ONLY, Layer, Span, StepMethod
from sparse_tasks.attention.methods.observed import ObservedMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import Kept, KeptBatch

_TOKEN_BUDGET: Final = 256  # if neither a budget nor a sparsity is given


@dataclass(frozen=True, kw_only=True)
class RocketKV(StepMethod, ObservedMethod):
    """Each KV head keeps ``capacity`` tokens of the prompt, of which a step reads some, and those since the prompt.

    Eviction is as in SnapKV, but with the maximum over neighbours instead of the mean. A step then estimates the
    attention to chunks of adjacent kept tokens from the largest components of its queries and, for each component, the
    chunk's maximum or minimum. The tokens of the best chunks are read.
    """

    token_budget: int | None = parameter(
        None, "tokens of the prompt that a step reads; 256 if neither this nor sparsity is given", 1, kind=int
    )
    split: float = parameter(0.5, "power of the density that the eviction leaves; steps leave the rest", 0.0, 1.0)
    chunk: int | None = parameter(
        None, "kept tokens that a step judges together; the root of what it leaves out, if None", 1, kind=int
    )
    r: int | None = parameter(
        None, "components of a query that judge; such a share that both reductions are alike, if None", 1, kind=int
    )
    window: int = parameter(32, "last queries of the prompt, whose attention is summed", 1)
    kernel: int = parameter(63, "keys, an odd number, of which the largest attention counts", 1)
    sinks: int = parameter(0, "first tokens that always stay", 0)
    recent: int = parameter(32, "last tokens of the prompt that always stay", 0)

    name: ClassVar[str] = "rocketkv"
    place: ClassVar[int] = 9
    summary: ClassVar[str] = "SnapKV, and at each step the best chunks of what it keeps"
    importance: ClassVar[str] = "attention of the last queries; at each step the query's largest components by chunks"
    cache: ClassVar[str] = "evicted after the prompt; steps read part of the rest"
    source: ClassVar[str] = "Behnam et al., 2025, arXiv:2502.14051"
    any_softmax: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("capacity", "token_budget")

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_evict", {"grows": True}

    def solve(self, length: int, density: float) -> dict[str, int]:
        """Steps read the whole tokens in ``length * density``; ``length * density ** split`` stay."""
        kept, read = super().solve(length, density**self.split), super().solve(length, density)
        return kept | {"token_budget": read["capacity"]}

    def index_reads(self, shape: Shape, length: float) -> float:
        """Some components of every kept key."""
        kept = min(length, self.tokens(int(length), int(length), ONLY))
        return shape.kv_heads * kept * self._components(shape.head_size)

    def read_span(self, prompt: int, cached: int) -> Span:
        read = min(prompt, self.tokens(prompt, prompt, ONLY), self._reads(prompt)) + cached - prompt
        return read - 1, read + 1

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        from torch.nn.functional import max_pool1d

        from sparse_tasks.attention.kernels.window_scores import window_scores

        scores = window_scores(q, k, self.window, softmax=self.softmax, slashes=False, impl=impl).vertical
        of_head = scores.view(k.shape[1], -1, len(k)).sum(1)
        return max_pool1d(of_head[:, None], self.kernel, stride=1, padding=self.kernel // 2)[:, 0]

    def kept(self, scores: Tensor, *, length: int | None, layer: Layer, impl: str) -> Kept:
        """The kept tokens, with score 0, and as capacity the number that steps read."""
        import torch

        kept = super().kept(scores, length=length, layer=layer, impl=impl)
        none = torch.zeros_like(kept.positions, dtype=torch.float32)
        return replace(kept, scores=none, capacity=self._reads(kept.length if length is None else length))

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
        groups = cache.groups(positions[0].numel() * self._components(cache.head_size))
        return torch.cat([self._estimate(q[rows], some, positions[rows], listed[rows]) for rows, some in groups])

    @property
    def widens(self) -> bool:
        return False  # tokens after the prompt are always seen in addition to the budget

    def advance_all(self, seen: KeptBatch, weights: Tensor) -> KeptBatch:
        from sparse_tasks.attention.ops.eviction import mark_written

        return mark_written(seen)

    def visible_all(self, seen: KeptBatch, weights: Tensor, *, impl: str = "auto") -> KeptBatch:
        import torch

        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.ops.eviction import listing, written

        width, always = weights.shape[2], written(seen)
        past = torch.arange(width, device=weights.device) >= seen.counts[..., None]
        weights = weights.masked_fill(past, float("-inf")).masked_fill(always, float("inf"))
        budget = always.sum(2, dtype=torch.int32) + seen.capacities[:, None]
        return listing(seen, *select_top(weights, budget, width=width, impl=impl))

    def _reads(self, length: int) -> int:
        budget = self.at(length).token_budget
        return _TOKEN_BUDGET if budget is None else budget

    def _left(self) -> float:
        """Ratio of kept tokens to those that a step reads, without those since the prompt."""
        if self.sparsity is not None:
            return float((1 - self.sparsity) ** (self.split - 1))
        return max(1.0, self.tokens(0, 0, ONLY) / self._reads(0))

    def _chunk(self) -> int:
        return math.ceil(round(math.sqrt(self._left()), 6)) if self.chunk is None else self.chunk

    def _components(self, head_size: int) -> int:
        if self.r is not None:
            return min(self.r, head_size)
        return max(1, min(head_size, int(head_size * self._chunk() / self._left())))

    def _estimate(self, q: Tensor, cache: PagedCache, positions: Tensor, listed: Tensor) -> Tensor:
        """``weigh`` of sequences whose keys are in memory at once."""
        import torch
        from torch.nn.functional import pad

        from sparse_tasks.attention.kernels.components import largest_components

        queries = q.float().view(cache.batch, cache.kv_heads, -1, cache.head_size)
        largest, some, temperature = largest_components(queries, self._components(cache.head_size))
        sign = torch.where(queries.sum(2, keepdim=True) > 0, 1.0, -1.0).gather(3, largest)
        block, offset, _ = cache.locate(positions)
        head = torch.arange(cache.kv_heads, device=q.device)[:, None, None]
        keys = cache.keys[block[..., None], offset[..., None], head, largest].float() * sign
        # A chunk's maximum where the query component is positive, its minimum where it is negative.
        keys, width, chunk = keys.masked_fill(~listed[..., None], float("-inf")), keys.shape[2], self._chunk()
        chunks = pad(keys, (0, 0, 0, -width % chunk), value=float("-inf")).unflatten(2, (-1, chunk)).amax(3)
        chunks = chunks.masked_fill(chunks == float("-inf"), 0.0)  # empty chunks
        scores = self.softmax.capped((some * sign) @ chunks.mT / temperature)
        scores = scores.repeat_interleave(chunk, 3)[..., :width].masked_fill(~listed[:, :, None], float("-inf"))
        return self.softmax.of(slice(None), cache.kv_heads, -1).weights(scores).sum(2)


METHODS.register("rocketkv", RocketKV)
