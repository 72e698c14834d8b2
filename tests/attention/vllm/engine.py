"""Real engines of ``test_engine.py``, one after the other in a process of their own: ``python -m ... PLAN RESULT``.

A plan has ``models`` to make and ``engines`` to start, each with ``runs``; the result has the answers of each run.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from sparse_tasks.attention.vllm import engine_arguments
from sparse_tasks.attention.vllm.arguments import KEY

Json = dict[str, Any]


def random_model(folder: str, kind: str, config: str, settings: Json, tokenizer: str) -> None:
    """A model of random weights, with the tokenizer of another one."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    for module in model.modules():
        if hasattr(module, "sinks"):  # some of which outweigh most keys
            module.sinks.data = torch.linspace(-3, 6, len(module.sinks))
    model.to(torch.bfloat16).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def work(engine: Json) -> Json:
    """Start an engine, do its runs, and stop it."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    sparse = engine["attention"] is not None
    arguments = engine_arguments(**engine["attention"]) if sparse else {}
    llm = LLM(**(arguments | engine["options"] | {"disable_log_stats": False}))
    done = {}
    for name, run in engine["runs"].items():
        if "attention" in run:
            llm.reset_prefix_cache()
            llm.collective_rpc(
                "sparse_tasks_change",
                args=(engine_arguments(**run["attention"], self_test=False)["additional_config"][KEY],),
            )
        before = counts(llm)
        leaves = {int(number): tokens for number, tokens in run.get("leaves", {}).items()}
        answers = answer(llm, run["prompts"], run["tokens"], sparse, leaves)
        done[name] = {"answers": answers} | {key: after - before[key] for key, after in counts(llm).items()}
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return done


def counts(llm: Any) -> dict[str, int]:
    """Preemptions, and tokens of drafts, by vLLM's own counters."""
    names = {
        "preempted": "vllm:num_preemptions",
        "drafted": "vllm:spec_decode_num_draft_tokens",
        "accepted": "vllm:spec_decode_num_accepted_tokens",
    }
    metrics = llm.get_metrics()
    return {key: sum(metric.value for metric in metrics if metric.name == name) for key, name in names.items()}


def answer(llm: Any, prompts: list[list[int]], tokens: int, sparse: bool, leaves: dict[int, int]) -> list[Json]:
    """Greedy answers, with what ran for each; clients of some leave after so many tokens."""
    from vllm import SamplingParams

    given = [{"prompt_token_ids": prompt} for prompt in prompts]
    parameters = SamplingParams(temperature=0.0, max_tokens=tokens, logprobs=5, ignore_eos=True)
    if leaves:
        outputs = step_by_step(llm.llm_engine, given, parameters, leaves)
    else:
        outputs = llm.generate(given, parameters, use_tqdm=False)
    names = [output.request_id for output in outputs]
    ranks = llm.collective_rpc("sparse_tasks_take", args=(names,)) if sparse else [[None] * len(names)]
    return [
        {
            "text": output.outputs[0].text,
            "ids": list(output.outputs[0].token_ids),
            "logprobs": [{str(k): v.logprob for k, v in place.items()} for place in output.outputs[0].logprobs],
            "cached": output.num_cached_tokens or 0,
            "ran": [summary(phases) for phases in taken if phases is not None],
        }
        for output, *taken in zip(outputs, *ranks, strict=True)
    ]


def step_by_step(engine: Any, prompts: list[Json], parameters: Any, leaves: dict[int, int]) -> list[Any]:
    """Outputs of requests, some of which are aborted once they have so many tokens."""
    for number, prompt in enumerate(prompts):
        engine.add_request(f"left-{number}", prompt, parameters)
    outputs = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            outputs[number := int(output.request_id.removeprefix("left-"))] = output
            if not output.finished and len(output.outputs[0].token_ids) >= leaves.get(number, parameters.max_tokens):
                engine.abort_request([output.request_id])
    return [outputs[number] for number in range(len(prompts))]


def summary(phases: Json) -> Json:
    return {
        phase: {
            "sparsity": 1 - fmean(counts["densities"]),
            "heads": len(counts["densities"]),
            "kv_bytes": counts.get("kv_bytes"),
        }
        for phase, counts in phases.items()
    }


if __name__ == "__main__":
    plan, result = (Path(path) for path in sys.argv[1:])
    asked = json.loads(plan.read_text())
    for model in asked["models"]:
        random_model(**model)
    Path(result).write_text(json.dumps({name: work(engine) for name, engine in asked["engines"].items()}))
