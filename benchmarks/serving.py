"""What sparse attention gains inside vLLM: time to first token, and the time of a decoding step, against dense.

    python benchmarks/serving.py prefill --layers 32
    python benchmarks/serving.py decode --layers 8
    python benchmarks/serving.py counting

Needs a GPU and vLLM. The model has Llama-3.1-8B's shape and random weights, so nothing is downloaded; every ratio is of
two measurements in one run, the dense one by vLLM's own backend, with its defaults.
"""

from __future__ import annotations

import argparse
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


@contextmanager
def engine(layers: int, tokens: int, room: int, attention: str | None, **options: Any) -> Iterator[Any]:
    """An engine, with vLLM's own attention where none is named."""
    from vllm import LLM

    from sparse_tasks.attention.vllm import engine_arguments

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPE | {"num_hidden_layers": layers}))
        given: dict[str, Any] = {} if attention is None else engine_arguments(attention, sparsity=0.9)
        if options.get("enforce_eager"):
            given.pop("compilation_config", None)
        given["worker_cls"] = "serving_worker.TimedWorker" if attention is None else "serving_worker.TimedSparseWorker"
        began = time.monotonic()
        llm = LLM(
            model=folder, skip_tokenizer_init=True, load_format="dummy", max_model_len=tokens + room,
            gpu_memory_utilization=0.92, disable_log_stats=False, seed=0,
            **(given | options | {"enable_prefix_caching": False}),
        )  # fmt: skip
        print(f"engine with {attention or 'its own attention'}: {time.monotonic() - began:.0f} s", flush=True)
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()


def change(llm: Any, attention: str, sparsity: float) -> None:
    llm.collective_rpc("sparse_tasks_change", args=({"attention": attention, "sparsity": sparsity},))


def prompts(count: int, tokens: int, seed: int) -> list[dict[str, list[int]]]:
    generator = random.Random(seed)
    return [{"prompt_token_ids": generator.choices(range(1000, 120000), k=tokens)} for _ in range(count)]


def generate(llm: Any, asked: list[dict[str, list[int]]], tokens: int) -> list[Any]:
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    outputs: list[Any] = llm.generate(asked, parameters, use_tqdm=False)
    return outputs


def sparsity(llm: Any, outputs: list[Any], phase: str) -> str:
    """Measured, on average over the requests."""
    taken = llm.collective_rpc("sparse_tasks_take", args=([output.request_id for output in outputs],))[0]
    shares = [statistics.fmean(one[phase]["densities"]) for one in taken if one and phase in one]
    return f"{1 - statistics.fmean(shares):.4f}" if shares else "-"


def first_token(llm: Any, tokens: int, repeats: int) -> tuple[float, list[Any]]:
    """Seconds to the first token of one prompt: the median, after one that does not count."""
    times = []
    for repeat in range(repeats + 1):
        outputs = generate(llm, prompts(1, tokens, repeat), 1)
        metrics = outputs[0].metrics
        times.append(metrics.first_token_ts - metrics.scheduled_ts)
    return statistics.median(times[1:]), outputs


def prefill(arguments: argparse.Namespace) -> None:
    tokens, options = arguments.tokens, {"max_num_batched_tokens": arguments.chunk or arguments.tokens, "max_num_seqs": 8}
    options["enforce_eager"] = arguments.eager
    with engine(arguments.layers, tokens, 8, None, **options) as llm:
        dense, _ = first_token(llm, tokens, arguments.repeats)
    print(f"{tokens:,} tokens, {arguments.layers} layers: vLLM's own {dense * 1e3:,.0f} ms", flush=True)
    with engine(arguments.layers, tokens, 8, "vertical_slash", **options) as llm:
        for name in arguments.methods or ["block_sparse", "vertical_slash"]:
            for share in arguments.sparsity or [0.9, 0.0]:
                change(llm, name, share)
                seconds, outputs = first_token(llm, tokens, arguments.repeats)
                measured = sparsity(llm, outputs, "prefill")
                print(f"{name} {share}: {seconds * 1e3:,.0f} ms, {dense / seconds:.2f}x dense, measured {measured}",
                      flush=True)  # fmt: skip


def steps(llm: Any, batch: int, tokens: int, written: int, attention: bool = True) -> tuple[float, float, list[Any]]:
    """Milliseconds of a decoding step; of its attention, all layers together; and the outputs."""
    asked = prompts(batch, tokens, 0)
    outputs = generate(llm, asked, written)
    # From when all decode: the first token of the last prompt.
    began = max(output.metrics.first_token_ts for output in outputs)
    rows = [output.metrics for output in outputs]
    last = max(rows, key=lambda metrics: metrics.first_token_ts)
    whole = (last.last_token_ts - began) / (written - 1) * 1e3
    return whole, 0.0, outputs


def decode(arguments: argparse.Namespace) -> None:
    options: dict[str, Any] = {"max_num_batched_tokens": arguments.chunk or 16384, "max_num_seqs": arguments.batch}
    options["enforce_eager"] = arguments.eager
    results: dict[str, tuple[float, float]] = {}
    written = arguments.written

    def measure(llm: Any, name: str) -> list[Any]:
        whole, _, outputs = steps(llm, arguments.batch, arguments.tokens, written)
        part = float("nan")
        results[name] = (whole, part)
        return outputs

    def attention_part(llm: Any, name: str) -> None:
        """Again, with events around attention, which only an eager engine or piecewise graphs run from Python."""
        llm.collective_rpc("time_attention")
        generate(llm, prompts(arguments.batch, arguments.tokens, 0), 9)
        calls = llm.collective_rpc("timed_attention")[0]
        per_step = 2 * arguments.layers  # the cache, and attention
        ends = [sum(calls[i : i + per_step]) for i in range(len(calls) - 6 * per_step, len(calls), per_step)]
        results[name] = (results[name][0], statistics.median(ends))

    with engine(arguments.layers, arguments.tokens, written + 16, None, **options) as llm:
        measure(llm, "dense")
        if arguments.eager:
            attention_part(llm, "dense")
    with engine(arguments.layers, arguments.tokens, written + 16, "quest", **options) as llm:
        for share in arguments.sparsity or [0.9, 0.0]:
            name = f"{arguments.method} {share}"
            change(llm, arguments.method, share)
            outputs = measure(llm, name)
            print(f"{name}: measured {sparsity(llm, outputs, 'decode')}", flush=True)
            attention_part(llm, name)
            if share == 0.9:
                llm.collective_rpc("count", args=(False,))
                measure(llm, f"{name}, not counted")
                llm.collective_rpc("count", args=(True,))
                measure(llm, f"{name}, counted again")
    print(f"batch {arguments.batch}, {arguments.tokens:,} tokens, {arguments.layers} layers, "
          f"{'eager' if arguments.eager else 'graphs'}")  # fmt: skip
    dense = results["dense"]
    for name, (whole, part) in results.items():
        print(f"{name}: step {whole:.2f} ms ({dense[0] / whole:.2f}x), attention {part:.2f} ms ({dense[1] / part:.2f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prefill", "decode"])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--written", type=int, default=65)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk", type=int, help="tokens of a step at most; the whole prompt for prefill")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs and compilation")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--method", default="quest")
    parser.add_argument("--sparsity", type=float, nargs="*")
    arguments = parser.parse_args()
    {"prefill": prefill, "decode": decode}[arguments.what](arguments)


if __name__ == "__main__":
    main()
