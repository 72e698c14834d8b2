"""Sizes of models, read from transformers' own modules on the meta device, where they have no weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators.costs import attention_parameters, described_shape, parameters, parts_of

_NEAR: Final = 0.01
_LAYERS: Final = 1000  # limit of layers, each of which takes a millisecond to construct


def count_shape(config: JsonObject) -> Shape | None:
    """The shape of a model type that ``read_shape`` does not support, if its fields prove right.

    They do if transformers' module has the same number of parameters, to 1%, in total and in its attention. None if
    transformers is not installed, lacks the model, or needs remote code for it.

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
    except Exception:  # a model's code can raise anything for unusual sizes
        return None
    attention = [weight for name, weight in weights.items() if "attn" in name or "attention" in name]
    for said, counted in ((parameters(shape), weights.values()), (attention_parameters(shape), attention)):
        there = sum(weight.numel() for weight in counted)
        if abs(said - there) > _NEAR * there:
            return None
    return shape


def _causal_lm(config: JsonObject) -> Any:
    """A causal language model of transformers on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(made)
