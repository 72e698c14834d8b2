"""``Rotary``: the rotary positions of a model's queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from sparse_tasks.attention.once import cached_result
from sparse_tasks.core.errors import UsageError

MODELS: Final = (
    "arcee", "gemma", "gemma2", "gemma3_text", "gpt_oss", "granite", "llama", "mistral", "mixtral", "olmo2", "olmo3",
    "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "stablelm", "starcoder2",
)  # fmt: skip
"""Types of models that turn every layer with attention to all keys, and pair numbers as ``Rotary`` says."""

_KINDS: Final = ("default", "linear", "llama3", "yarn")
"""Kinds of frequencies that are the same at any length."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864).

    Components ``i`` and ``i + pairs`` of a query or key form a point in a plane that is rotated about 0 by an angle
    proportional to the position. Components after these pairs are not rotated.

    Attributes:
        frequencies: Radians per position, for each pair.
    """

    frequencies: tuple[float, ...]

    @classmethod
    def of_config(cls, text: Any) -> Rotary:
        """The rotary positions of a model's full attention layers, the same in all engines.

        Args:
            text: ``PretrainedConfig`` of the text model.

        Raises:
            UsageError: The model's rotary positions are unknown, or frequencies depend on the length.
        """
        kind = getattr(text, "model_type", None)
        if kind not in MODELS:
            remedy = f"rotates keys by position in an unsupported way; supported are {', '.join(MODELS)}"
            raise UsageError("model_type", kind, remedy)
        of_layer = "full_attention" if "full_attention" in text.rope_parameters else None
        settings = text.rope_parameters[of_layer] if of_layer else text.rope_parameters
        if settings["rope_type"] not in _KINDS:
            remedy = (
                "rotates keys by angles that depend on the length; "
                f"methods that read positions need {', '.join(_KINDS)}"
            )
            raise UsageError("rope_type", settings["rope_type"], remedy)
        if settings["rope_type"] == "default":
            size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
            turned = int(size * settings.get("partial_rotary_factor", 1.0))
            return cls(tuple(settings["rope_theta"] ** (-place / turned) for place in range(0, turned, 2)))
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, _ = ROPE_INIT_FUNCTIONS[settings["rope_type"]](text, device="cpu", layer_type=of_layer)
        return cls(tuple(frequencies.tolist()))

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys, rotated by their positions; negative positions undo a rotation.

        Args:
            x: ``[n, heads, head_size]``.
            positions: Integers ``[n]``.

        Returns:
            fp32 ``[n, heads, head_size]``.

        Raises:
            UsageError: Heads have fewer components than are rotated.
        """
        # Angles in fp32, as models compute them.
        angle = positions.float()[:, None] * self._on(x)
        return self._rotated(x.float(), angle.cos()[:, None], angle.sin()[:, None])

    def average(self, x: Tensor, positions: Tensor) -> Tensor:
        """The result of ``turn``, averaged over several positions.

        Args:
            x: fp32 ``[..., head_size]``.
            positions: Integers ``[..., n]``; what comes before ``n`` broadcasts to what comes before ``head_size``.
        """
        angle = positions.float()[..., None] * self._on(x)
        return self._rotated(x, angle.cos().mean(-2), angle.sin().mean(-2))

    def _on(self, x: Tensor) -> Tensor:
        if 2 * len(self.frequencies) > x.shape[-1]:
            turned = 2 * len(self.frequencies)
            raise UsageError("head_size", x.shape[-1], f"is smaller than what the model's positions turn, {turned}")
        return _tensor(x.device, self.frequencies)

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pairs = len(self.frequencies)
        one, other, rest = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
        return torch.cat([one * cos - other * sin, other * cos + one * sin, rest], dim=-1)


@cached_result
def _tensor(device: torch.device, numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, device=device)
