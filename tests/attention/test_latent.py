"""Guards latent attention in transformers: models that expand it run exactly, under every method.

There each head has keys and values of its own, of different sizes. Models that also choose keys themselves are refused.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.huggingface import SparseRun, check_config, sparse_attention
from sparse_tasks.attention.inspection import Inspection
from sparse_tasks.attention.method import METHODS, Layer
from sparse_tasks.core.errors import UsageError
from tests.attention.test_huggingface import VOCABULARY, generate, tokens

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32,
    "num_hidden_layers": 2, "num_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 24,
    "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "head_dim": 16,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 1024,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "AXK1": {},
    "DeepseekV2": {},
    "DeepseekV3": {},
    "Glm4MoeLite": {},
    "KimiLinear": {"linear_attn_config": {"kda_layers": [1], "full_attn_layers": [2], "num_heads": 4, "head_dim": 16}},
    "LongcatFlash": {"ffn_hidden_size": 64, "expert_ffn_hidden_size": 32, "zero_expert_num": 1, "moe_topk": 2},
    "MiniCPM3": {},
    "Youtu": {},
}
OFTEN = ("DeepseekV2", "DeepseekV3", "KimiLinear")


def made(kind: str, **changes: Any) -> Any:
    """A random model of two layers, whose attention is not flat."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | KINDS.get(kind, {}) | changes)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.mark.parametrize(
    "kind", [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.nightly) for kind in KINDS]
)
def test_dense_equals_the_models_own_attention(kind: str) -> None:
    model = made(kind)
    ids, mask = tokens(60, 41)
    _, expected = generate(model, ids, mask)
    check_config("acme/small", model.config)
    with sparse_attention(model, "dense", impl="torch") as run:
        _, found = generate(model, ids, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert run.layers == ([1] if kind == "KimiLinear" else [0, 1])


@pytest.mark.nightly
@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_runs(name: str) -> None:
    model = made("DeepseekV3")
    ids, mask = tokens(300)
    if METHODS.get(name).reads_positions:  # these turn a part of each head, apart from the rest
        with pytest.raises(UsageError, match="rotates keys by position"), sparse_attention(model, name, impl="torch"):
            pass
        return
    _, expected = generate(model, ids, mask)
    with sparse_attention(model, name, sparsity=0.0, impl="torch"):
        _, found = generate(model, ids, mask)
    # What evicts at each step keeps as many tokens as the prompt has, so that its second step misses one.
    same = 2 if getattr(METHODS.get(name), "each_step", False) else len(found)
    torch.testing.assert_close(found[:same], expected[:same], rtol=1e-3, atol=1e-3)
    with sparse_attention(model, name, sparsity=0.6, impl="torch") as run:
        _, found = generate(model, ids, mask)
    assert found.isfinite().all()
    phase = "prefill" if METHODS.get(name).phase == "prefill" else "decode"
    measured = run.density(phase)
    assert measured is not None
    assert measured.computed < 0.999


def inputs(value: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys of 48 numbers, and values that have ``value``, of which 32 are not 0."""
    draw = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(1, heads, 200, size, generator=draw) for heads, size in ((4, 48), (2, 48), (2, 32)))
    return 2 * q, k, torch.nn.functional.pad(v, (0, value - 32))


def attended(run: SparseRun, value: int) -> Tensor:
    """A prompt, a question after it, and two steps."""
    q, k, v = inputs(value)
    layer, parts, begin = Layer(0, 1), [], 0
    for end in (150, 198, 199, 200):
        part = (q[:, :, begin:end], k[:, :, :end], v[:, :, :end])
        parts.append(run.attend(0, layer, *part, None, 48**-0.5))
        begin = end
    return torch.cat(parts, 1)


@pytest.mark.parametrize("context", [None, 150])
@pytest.mark.parametrize("name", ["dense", *METHODS.names()])
def test_values_of_another_size_equal_padded_ones(name: str, context: int | None) -> None:
    attention = Attention.parse(name, sparsity=None if name == "dense" else 0.6)
    runs = [SparseRun(attention, "torch", context) for _ in range(2)]
    found, padded = (attended(run, value) for run, value in zip(runs, (32, 48), strict=True))
    assert found.shape == (1, 200, 4, 32)
    torch.testing.assert_close(found, padded[..., :32], rtol=1e-5, atol=1e-5)
    for phase in ("prefill", "decode"):
        assert runs[0].density(phase) == runs[1].density(phase)


@pytest.mark.parametrize("name", ["vertical_slash", "quest", "snapkv"])
def test_inspection_measures_values_of_another_size(name: str) -> None:
    runs = [Inspection(Attention.parse(name, sparsity=0.6), "torch") for _ in range(2)]
    found, padded = (attended(run, value) for run, value in zip(runs, (32, 48), strict=True))
    torch.testing.assert_close(found, padded[..., :32], rtol=1e-5, atol=1e-5)
    (one,), (other,) = runs[0].inspected(), runs[1].inspected()
    torch.testing.assert_close(torch.tensor(one.error), torch.tensor(other.error))
    assert one.error[0][0] > 0


@pytest.mark.parametrize("kind", ["DeepseekV32", "GlmMoeDsa", "HYV4"])
def test_models_that_select_keys_themselves_are_refused(kind: str) -> None:
    model = made(kind)
    before = model.config._attn_implementation
    with pytest.raises(UsageError, match="selects keys with its own indexer"):
        check_config("acme/small", model.config)
    with (
        pytest.raises(UsageError, match="selects keys with its own indexer"),
        sparse_attention(model, "dense", impl="torch"),
    ):
        pass
    assert model.config._attn_implementation == before
