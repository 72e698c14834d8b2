"""Base of methods that know something of a model that was measured beforehand."""

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
    """A calibration of another model, or of another version, is refused; what it was measured on is said at the start.

    Class attributes:
        version: Of what ``measure`` gives. With another one, calibrations have to be made again.
        instead: What stands in for a calibration where there is none, in words.
        family: What methods of several phases are short for that share a calibration; None has one of its own.
    """

    calibration: str | None = parameter(None, "file of sparse-tasks attention calibrate, of the model", kind=str)

    version: ClassVar[int]
    instead: ClassVar[str]
    family: ClassVar[str | None] = None
    measured: ClassVar[Calibration | None] = None
    """The calibration, where the method is in a model and has one."""

    def in_model(self, text: Any) -> Self:
        from sparse_tasks.attention.calibration import calibrated, say_uncalibrated, source_of

        here = super().in_model(text)
        if self.calibration is None:
            say_uncalibrated(self.calibrated_as, self.instead)
            return here
        return here._bound(measured=calibrated(self.calibration, self.calibrated_as, self.version, *source_of(text)))

    @property
    def calibrated_as(self) -> str:
        """Name of the method in calibrations."""
        return self.family or self.name

    def to_measure(self, text: Any) -> Self:
        """The method in a model that is measured, whatever calibration it has. Arguments as of ``in_model``."""
        return super().in_model(text)

    def of_layer(self, layer: Layer, heads: int, device: Any) -> dict[str, Tensor] | None:
        """What was measured of a layer, on a device; None without a calibration.

        Args:
            layer: Layer number and number of layers.
            heads: Heads that the layer has here, of the kind that was measured.
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
        """Sums over the prompts of one layer so far, with those of another one added.

        Args:
            seen: What this gave before; None at first.
            q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k``.
            k: ``[n_k, kv_heads, head_size]``.
            handed: What the layers before it have added here for the same queries, in their order, to be added to.
        """

    @abstractmethod
    def tensors(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """What a calibration holds, ``[layers, heads, ...]``, of the sums of each layer."""

    def published(self, path: Path, shape: Shape) -> dict[str, Tensor]:
        """What a calibration holds, ``[layers, heads, ...]``, of a file that the method's authors published.

        Args:
            path: The file.
            shape: Of the model that it is for.

        Raises:
            UsageError: The authors' files are not known, or it is for a model of another shape.
            BadFileError: It cannot be read, or is none of theirs.
        """
        raise UsageError("from", str(path), f"is of no form that is known for {self.calibrated_as}; measure the model "
                         "on prompts, with --data")  # fmt: skip
