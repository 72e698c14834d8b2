"""Blocks of vLLM's cache that `--free-blocks` gives back, and the requests that run at once in a cache of a fixed size.

    python benchmarks/freed.py                      # window_evict, snapkv_blocks and knorm_blocks
    python benchmarks/freed.py --attention window_decode --tokens 4096 --blocks 301

Random weights and prompts; nothing is downloaded, and no GPU is needed. All requests arrive at once, and write the same
number of tokens. After each step, blocks in use and running requests are recorded, as reported by vLLM. Outputs are
compared token by token with those of the same methods without freeing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2**17, "hidden_act": "silu", "torch_dtype": "float32", "tie_word_embeddings": False,
    "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BLOCK = 32  # the smallest on a CPU
SPARSITIES = (0.5, 0.8, 0.9)


@dataclass(frozen=True)
class Ran:
    """Requests under an attention.

    Attributes:
        blocks: Maximum blocks in use.
        requests: Maximum requests that ran at once.
        decoding: Blocks in use per running request, on average over steps that read no prompt.
        preempted: Preemptions.
        seconds: Total time.
        written: Tokens that each request wrote.
    """

    blocks: int
    requests: int
    decoding: float
    preempted: int
    seconds: float
    written: list[list[int]]


def run(llm: Any, arguments: argparse.Namespace) -> Ran:
    """All requests at once, step by step."""
    from vllm import SamplingParams

    draw = random.Random(0)
    parameters = SamplingParams(temperature=0.0, max_tokens=arguments.written, ignore_eos=True, detokenize=False)
    llm.reset_prefix_cache()
    for number in range(arguments.requests):
        ids = draw.choices(range(10, SHAPE["vocab_size"]), k=arguments.tokens)
        llm.llm_engine.add_request(f"{number}", {"prompt_token_ids": ids}, parameters)
    blocks, requests, shares, written = 0, 0, [], {}
    before, began = _metrics(llm), time.monotonic()
    while llm.llm_engine.has_unfinished_requests():
        read = _metrics(llm)["prompt_tokens"]
        for output in llm.llm_engine.step():
            if output.finished:
                written[int(output.request_id)] = list(output.outputs[0].token_ids)
        now = _metrics(llm)
        used = round(now["kv_cache_usage_perc"] * (arguments.blocks - 1))  # block 0 is empty
        blocks, requests = max(blocks, used), max(requests, round(now["num_requests_running"]))
        if now["prompt_tokens"] == read and now["num_requests_running"]:
            shares.append(used / now["num_requests_running"])
    return Ran(
        blocks, requests, sum(shares) / max(1, len(shares)), round(now["num_preemptions"] - before["num_preemptions"]),
        time.monotonic() - began, [written[number] for number in range(arguments.requests)],
    )  # fmt: skip


def _metrics(llm: Any) -> dict[str, float]:
    return {metric.name.removeprefix("vllm:"): metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}


class Engine:
    """An engine that is stopped at the end."""

    def __init__(self, folder: str, arguments: argparse.Namespace, given: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm = LLM(
            model=folder, skip_tokenizer_init=True, load_format="dummy", seed=0, dtype="float32", enforce_eager=True,
            max_model_len=arguments.tokens + arguments.written, max_num_seqs=arguments.requests, block_size=BLOCK,
            max_num_batched_tokens=arguments.chunk, num_gpu_blocks_override=arguments.blocks, disable_log_stats=False,
            **given,
        )  # fmt: skip

    def __enter__(self) -> Any:
        return self.llm

    def __exit__(self, *error: object) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        cleanup_dist_env_and_memory()


def main() -> None:
    """Print a line for each attention."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", nargs="+", default=["window_evict", "snapkv_blocks", "knorm_blocks"])
    parser.add_argument("--sparsity", nargs="+", type=float, default=SPARSITIES)
    parser.add_argument("--tokens", type=int, default=1024, help="of a prompt")
    parser.add_argument("--written", type=int, default=64, help="tokens that each request writes")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--blocks", type=int, default=161, help=f"of {BLOCK} positions, of which one stays empty")
    parser.add_argument("--chunk", type=int, default=512, help="tokens of a step, at most")
    arguments = parser.parse_args()

    from sparse_tasks.attention.vllm import engine_arguments
    from sparse_tasks.attention.vllm.arguments import KEY

    print(f"{arguments.requests} requests of {arguments.tokens} + {arguments.written} tokens, "
          f"{arguments.blocks - 1} blocks of {BLOCK}")  # fmt: skip
    row = "{:<28} {:>8} {:>6} {:>9} {:>8} {:>11} {:>10} {:>8}  {}"
    print(row.format("attention", "sparsity", "frees", "at once", "blocks", "a request", "preempted", "seconds", ""))

    def show(name: str, sparsity: float | None, frees: str, ran: Ran, note: str = "") -> None:
        print(row.format(name, sparsity or "-", frees, ran.requests, ran.blocks, f"{ran.decoding:.1f}", ran.preempted,
                         f"{ran.seconds:.1f}", note), flush=True)  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPE))
        kept: dict[tuple[str, float], Ran] = {}
        # Without prefix caching, which some of these do not support.
        own = engine_arguments("dense") | {"enable_prefix_caching": False}
        with Engine(folder, arguments, own) as llm:
            show("dense", None, "no", run(llm, arguments))
            for name in arguments.attention:
                for sparsity in arguments.sparsity:
                    settings = engine_arguments(name, sparsity=sparsity, self_test=False)["additional_config"][KEY]
                    llm.collective_rpc("sparse_tasks_change", args=(settings,))
                    kept[name, sparsity] = run(llm, arguments)
                    show(name, sparsity, "no", kept[name, sparsity])
        for (name, sparsity), before in kept.items():
            given = engine_arguments(name, sparsity=sparsity, free_blocks=True) | {"enable_prefix_caching": False}
            with Engine(folder, arguments, given) as llm:
                ran = run(llm, arguments)
            same = "writes the same" if ran.written == before.written else "WRITES OTHER TOKENS"
            show(name, sparsity, "yes", ran, same)


if __name__ == "__main__":
    main()
