"""Gain of sparse attention inside vLLM: time to first token and of a decoding step, against dense attention.

    python benchmarks/serving.py prefill --layers 8     # one prompt, all of it in one step
    python benchmarks/serving.py decode --layers 8      # a batch, and the cost of counting
    python benchmarks/serving.py same --model M --data DATA     # dense through the plugin, token by token
    python benchmarks/serving.py replays --model M --data DATA  # replays of whole steps, token by token

Needs a GPU and vLLM. The model has Llama-3.1-8B's shape and random weights, so nothing is downloaded; its tokens are
random too. Every ratio is of measurements in one run, the dense ones of vLLM's own backend, with its defaults: CUDA
graphs for whole steps. Sparse attention has graphs that leave attention out (PIECEWISE).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "max_position_embeddings": 2**20, "hidden_act": "silu", "torch_dtype": "bfloat16",
    "tie_word_embeddings": False, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
ROOM = 1024  # maximum tokens written per request
ROUNDS, STEPS = 9, 16  # of decoding: the median of so many rounds of so many steps
_NUMBERS = itertools.count()  # request names, by which counts are kept until collected
NOTHING = 1e-9  # a sparsity at which methods still run, unlike at 0


@contextmanager
def engine(
    arguments: argparse.Namespace, attention: str | None, shape: dict[str, Any] = SHAPE, **options: Any
) -> Iterator[Any]:
    """An engine for a model of this shape, with vLLM's own attention by default."""
    from vllm import LLM

    from sparse_tasks.attention.vllm import engine_arguments

    given: dict[str, Any] = {} if attention is None else engine_arguments(attention, sparsity=0.9)
    given["worker_cls"] = f"serving_worker.{'TimedWorker' if attention is None else 'TimedSparseWorker'}"
    if arguments.eager:
        given.pop("compilation_config", None)
        options["enforce_eager"] = True
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape | {"num_hidden_layers": arguments.layers}))
        began = time.monotonic()
        llm = LLM(
            model=folder, skip_tokenizer_init=True, load_format="dummy", max_model_len=arguments.tokens + ROOM, seed=0,
            disable_log_stats=False, **(given | options | {"enable_prefix_caching": False}),
        )  # fmt: skip
        print(f"engine with {attention or 'its own attention'} in {time.monotonic() - began:.0f} s", flush=True)
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()


def change(llm: Any, attention: str, sparsity: float | None) -> None:
    """Switch to other methods."""
    llm.collective_rpc("sparse_tasks_change", args=({"attention": attention, "sparsity": sparsity},))


def ask(llm: Any, count: int, tokens: int, written: int, seed: int) -> list[str]:
    """Add random prompts to the engine, and return their ids."""
    from vllm import SamplingParams

    draw, names = random.Random(seed), [f"request-{next(_NUMBERS)}" for _ in range(count)]
    parameters = SamplingParams(temperature=0.0, max_tokens=written, ignore_eos=True, detokenize=False)
    for name in names:
        prompt = {"prompt_token_ids": draw.choices(range(1000, 120000), k=tokens)}
        llm.llm_engine.add_request(name, prompt, parameters)
    return names


def measured(llm: Any, names: list[str], phase: str) -> float:
    """Measured sparsity, averaged over requests, layers and heads of all ranks."""
    taken = [one for rank in llm.collective_rpc("sparse_tasks_take", args=(names,)) for one in rank]
    return 1 - statistics.fmean(statistics.fmean(one[phase]["densities"]) for one in taken)


def first_token(llm: Any, tokens: int, repeats: int) -> tuple[float, list[str]]:
    """Median seconds from the engine accepting a prompt to its first token, after a warm-up."""
    seconds, names = [], []
    for repeat in range(repeats + 1):
        names = ask(llm, 1, tokens, 1, repeat)
        while llm.llm_engine.has_unfinished_requests():
            for output in llm.llm_engine.step():
                seconds.append(output.metrics.first_token_ts - output.metrics.scheduled_ts)
    return statistics.median(seconds[1:]), names


def prefill(arguments: argparse.Namespace) -> None:
    """Time to first token."""
    chunk = arguments.chunk or arguments.tokens
    options = {"max_num_batched_tokens": chunk, "max_num_seqs": 8}
    with engine(arguments, None, **options) as llm:
        dense, _ = first_token(llm, arguments.tokens, arguments.repeats)
    print(
        f"{arguments.tokens:,} tokens in steps of {chunk:,}, {arguments.layers} layers: {dense * 1e3:,.0f} ms",
        flush=True,
    )
    with engine(arguments, "vertical_slash", **options) as llm:
        for name in arguments.methods or ["block_sparse", "vertical_slash"]:
            for sparsity in arguments.sparsity or [0.9, 0.0]:
                change(llm, name, sparsity)
                seconds, names = first_token(llm, arguments.tokens, arguments.repeats)
                ran = measured(llm, names, "prefill")
                print(
                    f"{name} at {sparsity}: {seconds * 1e3:,.0f} ms, {dense / seconds:.2f}x, measured {ran:.4f}",
                    flush=True,
                )


def run(llm: Any, steps: int) -> float:
    """Mean milliseconds of a step."""
    began = time.perf_counter()
    for _ in range(steps):
        llm.llm_engine.step()
    return (time.perf_counter() - began) / steps * 1e3


def read_prompts(llm: Any, arguments: argparse.Namespace, seed: int) -> list[str]:
    """Step until all requests decode."""
    names = ask(llm, arguments.batch, arguments.tokens, ROOM, seed)
    decoding: set[str] = set()
    while len(decoding) < len(names):
        decoding |= {output.request_id for output in llm.llm_engine.step() if output.outputs[0].token_ids}
    run(llm, STEPS)
    return names


def decoding_step(llm: Any, arguments: argparse.Namespace, seed: int, counted: bool = False) -> tuple[float, float]:
    """Milliseconds of a step in which all requests decode, and its measured sparsity if counted."""
    names = read_prompts(llm, arguments, seed)
    took = statistics.median(run(llm, STEPS) for _ in range(ROUNDS))
    ran = measured(llm, names, "decode") if counted else 0.0
    llm.llm_engine.abort_request(names)
    run(llm, 2)
    return took, ran


def attention_time(llm: Any, layers: int) -> float:
    """Milliseconds that a step spends in attention, on the device, all layers together."""
    llm.collective_rpc("time_attention", args=(True,))
    times = []
    for _ in range(ROUNDS):
        run(llm, STEPS)
        calls = llm.collective_rpc("timed_attention")[0]
        times.append(sum(calls[-2 * layers :]))  # of the last step: cache writes and attention
    llm.collective_rpc("time_attention", args=(False,))
    return statistics.median(times)


def decode(arguments: argparse.Namespace) -> None:
    """Time of a decoding step."""
    options = {
        "max_num_batched_tokens": arguments.chunk or 16384,
        "max_num_seqs": arguments.batch,
        "compilation_config": {"cudagraph_capture_sizes": [arguments.batch]},
    }
    with engine(arguments, None, **options) as llm:
        read_prompts(llm, arguments, 0)
        own = statistics.median(run(llm, STEPS) for _ in range(ROUNDS))
    print(
        f"batch {arguments.batch}, {arguments.tokens:,} tokens, {arguments.layers} layers: a step {own:.2f} ms",
        flush=True,
    )
    options["compilation_config"] |= {"cudagraph_mode": "PIECEWISE"}
    for method in arguments.methods or ["quest"]:
        with engine(arguments, method, **options) as llm:
            for seed, sparsity in enumerate(arguments.sparsity or [0.9]):
                change(llm, method, sparsity)
                names = read_prompts(llm, arguments, seed)
                counted, uncounted = [], []
                for _ in range(ROUNDS):
                    counted.append(run(llm, STEPS))
                    llm.collective_rpc("count", args=(False,))
                    uncounted.append(run(llm, STEPS))
                    llm.collective_rpc("count", args=(True,))
                step, alone = statistics.median(counted), statistics.median(uncounted)
                part = attention_time(llm, arguments.layers)
                ran = measured(llm, names, "decode")
                change(llm, "dense", None)  # these requests continue under dense attention
                dense_step = statistics.median(run(llm, STEPS) for _ in range(ROUNDS))
                dense_part = attention_time(llm, arguments.layers)
                llm.llm_engine.abort_request(names)
                run(llm, 2)
                print(f"{method} at {sparsity}, measured {ran:.4f}: a step {step:.2f} ms, {own / step:.2f}x vLLM\n"
                      f"  attention {part:.2f} ms, dense {dense_part:.2f} ms: {dense_part / part:.2f}x\n"
                      f"  counting {step - alone:+.3f} ms, {step / alone - 1:+.2%} of a step\n"
                      f"  dense through the plugin (as sparsity 0): a step {dense_step:.2f} ms, "
                      f"{dense_step / own:.3f} of vLLM's own", flush=True)  # fmt: skip


def same(arguments: argparse.Namespace) -> None:
    """Number of prompts that get the same greedy tokens from vLLM's own attention and through the plugin."""
    from vllm import LLM, SamplingParams

    from sparse_tasks.attention.vllm import engine_arguments
    from sparse_tasks.core.tokenizers import load_tokenizer
    from sparse_tasks.evaluators.dataset import open_dataset

    dataset, tokenizer = open_dataset(arguments.data), load_tokenizer(arguments.model)
    ids = [tokenizer.ids(row["prompt"]) for row in dataset.rows(dataset.select())][: arguments.prompts]
    asked = [{"prompt_token_ids": one} for one in ids]
    parameters = SamplingParams(temperature=0.0, max_tokens=16, logprobs=5)
    answers: list[list[Any]] = []
    for given in ({}, engine_arguments("dense")):
        llm = LLM(model=arguments.model, max_model_len=max(map(len, ids)) + 16, seed=0, enforce_eager=arguments.eager,
                  **(given | {"enable_prefix_caching": False}))  # fmt: skip
        answers.append([output.outputs[0] for output in llm.generate(asked, parameters, use_tqdm=False)])
        llm.llm_engine.engine_core.shutdown()
    gaps = []
    for one, other in zip(*answers, strict=True):
        for place, (a, b) in enumerate(zip(one.token_ids, other.token_ids, strict=False)):
            if a != b:
                there = one.logprobs[place]
                gaps.append(abs(there[a].logprob - there[b].logprob) if b in there else float("inf"))
                break
    print(f"{len(ids) - len(gaps)} of {len(ids)} alike; where they first differ, logprobs lie apart by at most "
          f"{max(gaps, default=0.0):.3f}")  # fmt: skip


def replays(arguments: argparse.Namespace) -> None:
    """Number of prompts that get the same tokens and counts with and without replays of whole steps, and their time."""
    from vllm import LLM, SamplingParams

    from sparse_tasks.attention.vllm import engine_arguments
    from sparse_tasks.core.tokenizers import load_tokenizer
    from sparse_tasks.evaluators.dataset import open_dataset

    dataset, tokenizer = open_dataset(arguments.data), load_tokenizer(arguments.model)
    ids = [tokenizer.ids(row["prompt"]) for row in dataset.rows(dataset.select())][: arguments.batch]
    asked, parameters = (
        [{"prompt_token_ids": one} for one in ids],
        SamplingParams(temperature=0.0, max_tokens=128, ignore_eos=True),
    )
    for method in arguments.methods or ["quest", "twilight", "sparq"]:
        given = engine_arguments(method, sparsity=0.7) | {"worker_cls": "serving_worker.ReplayWorker"}
        llm = LLM(model=arguments.model, max_model_len=max(map(len, ids)) + 256, seed=0,
                  **(given | {"enable_prefix_caching": False}))  # fmt: skip
        found, seconds = [], []
        for on in (False, True, False, True):
            llm.collective_rpc("replay", args=(on,))
            began = time.perf_counter()
            outputs = llm.generate(asked, parameters, use_tqdm=False)
            seconds.append(time.perf_counter() - began)
            taken = llm.collective_rpc("sparse_tasks_take", args=([output.request_id for output in outputs],))[0]
            found.append([(output.outputs[0].token_ids, counts) for output, counts in zip(outputs, taken, strict=True)])
        llm.llm_engine.engine_core.shutdown()
        pairs = [list(zip(found[0], one, strict=True)) for one in found]
        answers, counts = ([sum(a[part] == b[part] for a, b in one) for one in pairs] for part in (0, 1))
        print(f"{method}: without, with, without, with replays, of {len(ids)} answers {answers} are those of the first "
              f"time, and {counts} counts; {', '.join(f'{s:.2f}' for s in seconds)} s", flush=True)  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prefill", "decode", "same", "replays"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--batch", type=int, default=8, help="of decode and replays")
    parser.add_argument("--repeats", type=int, default=3, help="of prefill")
    parser.add_argument("--chunk", type=int, help="tokens of a step at most (default: a prompt; decode: 16384)")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs and no compilation, on both sides")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--sparsity", type=float, nargs="*")
    parser.add_argument("--model", help="of same and replays: a folder or a Hub id")
    parser.add_argument("--data", help="of same and replays: a data set made with the model's tokenizer")
    parser.add_argument("--prompts", type=int, default=200, help="of same")
    arguments = parser.parse_args()
    {"prefill": prefill, "decode": decode, "same": same, "replays": replays}[arguments.what](arguments)


if __name__ == "__main__":
    main()
