"""Guards what is known of rotary positions: turned back, queries of equal tokens are equal, in all listed models."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun, attended_by, check_config, sparse_attention
from sparse_tasks.attention.rotary import MODELS, Rotary
from sparse_tasks.core.errors import UsageError

LENGTH = 40
SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "moe_intermediate_size": 32, "num_experts": 2,
    "num_experts_per_tok": 1, "num_local_experts": 2,
}  # fmt: skip


class Spy(SparseRun):
    """Queries and keys of each layer, ``[n, heads, size]``."""

    def __init__(self) -> None:
        super().__init__(Attention.DENSE, "torch")
        self.calls: list[Tensor] = []

    def _prompt(self, number: int, q: Tensor, k: Tensor, v: Tensor, softmax: Any) -> Tensor:
        self.calls += [q, k]
        return super()._prompt(number, q, k, v, softmax)


def config_of(kind: str, **changes: Any) -> Any:
    made = transformers.AutoConfig.for_model(kind, **SIZES | changes)
    if getattr(made, "layer_types", None):
        made.layer_types = ["full_attention"] * made.num_hidden_layers
    else:
        made.sliding_window = None
    return made


def queries_and_keys(config: Any) -> list[Tensor]:
    """Of a random model that reads one token again and again, so that nothing but the position tells them apart."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for module in model.modules():
        if hasattr(module, "sinks"):
            module.sinks.data.fill_(-1e4)  # else attention falls on them more at first positions
    spy = Spy()
    with torch.inference_mode(), attended_by(model, spy):
        model(torch.full((1, LENGTH), 7))
    assert spy.calls
    return spy.calls


def differences(x: Tensor) -> float:
    """The most that a position differs from the first, over the largest number."""
    return float((x - x[:1]).abs().max() / x.abs().max())


@pytest.mark.parametrize("kind", MODELS)
def test_rotating_back_removes_the_position(kind: str) -> None:
    config = config_of(kind)
    rotary = Rotary.of_config(config)
    for x in queries_and_keys(config):
        assert differences(x) > 0.1
        assert differences(rotary.turn(x, -torch.arange(LENGTH))) < 1e-4


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
SCALED = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "yarn": YARN,
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64, "rope_theta": 10000.0},
}  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_scaled_frequencies_match_the_model(name: str) -> None:
    config = config_of("llama", rope_parameters=SCALED[name])
    rotary = Rotary.of_config(config)
    assert rotary != Rotary.of_config(config_of("llama"))
    for x in queries_and_keys(config):
        assert differences(rotary.turn(x, -torch.arange(LENGTH))) < 1e-4


@pytest.mark.parametrize("kind", ["cohere", "glm4"])
def test_a_model_with_another_pairing_is_not_listed(kind: str) -> None:
    assert kind not in MODELS
    config = config_of(kind)
    q, *_ = queries_and_keys(config)
    config.model_type = "llama"
    assert differences(Rotary.of_config(config).turn(q, -torch.arange(LENGTH))) > 0.1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.CohereConfig(), "model_type: 'cohere' rotates keys by position in an unsupported way"),
        (transformers.GPT2Config(), "model_type: 'gpt2' rotates"),
        (
            transformers.LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "rope_type: 'dynamic' rotates keys by angles that depend on the length",
        ),
    ],
)
def test_unknown_positions_are_refused_before_a_model_is_loaded(config: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(words)}"):
        check_config("m", config, Attention.parse("expected_attention", sparsity=0.5))
    check_config("m", config, Attention.parse("snapkv", sparsity=0.5))


def test_a_loaded_model_is_refused_and_unchanged() -> None:
    model = transformers.AutoModelForCausalLM.from_config(config_of("cohere")).eval()
    before = model.config._attn_implementation
    with pytest.raises(UsageError, match=r"^model_type: 'cohere'"), sparse_attention(model, "expected_attention"):
        pass
    assert model.config._attn_implementation == before
    with sparse_attention(model, "knorm"):
        pass


def test_the_average_matches_single_positions() -> None:
    rotary, x = Rotary((1.0, 0.3, 0.01)), torch.randn(5, 2, 8)
    each = [rotary.turn(x, torch.full((5,), position)) for position in range(100, 150)]
    torch.testing.assert_close(
        rotary.average(x, torch.arange(100, 150)), torch.stack(each).mean(0), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(
        rotary.average(x, torch.arange(100, 150))[..., 6:], x[..., 6:]
    )  # past the pairs nothing is turned


def test_heads_that_are_too_small_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^head_size: 4 is smaller than what the model's positions turn, 6"):
        Rotary((1.0, 0.3, 0.01)).turn(torch.randn(5, 2, 4), torch.arange(5))
