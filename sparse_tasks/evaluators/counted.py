"""Sizes of models, read from transformers' own modules on the meta device, where they have no weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators.costs import attention_parameters, described_shape, parameters, parts_of

_NEAR: Final = 0.01
_LAYERS: Final = 1000  # of a module, whose making takes a millisecond each


def count_shape(config: JsonObject) -> Shape | None:
    """The shape of a model of a type that ``read_shape`` does not know, if its fields are right about it.

    They are where transformers' module has as many parameters, to 1%: all, and those of its attention, of which sparse
    methods save. None where transformers is not installed, has no such model, or it needs code of its own.

    Args:
        config: The content of a ``config.json`` that an engine is to load, too.
    """
    if not find_spec("transformers") or not find_spec("torch"):
        return None
    try:
        shape = described_shape(config)
        if shape.layers > _LAYERS:
            return None
        weights = dict(_causal_lm(parts_of(config)[1]).named_parameters())
    except Exception:  # whatever a model's code says of sizes that it does not like
        return None
    attention = [weight for name, weight in weights.items() if "attn" in name or "attention" in name]
    for said, counted in ((parameters(shape), weights.values()), (attention_parameters(shape), attention)):
        there = sum(weight.numel() for weight in counted)
        if abs(said - there) > _NEAR * there:
            return None
    return shape


def _causal_lm(config: JsonObject) -> Any:
    """A model of transformers that generates, on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(made)
