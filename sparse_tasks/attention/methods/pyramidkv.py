"""PyramidKV: SnapKV with more tokens in lower layers (Cai et al. 2024, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, ClassVar

from sparse_tasks.attention.method import METHODS, Layer
from sparse_tasks.attention.methods.observed import ObservedMethod
from sparse_tasks.core.parameters import parameter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PyramidKV(ObservedMethod):
    """Capacities decrease linearly from the first layer to the last, which keeps ``capacity / beta`` tokens.

    Their mean over the layers is exactly ``capacity``. If the first layer would keep more than the prompt, it keeps all
    of it, and the slope is smaller.
    """

    beta: int = parameter(20, "factor by which the last layer keeps fewer tokens than the average", 1)

    name: ClassVar[str] = "pyramidkv"
    place: ClassVar[int] = 3
    summary: ClassVar[str] = "SnapKV with more tokens in lower layers"
    budget: ClassVar[str] = "linear over layers"
    source: ClassVar[str] = "Cai et al., 2024, arXiv:2406.02069"
    any_softmax: ClassVar[bool] = True

    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        return self.observed(q, k, impl=impl).mean(1)

    def tokens(self, length: int, n_k: int, layer: Layer) -> int:
        mean = min(super().tokens(length, n_k, layer), n_k)
        if layer.count == 1:
            return mean
        last = max(Fraction(1), Fraction(mean, self.beta))
        first = min(2 * mean - last, Fraction(n_k))
        step = 2 * (first - mean) / (layer.count - 1)

        def below(layers: int) -> int:
            """Whole tokens of this many first layers together; differences of these sum up to the total budget."""
            return floor(layers * first - step * layers * (layers - 1) / 2)

        return below(layer.index + 1) - below(layer.index)


METHODS.register("pyramidkv", PyramidKV)
