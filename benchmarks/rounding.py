"""Where bfloat16 and sparsity 0 part from vLLM's own attention: rounding, or a mistake.

    python benchmarks/rounding.py [--model M] [--layers 8]

Runs on a CPU, in some minutes. Both attentions are compared with float64 on the same queries, keys and values, and
their logprobs in bfloat16 with those of float32: with a bug, ours would be farther from the truth than vLLM's own. Ours
is the plugin's dense attention, and methods with a budget for everything (whole).
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from torch import Tensor

PROMPTS, TOKENS, WRITTEN = 4, 120, 24
TEXT = "The grass is green. The sky is blue. The sun is yellow. {} people went there and {} came back. Here we go. "


@contextmanager
def engine(model: str, dtype: str, attention: str | None) -> Iterator[Any]:
    """An engine, with vLLM's own attention by default."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    from sparse_tasks.attention.vllm import engine_arguments

    given: dict[str, Any] = {} if attention is None else engine_arguments(attention, sparsity=1e-300)
    llm = LLM(
        model=model, dtype=dtype, max_model_len=512, seed=0, enforce_eager=True,
        **(given | {"enable_prefix_caching": False}),
    )  # fmt: skip
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def answers(llm: Any, prompts: list[list[int]], *, together: bool = True) -> list[Any]:
    """Greedy answers with logprobs, of prompts in one batch or one by one."""
    from vllm import SamplingParams

    asked = SamplingParams(temperature=0, max_tokens=WRITTEN, prompt_logprobs=0, logprobs=2, ignore_eos=True)
    batches = [prompts] if together else [[prompt] for prompt in prompts]
    given = [[{"prompt_token_ids": prompt} for prompt in batch] for batch in batches]
    return [output for batch in given for output in llm.generate(batch, asked, use_tqdm=False)]


def logprobs(output: Any) -> Tensor:
    """Logprobs of the prompt's tokens."""
    places = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return torch.tensor([place[token].logprob for token, place in places])


def compare(name: str, ours: list[Any], theirs: list[Any]) -> None:
    """Print how far two sets of answers are apart."""
    apart = torch.cat([logprobs(a) - logprobs(b) for a, b in zip(ours, theirs, strict=True)]).abs()
    gaps = [gap(a.outputs[0], b.outputs[0]) for a, b in zip(ours, theirs, strict=True)]
    other = [gap for gap in gaps if gap is not None]
    reported = f", {len(other)} of {len(gaps)} write other tokens" + (
        f", of which the first two were {max(other):.3f} apart at most" if other else ""
    )
    print(
        f"{name:44} logprobs differ by {apart.mean():.5f} on average, {apart.max():.5f} at most{reported}", flush=True
    )


def gap(a: Any, b: Any) -> float | None:
    """Difference in logprob of the two likeliest tokens where two answers first differ; None if they do not."""
    for one, other, place in zip(a.token_ids, b.token_ids, a.logprobs, strict=True):
        if one != other:
            best, second = sorted((token.logprob for token in place.values()), reverse=True)[:2]
            return float(best - second)
    return None


def layers(llm: Any, name: str) -> None:
    """Print how far the outputs of layers are from float64, and from each other."""
    from sparse_tasks.attention.vllm import selftest
    from sparse_tasks.attention.vllm.session import session_of

    config = llm.llm_engine.vllm_config
    session: Any = session_of(config)
    modules = {name: session.modules[name] for name in session._layers}
    truth: list[Tensor] = []
    of, outputs = selftest._difference, selftest._outputs

    def remembered(module: Any, q: Tensor, step: Any, *rest: Any, sparse: bool) -> Tensor:
        truth[:] = [exact(module.impl.scale, q, step)]
        return outputs(module, q, step, *rest, sparse=sparse)

    def difference(ours: Tensor, theirs: Tensor) -> float:
        found.append([of(ours, *truth), of(theirs, *truth), of(ours, theirs)])
        return 0.0

    found: list[list[float]] = []
    selftest._outputs, selftest._difference = remembered, difference
    try:
        selftest.self_test(config, session, modules, torch.device("cpu"))
    finally:
        selftest._outputs, selftest._difference = outputs, of
    ours, theirs, apart = torch.tensor(found).amax(0).tolist()
    print(f"{name:44} outputs differ from float64 by {ours:.2g} (ours) and {theirs:.2g} (vLLM's), "
          f"from each other by {apart:.2g}", flush=True)  # fmt: skip


def exact(scale: float, q: Tensor, step: Any) -> Tensor:
    """Attention of a step of the self-test in float64."""
    parts, done = [], 0
    for part in step:
        count, k, v = part.end - part.start, part.of.k[: part.end].double(), part.of.v[: part.end].double()
        queries, group = q[done : done + count].double(), q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        hidden = torch.arange(part.end) > torch.arange(part.start, part.end)[:, None]
        scores = (torch.einsum("qhd,khd->hqk", queries, k) * scale).masked_fill(hidden, -torch.inf)
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
        done += count
    return torch.cat(parts)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model; the demo model unless it is given")
    parser.add_argument("--layers", type=int, default=0, help="as many layers of it; all unless it is given")
    arguments = parser.parse_args()
    from sparse_tasks.core.tokenizers import load_tokenizer
    from sparse_tasks.evaluators.demo import demo_model
    from tests.vllm_server import first_layers

    model = Path(arguments.model) if arguments.model else demo_model()
    encode = load_tokenizer(str(model), "none").ids
    prompts = [encode("".join(TEXT.format(n + i, n * i) for i in range(9)))[:TOKENS] for n in range(2, 2 + PROMPTS)]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.layers:
            model = first_layers(model, Path(folder) / "model", arguments.layers)
        found: dict[str, list[Any]] = {}
        for dtype in ("float32", "bfloat16"):
            with engine(str(model), dtype, None) as llm:
                found[f"vLLM {dtype}"] = answers(llm, prompts)
                found[f"vLLM {dtype} alone"] = answers(llm, prompts, together=False)
        for dtype in ("float32", "bfloat16"):
            with engine(str(model), dtype, "vertical_slash+quest") as llm:
                layers(llm, f"layers, {dtype}")
                found[f"whole {dtype}"] = answers(llm, prompts)
                llm.collective_rpc("sparse_tasks_change", args=({"attention": "dense"},))
                found[f"dense {dtype}"] = answers(llm, prompts)
    truth = found["vLLM float32"]
    for name, outputs in found.items():
        compare(f"{name} / vLLM float32", outputs, truth)
    for name in ("vLLM bfloat16 alone", "dense bfloat16", "whole bfloat16"):
        compare(f"{name} / vLLM bfloat16", found[name], found["vLLM bfloat16"])


if __name__ == "__main__":
    main()
