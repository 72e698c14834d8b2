"""Cost of evaluation on top of the engine, cost of scoring, and gain of batching.

    python benchmarks/evaluation.py overhead    # evaluate over a bare LLM.generate on the same ids: time
    python benchmarks/evaluation.py scoring     # 100,000 predictions: time and memory
    python benchmarks/evaluation.py batching    # batched over one request at a time: tokens per second (a GPU)

All numbers are ratios within one run, except the limits of scoring, which are a time and a size. ``overhead`` and
``batching`` need vLLM; both take the demo model's tokenizer, and ``overhead`` its weights too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.manifest import MANIFEST
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.engines.engine import EngineSettings, Output, Request
from sparse_tasks.evaluators.engines.vllm import VllmEngine
from sparse_tasks.evaluators.models import Model, find_model
from sparse_tasks.evaluators.predict import Progress, RunRequest, predict
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.generators.request import GenerateOptions, make_request
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.table import SCHEMA, read_rows

OVERHEAD, SCORING_SECONDS, SCORING_MB, BATCHING = 1.05, 60, 1000, 3.0


def make_data(folder: Path, length: int, samples: int, tokenizer: str) -> Dataset:
    """Needles of one task at one length."""
    settings = {"ruler_niah.queries": "1"}
    request = make_request(
        GenerateOptions(lengths=[length], tasks=["ruler_niah"], samples=samples, tokenizer=tokenizer, settings=settings)
    )
    generate_folder(request, load_tokenizer(tokenizer), folder)
    return open_dataset(str(folder))


class Clock(Progress):
    """Records when the engine began to load, and when it was ready."""

    def starting(self, engine: str, samples: int, tokens: int, done: int) -> None:
        self.loading = time.perf_counter()

    def started(self) -> None:
        self.ready = time.perf_counter()

    def counting(self, samples: int) -> None: ...
    def counted(self) -> None: ...

    def predicted(self, output: Output) -> None:
        self.last = time.perf_counter()


def overhead(console: Console, arguments: argparse.Namespace) -> bool:
    """Time of ``evaluate`` without loading the model, over ``LLM.generate`` on the same ids."""
    from vllm import SamplingParams

    model = find_model("demo")
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", 1024, arguments.requests, model.source)
        rows = list(data.rows(data.select()))
        tokenizer = load_tokenizer(model.source)
        ids = [{"prompt_token_ids": tokenizer.ids(row["prompt"])} for row in rows]
        # One engine serves both, whose prefix cache would help the second.
        engine = VllmEngine(EngineSettings(model, arguments={"enable_prefix_caching": False}))
        engine.start(1024 + arguments.tokens)
        llm: Any = engine._llm
        sampling = SamplingParams(temperature=0.0, seed=42, max_tokens=arguments.tokens)
        llm.generate(ids[:4], sampling, use_tqdm=False)

        class Running(VllmEngine):
            """An already running engine."""

            name = "running"

            def start(self, needed: int) -> None:
                self._llm = llm

            def stop(self) -> None: ...

        from sparse_tasks.evaluators.engines.engine import ENGINES

        ENGINES.register("running", Running)
        bare, ours = [], []
        for turn in range(arguments.repeats):
            began = time.perf_counter()
            outputs = llm.generate(ids, sampling, use_tqdm=False)
            bare.append(time.perf_counter() - began)
            began, clock = time.perf_counter(), Clock()
            request = RunRequest(
                open_dataset(str(data.path)), data.select(), "demo", "running", {"enable_prefix_caching": False},
                max_new_tokens=arguments.tokens,
            )  # fmt: skip
            with Run(Path(folder) / f"run{turn}") as run:
                predict(request, run, clock)
                score_run(run)
                texts = {line["id"]: line["text"] for line in run.predictions()}
            ours.append(time.perf_counter() - began - (clock.ready - clock.loading))
            same = sum(texts[row["id"]] == output.outputs[0].text for row, output in zip(rows, outputs, strict=True))
            console.print(
                f"bare {bare[-1]:.1f} s, evaluate {ours[-1]:.1f} s ({clock.loading - began:.1f} before the engine, "
                f"{clock.last - clock.ready:.1f} in it): {ours[-1] / bare[-1]:.3f} x; same texts: {same}"
            )
        engine.stop()
    ratio = statistics.median(ours) / statistics.median(bare)
    console.print(
        f"evaluate over bare LLM.generate, {len(ids)} prompts of 1k tokens, {arguments.tokens} to write: "
        f"{ratio:.3f} x (limit {OVERHEAD})"
    )
    return ratio <= OVERHEAD


def scoring(console: Console, arguments: argparse.Namespace) -> bool:
    """``sparse-tasks score`` on many predictions, in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        run = many_predictions(Path(folder), arguments.predictions)
        began = time.perf_counter()
        # A process inherits the peak memory of its parent, so a small one is put in between.
        script = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
            " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [sys.executable, "-m", "sparse_tasks", "score", str(run), "--format", "json"]
        done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
        seconds, memory = time.perf_counter() - began, int(done.stdout) // 1024
    console.print(
        f"{arguments.predictions:,} predictions scored in {seconds:.0f} s (limit {SCORING_SECONDS}), "
        f"{memory:,} MB at most (limit {SCORING_MB:,})"
    )
    return seconds < SCORING_SECONDS and memory < SCORING_MB


def many_predictions(folder: Path, n: int) -> Path:
    """A large data set, made of few samples with new ids, and a run over it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    few = 100
    request = make_request(
        GenerateOptions(
            lengths=["3k"], tasks=["ruler_niah", "story_retrieval", "story_filtering", "ruler_cwe"], samples=few
        )
    )
    manifest = generate_folder(request, load_tokenizer(), folder / "few", workers=2)
    for name in list(manifest["files"]):
        rows, path = read_rows(folder / "few" / name), folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Scoring does not read the prompts, the long part of samples.
        copies = [
            row
            | {"id": f"{row['task']}-3072-{i * few + row['index']:06d}", "index": i * few + row["index"], "prompt": "-"}
            for i in range(n // few // 4)
            for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(copies, schema=SCHEMA), path, compression="zstd")
        manifest["files"][name] |= {"sha256": sha256_of(path), "rows": len(copies), "bytes": path.stat().st_size}
    manifest["request"]["samples"] = n // 4
    (folder / "data" / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    data = open_dataset(str(folder / "data"))
    explanation = "<explanation>" + "I looked through all of it, one part after the other. " * 20 + "</explanation>"
    with (folder / "outputs.jsonl").open("w", encoding="utf-8") as file:
        for i, row in enumerate(data.rows(data.select(), ["id", "answer"])):
            answer = row["answer"] if i % 2 else row["answer"][: len(row["answer"]) // 2]
            file.write(json.dumps({"id": row["id"], "text": f"{explanation}\n<answer>{answer}</answer>"}) + "\n")
    with Run(folder / "run") as run:
        predict(RunRequest(data, data.select(), str(folder / "outputs.jsonl"), "replay"), run)
    return folder / "run"


def batching(console: Console, arguments: argparse.Namespace) -> bool:
    """Tokens per second of many requests at once over one at a time: a Llama's shape, random weights."""
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(Path(folder) / "model", arguments.tokenizer)
        data = make_data(Path(folder) / "data", 2**14, arguments.requests, model.source)
        tokenizer = load_tokenizer(model.source)
        asked = [
            Request(row["id"], row["prompt"], tokenizer.ids(row["prompt"]), arguments.tokens)
            for row in data.rows(data.select())
        ]
        options = {"load_format": "dummy", "enable_prefix_caching": False}
        engine = VllmEngine(EngineSettings(model, arguments=options))
        engine.start(2**14 + arguments.tokens)
        rates: dict[str, float] = {}
        list(engine.generate(asked[:2]))
        few = asked[: max(4, len(asked) // 4)]
        for name, groups in (("one at a time", [[request] for request in few]), ("batched", [asked])):
            began = time.perf_counter()
            outputs = [output for group in groups for output in engine.generate(group)]
            rates[name] = tokens(outputs) / (time.perf_counter() - began)
        engine.stop()
    table = Table("requests", "tokens/s")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    console.print(table)
    gain = rates["batched"] / rates["one at a time"]
    console.print(
        f"Batching {len(asked)} prompts of 16k tokens, {arguments.tokens} to write: {gain:.1f} x (limit {BATCHING})"
    )
    return gain >= BATCHING


def random_llama(folder: Path, tokenizer: str | None) -> Model:
    """Llama-3.1-8B's shape with 8 layers and the demo model's vocabulary; vLLM makes the weights up."""
    import shutil

    source = Path(tokenizer) if tokenizer else Path(find_model("demo").source)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).exists():
            shutil.copy(source / name, folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 8, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return find_model(str(folder))


def tokens(outputs: Iterable[Output]) -> int:
    """Read and written."""
    return sum((output.input_tokens or 0) + (output.output_tokens or 0) for output in outputs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, requests, written in (("overhead", 64, 16), ("batching", 64, 256)):
        part = parts.add_parser(name)
        part.add_argument("--requests", type=int, default=requests)
        part.add_argument("--tokens", type=int, default=written, help="to write, for each request")
        part.add_argument("--repeats", type=int, default=3)
        part.add_argument("--tokenizer", help="folder of a tokenizer with 49,152 tokens, instead of the demo model's")
    parts.add_parser("scoring").add_argument("--predictions", type=int, default=100_000)
    arguments = parser.parse_args()
    held = {"overhead": overhead, "scoring": scoring, "batching": batching}[arguments.part](Console(), arguments)
    sys.exit(not held)


if __name__ == "__main__":
    main()
