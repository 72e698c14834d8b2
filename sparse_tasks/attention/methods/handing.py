"""Base of decoding methods in which a few layers select tokens by the true attention for the others."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.paged import PagedMethod
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_tasks.attention.cache import PagedCache
    from sparse_tasks.attention.index import PageIndex


@dataclass(frozen=True, kw_only=True)
class HandingMethod(PagedMethod):
    """Selecting layers read every key, and pass the tokens on to the layers after them.

    All layers read the same number of tokens, including those that select, so all have the same density. A single layer
    selects for itself. The current token is always read, and counts.
    """

    page: int = parameter(1, "tokens in a page, 1 for tokens; it divides the block size of a paged cache", 1)

    unit: ClassVar[str] = "tokens"
    any_softmax: ClassVar[bool] = True
    recordable: ClassVar[bool] = False  # layers of a step depend on each other

    def index_reads(self, shape: Shape, length: float) -> float:
        """Every key in the selecting layers, averaged over all layers."""
        selecting = sum(self.selects(Layer(index, shape.layers)) for index in range(shape.layers))
        return shape.kv_heads * shape.head_size * length * selecting / shape.layers

    @abstractmethod
    def selects(self, layer: Layer) -> bool:
        """Whether a layer selects."""

    def taken(self, handed: PageIndex, cache: PagedCache) -> PageIndex:
        """What a layer reads of the tokens passed on to it: each KV head those selected by the head with its number."""
        return handed

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        import torch

        from sparse_tasks.attention.kernels.sparse_decode import check_queries
        from sparse_tasks.attention.ops.true_mass import page_mass

        check_queries(q, cache)
        handed = None if cache.handed is None else cache.handed.get(self)
        if handed is not None and not self.selects(cache.layer):
            return self.taken(handed, cache)
        mass = page_mass(q, cache, self.page, self.softmax, impl=impl)
        current = torch.div(cache.lengths - 1, self.page, rounding_mode="floor")[:, None, None]
        age = current - torch.arange(mass.shape[2], device=q.device)
        index = self.best(self.rank(mass, age, cache, impl).masked_fill(age == 0, float("inf")), cache, impl)
        if cache.handed is not None:
            cache.handed[self] = index
        return index

    def rank(self, mass: Tensor, age: Tensor, cache: PagedCache, impl: str) -> Tensor:
        """Scores for choosing pages: the true attention.

        Args:
            mass: fp32 ``[batch, kv_heads, pages]``: the true attention, summed over the group; -inf past the end.
            age: Integers ``[batch, 1, pages]``: pages from each to the current one, below 0 past the end.
            cache: The cache.
            impl: "auto", "triton" or "torch".

        Returns:
            fp32 ``[batch, kv_heads, pages]``; -inf past the end.
        """
        return mass


@dataclass(frozen=True, kw_only=True)
class FirstLayers(HandingMethod):
    """The first layers select, and one more."""

    first: int = parameter(3, "first layers, each of which selects", 1)
    again: int = parameter(13, "number of the layer, from 0, that selects again; it depends on the model", 0)

    def selects(self, layer: Layer) -> bool:
        return layer.index < self.first or layer.index == self.again
