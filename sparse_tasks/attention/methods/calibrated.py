"""Base of methods that use measurements of a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sparse_tasks.attention.method import Layer, Method
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter
from sparse_tasks.core.shape import Shape

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from sparse_tasks.attention.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class CalibratedMethod(Method):
    """Calibrations for other models or versions are refused; what one was measured on is logged at the start.

    Class attributes:
        version: Version of the result of ``measure``. With another one, calibrations have to be made again.
        instead: What is used without a calibration, in words.
        family: The common name of methods in several phases that share a calibration; None if it is not shared.
    """

    calibration: str | None = parameter(None, "file of sparse-tasks attention calibrate, of the model", kind=str)

    version: ClassVar[int]
    instead: ClassVar[str]
    family: ClassVar[str | None] = None
    measured: ClassVar[Calibration | None] = None
    """The calibration, where the method is in a model and has one."""

    def in_model(self, text: Any) -> Self:
        from sparse_tasks.attention.calibration import calibrated, source_of, warn_uncalibrated

        here = super().in_model(text)
        if self.calibration is None:
            warn_uncalibrated(self.calibrated_as, self.instead)
            return here
        return here._bound(measured=calibrated(self.calibration, self.calibrated_as, self.version, *source_of(text)))

    @property
    def calibrated_as(self) -> str:
        """Name of the method in calibrations."""
        return self.family or self.name

    def to_measure(self, text: Any) -> Self:
        """The method in a model to be measured, without a calibration. Arguments as for ``in_model``."""
        return super().in_model(text)

    def of_layer(self, layer: Layer, heads: int, device: Any) -> dict[str, Tensor] | None:
        """The measurements of a layer, on a device; None without a calibration.

        Args:
            layer: Layer number and number of layers.
            heads: Number of heads of the layer here, of the measured kind.
            device: ``torch.device``.

        Raises:
            UsageError: The calibration has other layers or heads.
        """
        if self.measured is None:
            return None
        tensors = self.measured.on(device)
        for name, tensor in tensors.items():
            if tensor.shape[:2] != (layer.count, heads):
                remedy = (
                    f"has {name} of {tuple(tensor.shape[:2])} layers and heads, where {(layer.count, heads)} run "
                    "(with tensor parallelism each device has a part of the heads, which is not supported)"
                )
                raise UsageError(f"{self.name}.calibration", self.calibration, remedy)
        return {name: tensor[layer.index] for name, tensor in tensors.items()}

    @abstractmethod
    def measure(self, seen: Tensor | None, q: Tensor, k: Tensor, handed: list[Tensor]) -> Tensor:
        """The sums of one layer over the prompts so far, with another prompt added.

        Args:
            seen: The previous result; None at first.
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k``.
            k: ``[n_k, kv_heads, head_size]``.
            handed: What earlier layers have appended for the same queries, in order; append to it.
        """

    @abstractmethod
    def tensors(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors of a calibration, ``[layers, heads, ...]``, from the sums of each layer."""

    def published(self, path: Path, shape: Shape) -> dict[str, Tensor]:
        """The tensors of a calibration, ``[layers, heads, ...]``, from a file that the method's authors published.

        Args:
            path: The file.
            shape: Shape of the model.

        Raises:
            UsageError: There is no known format, or it is for a model of another shape.
            BadFileError: It cannot be read, or does not have their format.
        """
        raise UsageError("from", str(path), f"is of no form that is known for {self.calibrated_as}; measure the model "
                         "on prompts, with --data")  # fmt: skip
