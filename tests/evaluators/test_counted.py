"""Shapes of models give the parameter counts of transformers' modules, or are None."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from sparse_tasks.evaluators import costs
from sparse_tasks.evaluators.costs import attention_parameters, parameters, read_shape
from sparse_tasks.evaluators.counted import count_shape
from tests.breadth.tiny import settings

KINDS = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TEXT = sorted(kind for kind in MODEL_MAPPING_NAMES if kind.endswith("_text") and kind not in KINDS)
NAMED_ALIKE = ("afmoe", "apertus", "diffllama", "doge", "hrm_text", "jais2", "laguna", "mimo_v2_flash")
"""Whose fields have the names of Llama's, and mean something else, or not all."""
KNOWN = ("gemma2", "glm4_moe", "llama", "qwen2_5_vl_text", "qwen3_moe")
LIMIT = 0.01


def made(kind: str, size: str) -> tuple[Any, Any]:
    """A model's config and its module, on the meta device; skips where transformers does not make them so."""
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    auto = transformers.AutoModelForCausalLM if kind in KINDS else transformers.AutoModel
    try:
        config = kinds[kind](**({} if size == "default" else settings(kinds[kind])))
        with torch.device("meta"):
            return config, auto.from_config(config)
    except Exception as error:  # the model's code can raise anything
        pytest.skip(f"not made of a {size} config: {type(error).__name__}: {error}")


@pytest.mark.parametrize("size", ["default", "tiny"])
@pytest.mark.parametrize(
    "kind",
    [kind if kind in NAMED_ALIKE + KNOWN else pytest.param(kind, marks=pytest.mark.nightly) for kind in KINDS + TEXT],
)
def test_a_shape_matches_the_module_or_is_none(kind: str, size: str) -> None:
    config, module = made(kind, size)
    for diff in (False, True):  # with and without what is as in the class
        said = json.loads(config.to_json_string(use_diff=diff)) | {"model_type": kind}
        shape = read_shape(said)
        if "text_config" in said and said["text_config"]["model_type"] in KINDS:  # a module that sees, too
            assert shape == read_shape(said["text_config"])
            continue
        assert shape is None or kind in costs._KNOWN
        if shape is None and kind in KINDS:
            shape = count_shape(said)
        if shape is None:
            # The class has 96 heads in 4,096 by default, which none divides.
            assert kind not in costs._KNOWN or (kind, size) == ("glm4_moe", "default")
            continue
        weights = dict(module.named_parameters())
        head = 0 if kind in KINDS or shape.tied_embeddings else shape.vocabulary * shape.hidden_size
        attention = sum(weight.numel() for name, weight in weights.items() if "attn" in name)
        assert parameters(shape) == pytest.approx(head + sum(w.numel() for w in weights.values()), rel=LIMIT)
        assert attention_parameters(shape) == pytest.approx(attention, rel=LIMIT)


@pytest.mark.parametrize("kind", ["ernie4_5_moe", "jetmoe", "mpt"])
def test_unknown_types_are_decided_by_the_module(kind: str) -> None:
    """Experts under other names, experts in attention, and sizes under other names."""
    config, _ = made(kind, "default")
    assert count_shape(config.to_dict()) is None


def test_an_unknown_type_is_read_if_parameter_counts_match() -> None:
    said = made("cohere2_moe", "default")[0].to_dict()
    assert read_shape(said) is None
    assert count_shape(said) is not None
    for changes in ({"model_type": "unheard_of"}, {"num_hidden_layers": 2**20}, {"rope_parameters": 7}):
        assert count_shape(said | changes) is None
