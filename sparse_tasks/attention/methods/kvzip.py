"""KVzip: the tokens that a model attends to while it repeats its context (Kim et al. 2025, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.interactions import ranking_flops, window_flops
from sparse_tasks.attention.method import METHODS, ONLY, RepeatMethod
from sparse_tasks.attention.methods.capacity import CapacityMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.index import Kept

# The authors' wording.
_FIRST: Final = "\n\nRepeat the previous context exactly."
_LATER: Final = "\n\nRepeat the part of the previous context exactly, starting with "
_STARTING: Final = 8  # tokens before a chunk that tell the model where to start


@dataclass(frozen=True, kw_only=True)
class KVzip(RepeatMethod, CapacityMethod):
    """Tokens that a model needs to repeat its context are kept for later questions about it.

    It repeats ``chunk`` tokens at a time. A token's score is the largest weight that a query of its group gives it
    during repetition, over the cached tokens of the chunk, the first ones of the context, and the repetition. The KV
    heads of all layers share the budget: the best tokens of all are kept, ``capacity`` per head on average.

    Without a model there is no repetition: ``keep`` uses the prompt's own queries instead, and the budget is shared
    within the layer.
    """

    chunk: int = parameter(2048, "tokens that are repeated at once, fewer where the model has no positions for them", 1)
    sinks: int = parameter(4, "first tokens that always stay", 0)

    name: ClassVar[str] = "kvzip"
    place: ClassVar[int] = 13
    summary: ClassVar[str] = "tokens by the attention of the model as it repeats the context"
    importance: ClassVar[str] = "largest attention while the context is repeated"
    budget: ClassVar[str] = "adaptive across heads and layers"
    source: ClassVar[str] = "Kim et al., 2025, arXiv:2505.23416"
    any_softmax: ClassVar[bool] = True

    @property
    def oracle(self) -> tuple[str, JsonObject]:
        return "oracle_evict", {"shared": True}

    def index_flops(self, shape: Shape, length: float) -> float:
        """A model layer over the repeated tokens, their attention weights, and a ranking."""
        heads = 2 * (shape.query_heads + shape.kv_heads) * shape.head_size
        experts = shape.active_experts * shape.expert_size + shape.shared_expert_size
        layer = 2 * length * shape.hidden_size * (heads + 3 * (experts or shape.mlp_size))
        attention = 4 * shape.query_heads * shape.head_size * length * (length + min(length, self.chunk) / 2)
        weights = window_flops(shape, length, 2 * min(length, self.chunk))
        return layer + attention + weights + shape.kv_heads * ranking_flops(length)

    def fixed(self, capacity: int) -> tuple[int, int]:
        return min(self.sinks, capacity // 2), 0

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        from sparse_tasks.attention.ops.true_mass import key_peaks

        return key_peaks(q, k, self.softmax)

    def chunks(self, length: int, most: int) -> list[range]:
        size = min(self.chunk, most)
        return [range(start, min(start + size, length)) for start in range(0, length, size)]

    def instruction(self, chunk: range) -> tuple[str, range]:
        return (_LATER, range(max(0, chunk.start - _STARTING), chunk.start)) if chunk.start else (_FIRST, range(0))

    def repeated(self, q: Tensor, k: Tensor, chunk: range) -> Tensor:
        import torch

        from sparse_tasks.attention.ops.true_mass import key_peaks

        first = min(self.sinks, chunk.start)
        there = torch.cat([k[:first], k[chunk.start : chunk.stop], k[len(k) - len(q) :]])
        return key_peaks(q, there, self.softmax)[:, first : first + len(chunk)]

    def keep_all(self, scores: Sequence[Tensor], *, impl: str = "auto") -> list[Kept]:
        import torch

        from sparse_tasks.attention.index import Kept

        of_all = self.kept(torch.cat([*scores]), length=None, layer=ONLY, impl=impl)
        heads = [len(of_layer) for of_layer in scores]
        layers = zip(of_all.positions.split(heads), of_all.counts.split(heads), strict=True)
        return [Kept(positions[:, : max(1, int(counts.max()))], counts, of_all.length) for positions, counts in layers]

    def choose(self, scores: Tensor, capacity: int, *, impl: str = "auto") -> Kept:
        from sparse_tasks.attention.index import Kept
        from sparse_tasks.attention.ops.eviction import protect
        from sparse_tasks.attention.ops.pooled import top_of_all_heads

        heads, n_k = scores.shape
        capacity = min(capacity, n_k)
        scores = protect(scores, *self.fixed(capacity))
        return Kept(*top_of_all_heads(scores, heads * capacity, width=min(n_k, heads * capacity), impl=impl), n_k)


METHODS.register("kvzip", KVzip)
