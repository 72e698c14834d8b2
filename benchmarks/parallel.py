"""Sparse attention on several GPUs: its gain under tensor parallelism, a large model, a sweep over engines.

    python benchmarks/parallel.py tensor --gpus 2             # Llama-3.1-8B's shape, on one GPU and on two
    python benchmarks/parallel.py large --gpus 2              # Qwen2.5-32B's shape
    python benchmarks/parallel.py sweep --gpus 2 --data DATA  # evaluate with one engine, and with one on each GPU

Weights and prompts are random, except in the sweep, which takes a model and a data set. Every ratio is of measurements
in one run. ``tensor`` prints the gain of sparse attention over vLLM's own at each number of GPUs, and compares logprobs
of both at sparsity 0. Needs vLLM and ``--gpus`` GPUs. Without multicast, vLLM needs ``VLLM_ALLREDUCE_USE_SYMM_MEM=0``.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from board import Board
from rich.console import Console
from rich.table import Table
from serving import NOTHING, SHAPE, ask, change, decoding_step, engine, first_token, measured

LARGE = SHAPE | {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648,
    "num_attention_heads": 40, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
}  # fmt: skip
PREFILL, DECODE, SPARSITY = "block_sparse", "quest", 0.9
BOTH = f"{PREFILL}+{DECODE}"
CHUNK = 16384  # maximum tokens per step
KEPT_GAIN, SAME_SPARSITY, FASTER = 0.9, 0.002, 1.9  # goals: share of the gain, difference, ratio for two engines
NEAR = 0.1  # of logprobs of bfloat16


def tensor(arguments: argparse.Namespace, board: Board) -> None:
    """Gain of sparse attention at one GPU and at several, with exactness at sparsity 0."""
    table = Table("GPUs", "first token, dense", f"{PREFILL} {SPARSITY}", "gain", "a step, dense",
                  f"{DECODE} {SPARSITY}", "gain", "measured", title=f"{arguments.layers} layers, "
                  f"{arguments.tokens:,} tokens")  # fmt: skip
    found = {}
    for gpus in dict.fromkeys((1, arguments.gpus)):
        found[gpus] = of = _measure(arguments, board, gpus)
        board.console.print(f"{gpus} GPUs: {of}")  # print early, since a run may be interrupted
        table.add_row(
            str(gpus), f"{of['dense_first'] * 1e3:,.0f} ms", f"{of['first'] * 1e3:,.0f} ms",
            f"{of['prefill_gain']:.2f}x",
            f"{of['dense_step']:.2f} ms", f"{of['step']:.2f} ms", f"{of['decode_gain']:.2f}x",
            f"{of['prefill']:.4f}, {of['decode']:.4f}",
        )  # fmt: skip
    board.console.print(table)
    one, several = found[1], found[arguments.gpus]
    for phase in ("prefill", "decode"):
        kept = several[f"{phase}_gain"] / one[f"{phase}_gain"]
        board.say(f"gain of {phase} at {arguments.gpus} GPUs over that at 1", kept, KEPT_GAIN)
        apart = abs(several[phase] - one[phase])
        board.say(f"measured sparsity of {phase}, apart by", apart, SAME_SPARSITY, most=True)


def _measure(arguments: argparse.Namespace, board: Board, gpus: int) -> dict[str, float]:
    graphs: dict[str, Any] = {"cudagraph_capture_sizes": [arguments.batch]}
    options = {
        "tensor_parallel_size": gpus, "max_num_batched_tokens": CHUNK, "max_num_seqs": max(8, arguments.batch),
    }  # fmt: skip
    of: dict[str, float] = {}
    with engine(arguments, None, compilation_config=graphs, **options) as llm:
        of["dense_first"], _ = first_token(llm, arguments.tokens, arguments.repeats)
        of["dense_step"], _ = decoding_step(llm, arguments, 0)
        own = _greedy(llm)
    graphs["cudagraph_mode"] = "PIECEWISE"
    with engine(arguments, BOTH, compilation_config=graphs, **options) as llm:
        of["first"], names = first_token(llm, arguments.tokens, arguments.repeats)
        of["prefill"] = measured(llm, names, "prefill")
        of["step"], of["decode"] = decoding_step(llm, arguments, 0, counted=True)
        change(llm, BOTH, NOTHING)
        board.say(f"{gpus} GPUs, logprobs with nothing left out, apart by", _apart(own, _greedy(llm)), NEAR, most=True)
    of["prefill_gain"], of["decode_gain"] = of["dense_first"] / of["first"], of["dense_step"] / of["step"]
    return of


def _greedy(llm: Any) -> list[list[float]]:
    """Logprobs of greedy tokens for a few short prompts."""
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0.0, max_tokens=4, logprobs=1, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": [(seed * 7919 + n * 104729) % 120000 for n in range(2048)]} for seed in range(1, 5)]
    answers = llm.generate(prompts, parameters, use_tqdm=False)
    return [
        [max(entry.logprob for entry in place.values()) for place in answer.outputs[0].logprobs] for answer in answers
    ]


def _apart(one: list[list[float]], other: list[list[float]]) -> float:
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def large(arguments: argparse.Namespace, board: Board) -> None:
    """A 32B model: whether it starts, its memory, its measured sparsity, and its speedup."""
    options = {"tensor_parallel_size": arguments.gpus, "max_num_batched_tokens": CHUNK, "max_num_seqs": 2}
    seconds = {}
    for attention in (None, BOTH):
        with engine(arguments, attention, LARGE, **options) as llm:
            seconds[attention], names = first_token(llm, arguments.tokens, 1)
            board.console.print(f"{attention or 'dense'}: first token {seconds[attention]:.2f} s")
            if attention is not None:
                decoded = ask(llm, 1, arguments.tokens, 16, 99)
                while llm.llm_engine.has_unfinished_requests():
                    llm.llm_engine.step()
                ran = measured(llm, names, "prefill"), measured(llm, decoded, "decode")
            room = llm.llm_engine.vllm_config.cache_config.num_gpu_blocks * 16
            board.console.print(
                f"{attention or 'dense'}: memory used {_memory()}; the cache has room for {room:,} tokens"
            )
    dense, sparse = seconds.values()
    board.console.print(
        f"{arguments.layers} layers, {arguments.tokens:,} tokens in steps of {CHUNK:,} on {arguments.gpus} GPUs: first "
        f"token {dense:.2f} s dense, {sparse:.2f} s sparse, {dense / sparse:.2f}x; measured {ran[0]:.4f}, {ran[1]:.4f}"
    )


def _memory() -> str:
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"]
    return ", ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")).strip(", ")


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds until a command's engines have started, and from then to its end."""
    began = time.monotonic()
    ready = None
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if ready is None and "answering" in line:
                ready = time.monotonic()
    if process.returncode or ready is None:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    return ready - began, time.monotonic() - ready


def sweep(arguments: argparse.Namespace, board: Board) -> None:
    """Time of ``evaluate`` with one engine, and with one on each GPU, and whether scores are the same."""
    seconds, scores = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for engines in (1, arguments.gpus):
            target = Path(folder) / str(engines)
            command = [
                *(sys.executable, "-m", "sparse_tasks", "evaluate", arguments.data, "--model", arguments.model),
                *("--attention", ",".join(arguments.methods), "--sparsity", "0.5,0.8,0.9", "--output", str(target)),
                *("--engines", str(engines), *(w for a in arguments.engine_arg for w in ("--engine-arg", a))),
            ]
            seconds[engines] = _timed(command)
            scores[engines] = {}
            for path in sorted(target.glob("*/result.json")):
                for config in json.loads(path.read_text())["configs"]:
                    scores[engines][path.parent.name, config["task"], config["length"]] = config["mean"]
    (start, one), (starts, several) = seconds[1], seconds[arguments.gpus]
    board.console.print(f"one engine starts in {start:.0f} s and answers for {one:.0f} s, {arguments.gpus} engines "
                        f"start in {starts:.0f} s and answer for {several:.0f} s")  # fmt: skip
    board.say("answering, engines together over one", one / several, FASTER * arguments.gpus / 2)
    apart = [abs(score - scores[arguments.gpus][place]) for place, score in scores[1].items()]
    board.console.print(
        f"{sum(a == 0 for a in apart)} of {len(apart)} means alike, the others apart by at most {max(apart):.3f}"
    )
    board.say("mean difference of scores", math.fsum(apart) / len(apart), 0.01, most=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tensor", "large", "sweep"])
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--layers", type=int, help="of tensor and large (default: 32, 64)")
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--batch", type=int, default=4, help="requests that decode together")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs and no compilation")
    parser.add_argument("--data", help="of sweep")
    parser.add_argument("--model", default="probe", help="of sweep")
    parser.add_argument("--methods", nargs="*", default=["block_sparse", "vertical_slash", "xattention", "quest",
                                                         "snapkv", "streaming_llm"], help="of sweep")  # fmt: skip
    parser.add_argument("--engine-arg", action="append", default=["enable_prefix_caching=false"], help="of sweep")
    arguments = parser.parse_args()
    arguments.layers = arguments.layers or (64 if arguments.what == "large" else 32)
    board = Board(Console(width=150))
    {"tensor": tensor, "large": large, "sweep": sweep}[arguments.what](arguments, board)
    for missed in board.missed:
        board.console.print(f"missed: {missed}")
    sys.exit(1 if board.missed else 0)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
