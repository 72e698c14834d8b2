"""Sparse attention inside vLLM on shapes of newer models: hybrids, heads of 256 numbers, windows, sinks, FP8 caches.

    python benchmarks/shapes.py                             # all of them
    python benchmarks/shapes.py --only qwen3-next gemma3    # some
    python benchmarks/shapes.py tiles                       # prefill kernels at head size 256, without vLLM's engine

Weights and prompts are random, so nothing is downloaded; layers are few. For each shape: whether sparse attention
without any sparsity equals vLLM's own (the largest difference of logprobs, up to where tokens differ), and the time to
the first token and of a decoding step at sparsity .9 against vLLM's own attention. Needs a GPU and vLLM; qwen3-next and
gpt-oss also vLLM's kernels for experts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from serving import NOTHING, change, decoding_step, first_token, measured

COMMON = {"rms_norm_eps": 1e-6, "torch_dtype": "bfloat16", "max_position_embeddings": 2**18, "bos_token_id": 1,
          "eos_token_id": 2, "initializer_range": 0.02}  # fmt: skip
LLAMA = COMMON | {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "hidden_act": "silu",
    "rope_theta": 500000.0, "tie_word_embeddings": False, "num_hidden_layers": 8,
}  # fmt: skip
QWEN3_NEXT = COMMON | {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 2048,
    "intermediate_size": 5120, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "vocab_size": 151936, "hidden_act": "silu", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "decoder_sparse_step": 1,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10,
    "num_experts": 64, "norm_topk_prob": True, "full_attention_interval": 4, "num_hidden_layers": 8,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2, "mlp_only_layers": [],
}  # fmt: skip
QWEN3_5 = QWEN3_NEXT | {
    "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "hidden_size": 4096,
    "intermediate_size": 12288, "num_key_value_heads": 4, "num_experts": 0,
}  # fmt: skip
GEMMA3 = COMMON | {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 2560,
    "intermediate_size": 10240, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "vocab_size": 262208, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "sliding_window": 1024, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "tie_word_embeddings": True,
    "num_hidden_layers": 12, "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
    "sliding_window_pattern": 6,
}  # fmt: skip
GPT_OSS = COMMON | {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088, "sliding_window": 128,
    "num_local_experts": 32, "num_experts_per_tok": 4, "rms_norm_eps": 1e-5, "num_hidden_layers": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 4, "tie_word_embeddings": False, "swiglu_limit": 7.0,
    "rope_theta": 150000, "rope_scaling": {"rope_type": "yarn", "factor": 64.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                           "original_max_position_embeddings": 4096, "truncate": False},
}  # fmt: skip
# vLLM's default on Hopper is compiled on first use by a compiler that may be missing.
DELTA = {"gdn_prefill_backend": "triton"}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3-next": (QWEN3_NEXT, DELTA),
    "qwen3.5": (QWEN3_5, DELTA),
    "gemma3": (GEMMA3, {}),
    "gpt-oss": (GPT_OSS, {}),
    "fp8": (LLAMA, {"kv_cache_dtype": "fp8"}),
}
"""Config and arguments of vLLM."""

SHORT = 3000  # tokens of the prompts whose logprobs are compared


@contextmanager
def engine(arguments: argparse.Namespace, name: str, attention: str | None) -> Iterator[Any]:
    """An engine for a shape, with vLLM's own attention by default."""
    from vllm import LLM

    from sparse_tasks.attention.vllm import engine_arguments

    shape, options = SHAPES[name]
    given: dict[str, Any] = {} if attention is None else engine_arguments(attention, sparsity=0.9)
    given["worker_cls"] = f"serving_worker.{'DrawnWorker' if attention is None else 'DrawnSparseWorker'}"
    graphs = given.pop("compilation_config", {}) | {"cudagraph_capture_sizes": [arguments.batch]}
    given |= {"enforce_eager": True} if arguments.eager else {"compilation_config": graphs}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape))
        llm = LLM(
            model=folder, skip_tokenizer_init=True, load_format="dummy", seed=0, disable_log_stats=False,
            max_model_len=arguments.tokens + 1024, max_num_seqs=max(8, arguments.batch),
            max_num_batched_tokens=arguments.chunk, **(given | options | {"enable_prefix_caching": False}),
        )  # fmt: skip
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()


def answers(llm: Any) -> list[list[dict[int, float]]]:
    """Logprobs by place of greedy answers to short prompts, and the token of each, first."""
    from vllm import SamplingParams

    draw = random.Random(7)
    prompts = [{"prompt_token_ids": draw.choices(range(1000, 100000), k=n)} for n in (SHORT, SHORT // 7)]
    outputs = llm.generate(
        prompts, SamplingParams(temperature=0.0, max_tokens=8, logprobs=5, ignore_eos=True, detokenize=False),
        use_tqdm=False,
    )  # fmt: skip
    return [
        [{token: place[token].logprob} | {t: one.logprob for t, one in place.items()}
         for token, place in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)]
        for output in outputs
    ]  # fmt: skip


def apart(ours: list[list[dict[int, float]]], theirs: list[list[dict[int, float]]]) -> tuple[float, int]:
    """The largest difference of logprobs up to where tokens differ, and the number of equal tokens."""
    greatest, alike = 0.0, 0
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            greatest = max([greatest, *(abs(a[token] - b[token]) for token in a.keys() & b.keys())])
            if next(iter(a)) != next(iter(b)):
                break
            alike += 1
    return greatest, alike


def compare(arguments: argparse.Namespace, name: str) -> None:
    """Exactness and speed of a shape."""
    with engine(arguments, name, None) as llm:
        own = answers(llm)
        again, _ = apart(answers(llm), own)
        first, _ = first_token(llm, arguments.tokens, arguments.repeats)
        step, _ = decoding_step(llm, arguments, 1)
    print(f"{name}, {arguments.tokens:,} tokens, vLLM's own attention: first token {first * 1e3:,.0f} ms, a step of "
          f"{arguments.batch} requests {step:.2f} ms; asked again, logprobs differ by {again:.3g}",
          flush=True)  # fmt: skip
    with engine(arguments, name, "block_sparse+quest") as llm:
        print(f"  methods in {llm.collective_rpc('sparse_tasks_layers')[0]} of "
              f"{SHAPES[name][0]['num_hidden_layers']} layers; self-test "
              f"{llm.collective_rpc('sparse_tasks_tested')[0]}")  # fmt: skip
        for attention, sparsity in (("dense", None), ("quest", NOTHING), ("block_sparse+quest", NOTHING)):
            change(llm, attention, sparsity)
            difference, alike = apart(answers(llm), own)
            print(f"  {attention} at {sparsity or 0:.0f}: logprobs differ by {difference:.3g}, {alike} of 16 tokens "
                  "alike", flush=True)  # fmt: skip
        change(llm, "block_sparse+quest", 0.9)
        sparse, names = first_token(llm, arguments.tokens, arguments.repeats)
        ran = measured(llm, names, "prefill")
        print(f"  block_sparse at .9, measured {ran:.4f}: first token {sparse * 1e3:,.0f} ms, {first / sparse:.2f}x",
              flush=True)  # fmt: skip
        mine, ran = decoding_step(llm, arguments, 2, counted=True)
        print(f"  quest at .9, measured {ran:.4f}: a step {mine:.2f} ms, {step / mine:.2f}x", flush=True)


def tiles(arguments: argparse.Namespace) -> None:
    """Block-sparse prefill in Triton at head size 256, by the keys of a tile, against dense attention of PyTorch."""
    import torch
    from triton.testing import do_bench

    from sparse_tasks.attention.kernels.triton import block_sparse as kernel
    from sparse_tasks.attention.methods.block_sparse import BlockSparse

    torch.manual_seed(0)
    q = torch.randn(arguments.tokens, 16, 256, dtype=torch.bfloat16, device="cuda")
    k, v = (torch.randn(arguments.tokens, 2, 256, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    dense = do_bench(
        lambda: torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True), rep=400
    )
    index = BlockSparse(sparsity=0.9).select(q, k)
    density = float(index.density().mean())
    print(f"{arguments.tokens:,} tokens, 16 heads of 256, density {density:.3f}: PyTorch's dense {dense:.2f} ms")
    expected = None
    for keys in (32, 64):
        kernel.LARGE_HEAD_KEYS = keys
        out = kernel.block_sparse_triton(q, k, v, index, scale=256**-0.5)
        expected = out if expected is None else expected
        took = do_bench(lambda: kernel.block_sparse_triton(q, k, v, index, scale=256**-0.5), rep=400)
        rate = 4 * 256 * 16 * arguments.tokens**2 / 2 * density / took / 1e9
        print(f"  tiles of {keys} keys: {took:.2f} ms, {rate:,.0f} TFLOP/s, {dense / took:.2f}x dense; differs by "
              f"{float((out - expected).abs().max()):.2g}", flush=True)  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["shapes", "tiles"], default="shapes")
    parser.add_argument("--only", nargs="*", choices=SHAPES, help="shapes (default: all)")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--chunk", type=int, default=16384, help="tokens of a step at most")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2, help="of the first token")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs and no compilation, on both sides")
    arguments = parser.parse_args()
    if arguments.what == "tiles":
        tiles(arguments)
        return
    failed = []
    for name in arguments.only or SHAPES:
        try:
            compare(arguments, name)
        except Exception as error:  # a build of vLLM may lack what a shape needs; go on with the next
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
