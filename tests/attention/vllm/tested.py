"""Self-tests of a real engine, in a process of their own: ``python -m ... MODEL RESULT FAULTS [DTYPE]``.

The result has what each test gave, or why it refuses the model. Faults are of ``FAULTS``, each made after the start.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from sparse_tasks.attention.vllm import engine_arguments
from sparse_tasks.core.errors import UsageError


def _attribute(name: str, value: Any) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        setattr(module.impl, name, value)

    return change


def _scale(module: Any) -> None:
    module.impl.scale *= 1.2


FAULTS: Final[dict[str, Callable[[Any], None]]] = {
    "none": lambda module: None,
    "scale": _scale,
    "window": _attribute("sliding_window", 300),
    "cap": _attribute("logits_soft_cap", 50.0),
    "sinks": lambda module: setattr(module.impl, "sinks", torch.zeros(module.impl.num_heads, dtype=torch.bfloat16)),
}


def unchecked() -> None:
    """Let everything through that checks refuse by name."""
    from sparse_tasks.attention.vllm import worker
    from sparse_tasks.attention.vllm.session import Session

    checked = Session.plan

    def plan(self: Session, layers: Any, metadata: Any, block_size: int) -> Any:
        return checked(self, layers, dataclasses.replace(metadata, causal=True), block_size)

    for name in ("check_config", "check_layer", "check_cache"):
        setattr(worker, name, lambda *given: None)
    Session.plan = plan  # type: ignore[method-assign]


def main(model: str, faults: str, dtype: str = "float32") -> dict[str, Any]:
    """Start an engine, make one fault after the other, and test."""
    unchecked()
    from vllm import LLM

    from sparse_tasks.attention.vllm.selftest import self_test
    from sparse_tasks.attention.vllm.session import SESSIONS

    try:
        llm: Any = LLM(
            model, max_model_len=512, seed=42, dtype=dtype, enforce_eager=True,
            **engine_arguments("vertical_slash+quest", sparsity=0.5),
        )  # fmt: skip
    except UsageError as error:
        return {"at_start": str(error)}
    found = {"at_start": llm.collective_rpc("sparse_tasks_tested")[0]}
    (session,) = SESSIONS
    modules = {name: module for name, module in session.modules.items() if name in session._layers}
    for name in faults.split(","):
        of = [dict(vars(module.impl)) for module in modules.values()]
        FAULTS[name](list(modules.values())[-1])
        begun = time.thread_time()  # others of torch's threads spin where the machine is busy
        try:
            found[name] = self_test(llm.llm_engine.vllm_config, session, modules, torch.device("cpu"))
        except UsageError as error:
            found[name] = str(error)
        found[f"{name} seconds"] = time.thread_time() - begun
        for module, before in zip(modules.values(), of, strict=True):
            vars(module.impl).update(before)
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(sys.argv[1], *sys.argv[3:])), encoding="utf-8")
