"""A calibrated method's measurement of a model, under dense attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun
from sparse_tasks.attention.methods.calibrated import CalibratedMethod
from sparse_tasks.attention.softmax import Softmax
from sparse_tasks.core.errors import UsageError


class Measuring(SparseRun):
    """Dense attention within an ``attended_by`` block, in which a method measures prompts.

    Args:
        method: The method.
        text: ``PretrainedConfig`` of the text model.
        impl: "auto", "triton" or "torch".

    Attributes:
        prompts: Number of prompts so far.
        tokens: Number of their tokens.
    """

    def __init__(self, method: CalibratedMethod, text: Any, impl: str = "auto") -> None:
        super().__init__(Attention.DENSE, impl)
        self.prompts = self.tokens = 0
        self._method = method.to_measure(text)
        self._sums: dict[int, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a calibration, once a prompt was read."""
        return self._method.tensors([self._sums[number].cpu() for number in sorted(self._sums)])

    def _prompt(self, number: int, q: Tensor, k: Tensor, v: Tensor, softmax: Softmax) -> Tensor:
        method = self._method.under(softmax)
        self._sums[number] = method.measure(self._sums.get(number), q, k, self._here.setdefault("measured", []))
        first, heads = (len(self._sums[layer]) for layer in (min(self._sums), number))
        if heads != first:
            remedy = (
                f"does not go with a model whose layers differ in heads ({first} and {heads}), for a calibration holds "
                "as many of each layer; take a method without one, or another model"
            )
            raise UsageError("method", method.calibrated_as, remedy)
        if number == min(self._sums):
            self.prompts, self.tokens = self.prompts + (len(q) == len(k)), self.tokens + len(q)
        return super()._prompt(number, q, k, v, softmax)
