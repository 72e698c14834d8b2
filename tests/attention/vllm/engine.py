"""What ``test_engine.py`` has a real engine do, in a process of its own: ``python engine.py SCENARIO IN OUT``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from sparse_tasks.attention.vllm import engine_arguments

Asked = dict[str, Any]


def sparse_engine(attention: str, options: dict[str, Any], **of_method: Any) -> Any:
    from vllm import LLM

    return LLM(**(engine_arguments(attention, **of_method) | options))


def change(llm: Any, attention: str, sparsity: float | None = None, arguments: dict[str, Any] | None = None) -> None:
    asked = {"attention": attention, "sparsity": sparsity, "arguments": arguments or {}}
    llm.collective_rpc("sparse_tasks_change", args=(asked,))


def answers(llm: Any, prompts: list[Any], tokens: int, sparse: bool = True) -> list[Asked]:
    """Greedy answers, with what ran."""
    from vllm import SamplingParams

    given = [{"prompt_token_ids": prompt} if isinstance(prompt, list) else prompt for prompt in prompts]
    outputs = llm.generate(given, SamplingParams(temperature=0.0, max_tokens=tokens, logprobs=5), use_tqdm=False)
    names = [output.request_id for output in outputs]
    ranks = llm.collective_rpc("sparse_tasks_take", args=(names,)) if sparse else [[None] * len(names)]
    return [
        {
            "text": output.outputs[0].text,
            "ids": list(output.outputs[0].token_ids),
            "logprobs": [{str(k): v.logprob for k, v in one.items()} for one in output.outputs[0].logprobs],
            "cached": output.num_cached_tokens,
            "ran": [summary(one) for one in taken if one is not None],
        }
        for output, *taken in zip(outputs, *ranks, strict=True)
    ]


def summary(taken: dict[str, Any]) -> dict[str, Any]:
    return {
        phase: {
            "sparsity": 1 - fmean(one["densities"]),
            "heads": len(one["densities"]),
            "kv_bytes": one.get("kv_bytes"),
        }
        for phase, one in taken.items()
    }


def own(asked: Asked) -> Any:
    """VLLM's own attention."""
    from vllm import LLM

    llm = LLM(**asked["options"])
    return answers(llm, asked["prompts"], asked["tokens"], sparse=False)


def methods(asked: Asked) -> Any:
    """One engine, all that is listed, one after the other."""
    llm = sparse_engine("vertical_slash+quest", asked["options"])
    done = []
    for one in asked["runs"]:
        change(llm, **one["attention"])
        done.append(answers(llm, one["prompts"], one["tokens"]))
    return done


def preempted(asked: Asked) -> Any:
    """The same, and how many preemptions there were after each."""
    llm = sparse_engine("vertical_slash+quest", asked["options"] | {"disable_log_stats": False})
    done = []
    for one in asked["runs"]:
        change(llm, **one["attention"])
        found = answers(llm, one["prompts"], one["tokens"])
        times = [metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions"]
        done.append({"answers": found, "preempted": sum(times)})
    return done


def single(asked: Asked) -> Any:
    """One method."""
    llm = sparse_engine(asked["attention"], asked["options"], sparsity=asked.get("sparsity"))
    return [answers(llm, prompts, asked["tokens"]) for prompts in asked["batches"]]


SCENARIOS: dict[str, Callable[[Asked], Any]] = {
    "own": own,
    "methods": methods,
    "preempted": preempted,
    "single": single,
}

if __name__ == "__main__":
    scenario, given, result = sys.argv[1:]
    Path(result).write_text(json.dumps(SCENARIOS[scenario](json.loads(Path(given).read_text()))))
