"""Arguments that turn sparse attention on in ``vllm.LLM`` and ``vllm serve``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from sparse_tasks.attention.attention import DENSE, Attention
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject

KEY: Final = "sparse_tasks"
"""Our key of vLLM's ``additional_config``."""

CONTEXT: Final = "sparse_tasks_context"
"""Key of ``extra_args`` of a request: the tokens of its prompt after which methods that evict choose what they keep."""

BACKEND: Final = "CUSTOM"
WORKER: Final = "sparse_tasks.attention.vllm.worker.SparseWorker"
_PARTS: Final = ("attention", "sparsity", "arguments")


def engine_arguments(
    attention: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
) -> JsonObject:
    """Arguments of ``vllm.LLM`` for a method: ``LLM(model, **engine_arguments("quest", sparsity=0.9))``.

    They turn prefix caching off for methods that forbid it, and leave attention out of CUDA graphs.

    Args:
        attention: ``dense``, a method, or two for prefill and after it: ``vertical_slash+quest``.
        sparsity: Target of all methods, in [0, 1).
        arguments: ``METHOD.PARAMETER`` to a value.

    Raises:
        UsageError: A method or a parameter is unknown or wrong.
    """
    parsed = Attention.parse(attention, sparsity=sparsity, arguments=arguments)
    # Given as JSON, of which vLLM makes a hash.
    settings = {"attention": attention, "sparsity": sparsity, "arguments": dict(arguments or {})}
    given: JsonObject = {
        "attention_config": {"backend": BACKEND},
        "worker_cls": WORKER,
        "additional_config": {KEY: settings},
        "compilation_config": {"cudagraph_mode": "PIECEWISE"},
    }
    if any(method.unshared for method in parsed.methods):
        given["enable_prefix_caching"] = False
    return given


def serve_arguments(
    attention: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
) -> list[str]:
    """``engine_arguments`` as options of ``vllm serve MODEL``."""
    given = engine_arguments(attention, sparsity=sparsity, arguments=arguments)
    words = [
        *("--attention-backend", BACKEND, "--worker-cls", WORKER),
        *("--additional-config", json.dumps(given["additional_config"])),
        *("--compilation-config", json.dumps(given["compilation_config"])),
    ]
    return words if given.get("enable_prefix_caching", True) else [*words, "--no-enable-prefix-caching"]


def parse_attention(additional_config: object) -> Attention:
    """Attention that vLLM's ``additional_config`` names.

    Raises:
        UsageError: The attention, or its table, is missing or not valid.
    """
    settings = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if not isinstance(settings, Mapping) or "attention" not in settings:
        example = json.dumps({KEY: {"attention": "quest", "sparsity": 0.9}})
        raise UsageError("additional_config", additional_config, f"has to say which attention, as in {example}")
    if unknown := sorted(set(settings) - set(_PARTS)):
        raise UsageError(f"additional_config.{KEY}", unknown[0], f"is unknown; choose from {', '.join(_PARTS)}")
    name, sparsity, arguments = (settings.get(part) for part in _PARTS)
    if not isinstance(name, str):
        raise UsageError(f"additional_config.{KEY}.attention", name, f"has to be a name, {DENSE!r} or of a method")
    if sparsity is not None and (isinstance(sparsity, bool) or not isinstance(sparsity, int | float)):
        raise UsageError(f"additional_config.{KEY}.sparsity", sparsity, "has to be a number in [0, 1)")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UsageError(f"additional_config.{KEY}.arguments", arguments, "has to be a table of METHOD.PARAMETER")
    return Attention.parse(name, sparsity=sparsity, arguments=arguments)
