"""Runs inspect_ai on a data set on the Hub, in a separate process, like ``inspect eval hf/ORG/NAME``.

Reads from standard input what a mock model says to each prompt, and prints what inspect makes of it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from inspect_ai import eval as evaluate
from inspect_ai.model import ModelOutput, ModelUsage, get_model


def main(task: str, logs: str) -> None:
    says: dict[str, str] = json.load(sys.stdin)
    budgets: set[int | None] = set()

    def reply(messages: list[Any], tools: object, choice: object, config: Any) -> ModelOutput:
        budgets.add(config.max_tokens)
        output = ModelOutput.from_content("mockllm/model", says[messages[-1].text])
        # Without it, inspect counts tokens by a vocabulary that it fetches.
        output.usage = ModelUsage(input_tokens=0, output_tokens=0, total_tokens=0)
        return output

    model = get_model("mockllm/model", custom_outputs=reply)
    done = evaluate(task, model=model, log_dir=logs, display="none", log_format="json")
    found = {}
    for log in done:
        if log.status != "success" or log.results is None:
            sys.exit(f"{log.eval.task}: {log.status} {log.error}")
        score = log.results.scores[0]
        found[log.eval.task] = {
            "scorer": score.scorer,
            "accuracy": score.metrics["accuracy"].value,
            "samples": log.results.completed_samples,
            "ids": [sample.metadata["id"] for sample in log.samples or []],
        }
    sys.stdout.write("\n" + json.dumps({"tasks": found, "budgets": sorted(budgets, key=str)}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
