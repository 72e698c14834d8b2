"""``Softmax``: what a model's layer does to its attention scores besides scaling. Can be imported without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sparse_tasks.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

LOG2_E: Final = math.log2(math.e)


@dataclass(frozen=True, eq=False)
class Softmax:
    """Attention sinks and a soft cap, passed along with the scale of the scores.

    Attributes:
        sinks: ``[query_heads]``, floats: a logit per head that is added to the denominator of its softmax without a
            key, so the weights of the keys sum to less than 1 (gpt-oss). It is neither scaled nor capped.
        soft_cap: Scaled scores become ``soft_cap * tanh(score / soft_cap)``, above 0 (Gemma 2).

    Raises:
        UsageError: The cap is not above 0.
    """

    sinks: Tensor | None = None
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        if self.soft_cap is not None and not (0 < self.soft_cap < math.inf):
            raise UsageError("soft_cap", self.soft_cap, "has to be above 0; None is no cap")

    @property
    def plain(self) -> bool:
        """Whether it is plain softmax."""
        return self.sinks is None and self.soft_cap is None

    @property
    def what(self) -> str:
        """Its additions, in words."""
        return _words(sinks=self.sinks is not None, cap=self.soft_cap is not None)

    def check(self, q: Tensor) -> None:
        """Refuse sinks that do not fit queries ``[..., query_heads, head_size]``.

        Raises:
            UsageError: There is not one for each query head, or they are on another device.
        """
        if self.sinks is None:
            return
        if self.sinks.shape != q.shape[-2:-1] or not self.sinks.is_floating_point():
            raise UsageError("sinks", tuple(self.sinks.shape), f"have to be [{q.shape[-2]}] floats, one a query head")
        if self.sinks.device != q.device:
            raise UsageError("sinks", str(self.sinks.device), f"have to be where q is, on {q.device}")

    def of(self, heads: int | slice, *shape: int) -> Softmax:
        """The softmax for some query heads, with sinks in a shape that broadcasts to the rows of their scores."""
        return self if self.sinks is None else replace(self, sinks=self.sinks[heads].reshape(shape))

    def capped(self, scores: Tensor) -> Tensor:
        """Scaled scores, capped; what is not seen is masked after that."""
        return scores if self.soft_cap is None else (scores / self.soft_cap).tanh() * self.soft_cap

    def log_sum(self, scores: Tensor) -> Tensor:
        """The logarithm of the denominator of each row of capped scores, ``[...]``; -inf where there is nothing."""
        sums = scores.logsumexp(-1)
        return sums if self.sinks is None else sums.logaddexp(self.sinks.to(sums.dtype))

    def weights(self, scores: Tensor) -> Tensor:
        """Shares of the keys in each row of capped scores, ``[..., keys]``; -inf is not seen.

        Where nothing is seen they are NaN, or 0 with a sink, as the softmax of nothing and of the sink alone.
        """
        return scores.softmax(-1) if self.sinks is None else (scores - self.log_sum(scores)[..., None]).exp()

    def exponents(self, scale: float) -> tuple[float, float | None]:
        """How kernels turn a product of query and key into an exponent of 2.

        Returns:
            ``factor`` and ``bend``: the exponent is ``factor * product``; with a cap it is ``factor * tanh(x)``, where
            ``exp(2 * x)`` is 2 to the power of ``bend * product``.
        """
        if self.soft_cap is None:
            return scale * LOG2_E, None
        return self.soft_cap * LOG2_E, 2 * LOG2_E * scale / self.soft_cap


PLAIN: Final = Softmax()
_OF_SINKS: Final = ("gpt_oss", "granite_swa", "granitemoe_swa")


def what_config_says(text: Any) -> str:
    """``Softmax.what`` of a model before it is loaded, as far as its config says it.

    Args:
        text: ``PretrainedConfig`` of the text model.
    """
    sinks = getattr(text, "attention_sinks", getattr(text, "model_type", "") in _OF_SINKS)
    return _words(sinks=bool(sinks), cap=bool(getattr(text, "attn_logit_softcapping", None)))


def _words(*, sinks: bool, cap: bool) -> str:
    parts = {"attention sinks": sinks, "a soft cap of its scores": cap}
    return " and ".join(part for part, there in parts.items() if there)
