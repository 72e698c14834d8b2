"""How sparse attention is asked of vLLM, from Python and on the command line of ``vllm serve``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sparse_tasks.attention.attention import DENSE, Attention
from sparse_tasks.core.errors import UsageError

__all__ = ["BACKEND", "KEY", "WORKER", "asked_of", "engine_arguments", "serve_arguments"]

KEY: Final = "sparse_tasks"
"""Of vLLM's ``additional_config``."""

BACKEND: Final = "CUSTOM"
WORKER: Final = "sparse_tasks.attention.vllm.worker.SparseWorker"
_PARTS: Final = ("attention", "sparsity", "arguments")


def engine_arguments(
    attention: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """What ``vllm.LLM`` needs to run a method: ``LLM(model, **engine_arguments("quest", sparsity=0.9))``.

    Prefix caching is turned off for methods that forbid it, and CUDA graphs leave attention out.

    Args:
        attention: ``dense``, a method, or one for prefill and one for what follows: ``vertical_slash+quest``.
        sparsity: For all of them, in [0, 1).
        arguments: ``METHOD.PARAMETER`` to a value.

    Raises:
        UsageError: A method or a parameter is unknown or wrong.
    """
    found = Attention.parse(attention, sparsity=sparsity, arguments=arguments)
    # vLLM makes a hash of it, from JSON; parameters are read again from their texts.
    asked = {"attention": attention, "sparsity": sparsity, "arguments": dict(arguments or {})}
    given: dict[str, Any] = {
        "attention_config": {"backend": BACKEND},
        "worker_cls": WORKER,
        "additional_config": {KEY: asked},
        "compilation_config": {"cudagraph_mode": "PIECEWISE"},
    }
    if any(method.unshared for method in found.methods):
        given["enable_prefix_caching"] = False
    return given


def serve_arguments(
    attention: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
) -> list[str]:
    """The same for the command line: what follows ``vllm serve MODEL``."""
    given = engine_arguments(attention, sparsity=sparsity, arguments=arguments)
    words = [
        *("--attention-backend", BACKEND, "--worker-cls", WORKER),
        *("--additional-config", json.dumps(given["additional_config"])),
        *("--compilation-config", json.dumps(given["compilation_config"])),
    ]
    return words if given.get("enable_prefix_caching", True) else [*words, "--no-enable-prefix-caching"]


def asked_of(additional_config: object) -> Attention:
    """The methods that vLLM's ``additional_config`` asks for.

    Raises:
        UsageError: It asks for none, or for something else.
    """
    asked = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if not isinstance(asked, Mapping) or "attention" not in asked:
        example = json.dumps({KEY: {"attention": "quest", "sparsity": 0.9}})
        raise UsageError("additional_config", additional_config, f"has to say which attention, as in {example}")
    if unknown := sorted(set(asked) - set(_PARTS)):
        raise UsageError(f"additional_config.{KEY}", unknown[0], f"is unknown; choose from {', '.join(_PARTS)}")
    name, sparsity, arguments = (asked.get(part) for part in _PARTS)
    if not isinstance(name, str):
        raise UsageError(f"additional_config.{KEY}.attention", name, f"has to be a name, {DENSE!r} or of a method")
    if sparsity is not None and (isinstance(sparsity, bool) or not isinstance(sparsity, int | float)):
        raise UsageError(f"additional_config.{KEY}.sparsity", sparsity, "has to be a number in [0, 1)")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UsageError(f"additional_config.{KEY}.arguments", arguments, "has to be a table of METHOD.PARAMETER")
    return Attention.parse(name, sparsity=sparsity, arguments=arguments)
