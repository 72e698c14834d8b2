"""vAttention: heavy hitters, and a random sample that represents all other tokens (Desai et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar, Final

from sparse_tasks.attention.method import METHODS, Span
from sparse_tasks.attention.methods.tokens import TokenMethod
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex

_EPSILON: Final = 0.05  # of Desai et al., if neither a budget nor a sparsity is given


@dataclass(frozen=True, kw_only=True)
class VAttention(TokenMethod):
    """Each KV head reads its heavy hitters, and a uniform random sample of all other tokens.

    A drawn token is weighted in the numerator and the denominator of the softmax by the number of tokens it represents,
    so both are unbiased. Heavy hitters are the first tokens, the last ones and those with the largest attention as
    estimated by SparQ.

    With ``sparsity`` or ``token_budget`` the number of drawn tokens is fixed. Otherwise a first sample estimates the
    variance of the exponentials, and more tokens are drawn so that the relative error of the denominator stays within
    ``epsilon`` with probability ``1 - delta``, assuming normally distributed means.

    A draw depends only on the seed, the layer, the head, the length and the token, so it is the same in all batches and
    engines.
    """

    token_budget: int | None = parameter(None, "tokens to read, drawn ones among them", 1, kind=int)
    epsilon: float | None = parameter(
        None,
        "relative error of the softmax's denominator; .05 if no token_budget and no sparsity is given",
        0.001,
        1.0,
        kind=float,
    )
    delta: float = parameter(0.05, "share of the draws that may miss epsilon", 0.0001, 0.99)
    base: float = parameter(0.1, "share of the tokens to begin with, where epsilon says how many are drawn", 0.001, 1.0)
    heavy: float = parameter(0.5, "share of the budget, or of what it begins with, that heavy hitters get", 0.0, 1.0)
    sinks: int = parameter(128, "first tokens among the heavy hitters, at most a quarter of these", 0)
    recent: int = parameter(128, "last tokens among the heavy hitters, at most a quarter of these", 0)
    r: int = parameter(32, "components of the query, the largest, that estimate the scores", 1)
    seed: int = parameter(0, "another seed draws other tokens", 0)

    name: ClassVar[str] = "vattention"
    place: ClassVar[int] = 8
    summary: ClassVar[str] = "heavy hitters, and a random sample that stands for all other tokens"
    importance: ClassVar[str] = "softmax over the query's largest components, and random sampling"
    source: ClassVar[str] = "Desai et al., 2025, arXiv:2510.05688"
    budgets: ClassVar[tuple[str, ...]] = ("token_budget", "epsilon")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon is not None and self.token_budget is not None:
            raise UsageError(f"{self.name}.epsilon", self.epsilon, "says how many tokens token_budget has; give one")

    def index_reads(self, shape: Shape, length: float) -> float:
        """``r`` components of every key; if the sample may grow, also the first sample and the heavy hitters."""
        components = shape.kv_heads * min(shape.head_size, self.r) * length
        if not self._grows:
            return components
        return components + shape.kv_heads * 2 * shape.head_size * (2 - self.heavy) * self.base * length

    @property
    def fixed(self) -> int | None:
        return self.token_budget

    @property
    def share(self) -> float:
        """As in ``TokenMethod``; the initial share if the sample may grow."""
        return self.base if self._grows else super().share

    def read_span(self, prompt: int, cached: int) -> Span:
        return (self.base * cached - 1, cached) if self._grows else super().read_span(prompt, cached)

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.index import PageIndex
        from sparse_tasks.attention.kernels.selection import select_top
        from sparse_tasks.attention.kernels.sparse_decode import check_queries
        from sparse_tasks.attention.ops.components import estimated_weights
        from sparse_tasks.attention.ops.draws import draws

        check_queries(q, cache)
        budget, width = self.tokens_read(cache, impl)
        heavy = (budget * self.heavy).ceil().clamp_min(1).int()
        position = torch.arange(cache.capacity, device=q.device)
        age = cache.lengths[:, None] - 1 - position
        some = (heavy[:, None] / 4).ceil()
        local = ((position < some.clamp_max(self.sinks)) | (age < some.clamp_max(max(1, self.recent)))) & (age >= 0)
        scores = estimated_weights(q, cache, self.r, self.softmax, impl=impl)
        scores = scores.masked_fill(local[:, None], float("inf"))
        certain = PageIndex(*select_top(scores, heavy[:, None], width=width, impl=impl), 1, cache.lengths)
        listed = certain.mask(cache.capacity)
        layer = cache.layer
        head = torch.arange(cache.kv_heads, device=q.device)
        head += (layer.index * layer.ranks + layer.rank) * cache.kv_heads
        # Drawing needs 64-bit intermediates, so it is done for some sequences at a time.
        groups = cache.groups(4 * cache.kv_heads * cache.capacity)
        drawn = [draws(self.seed, head[:, None], some.lengths[:, None, None], position) for _, some in groups]
        chance = torch.cat(drawn).masked_fill(listed | (age < 0)[:, None], float("-inf"))
        size = (budget - heavy)[:, None]
        if self._grows:
            size = size.clamp_min(2)
            first = PageIndex(*select_top(chance, size, width=width + 1, impl=impl), 1, cache.lengths)
            size, width = self._grown(q, cache, certain, first, impl), cache.capacity
        total = certain.counts + size
        tokens, counts = select_top(chance.masked_fill(listed, float("inf")), total, width=width, impl=impl)
        # The weight of a drawn token is the ratio of all tokens to drawn ones.
        shift = ((cache.lengths[:, None] - certain.counts) / (counts - certain.counts).clamp_min(1)).log()
        inside = tokens.clamp(0, cache.capacity - 1).long()  # past the counts it may be anything
        log_weights = torch.where(listed.gather(2, inside), 0.0, shift[..., None])
        return PageIndex(tokens, counts, 1, cache.lengths, log_weights)

    @property
    def _grows(self) -> bool:
        """Whether ``epsilon`` determines how many tokens are drawn."""
        return self.sparsity is None and self.token_budget is None

    def _grown(self, q: Tensor, cache: PagedCache, certain: PageIndex, first: PageIndex, impl: str) -> Tensor:
        """int32 ``[batch, kv_heads]``: how many tokens have to be drawn, from the variance of a first sample.

        The sum over ``n`` tokens, estimated from ``b`` drawn without replacement, has a variance of ``n * (n - b) / b``
        times that of one token. The query head that needs most decides for its group.
        """
        from sparse_tasks.attention.kernels.sparse_decode import sparse_decode

        # Squared exponentials are exponentials of doubled scores.
        cap, scale = self.softmax.soft_cap, cache.head_size**-0.5
        twice = Softmax(soft_cap=None if cap is None else 2 * cap)
        _, heavy = sparse_decode(q, cache, certain, softmax=self.softmax, impl=impl, return_lse=True)
        _, once = sparse_decode(q, cache, first, softmax=replace(self.softmax, sinks=None), impl=impl, return_lse=True)
        _, squares = sparse_decode(q, cache, first, scale=2 * scale, softmax=twice, impl=impl, return_lse=True)
        heavy, once, squares = (x.unflatten(1, (cache.kv_heads, -1)) for x in (heavy, once, squares))
        count, rest = (x[..., None] for x in (first.counts, cache.lengths[:, None] - certain.counts))
        log_sum = heavy.logaddexp(once + (rest / count.clamp_min(1)).log())
        # In units of the denominator, as epsilon is.
        variance = (squares - 2 * log_sum).exp() - (once - log_sum).exp().square() / count.clamp_min(1)
        variance = variance.clamp_min(0) / (count - 1).clamp_min(1)
        epsilon = _EPSILON if self.epsilon is None else self.epsilon
        allowed = (epsilon / NormalDist().inv_cdf(1 - self.delta / 2)) ** 2
        needed = (rest / (1 + allowed / (rest * variance))).nan_to_num(0.0).ceil().int()
        return needed.amax(2).maximum(first.counts)


METHODS.register("vattention", VAttention)
