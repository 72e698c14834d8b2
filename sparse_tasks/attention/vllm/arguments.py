"""Arguments that turn sparse attention on in ``vllm.LLM`` and ``vllm serve``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sparse_tasks.attention.attention import DENSE, Attention, share_out, spell_out
from sparse_tasks.attention.method import Method, RepeatMethod
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject

KEY: Final = "sparse_tasks"
"""Our key of vLLM's ``additional_config``."""

CONTEXT: Final = "sparse_tasks_context"
"""Key of ``extra_args`` of a request: the tokens of its prompt after which methods that evict choose what they keep."""

SESSION: Final = "sparse_tasks_session"
"""Key of ``extra_args`` of a request: a name that requests share which go on behind one context.

The first of them, which has to read all of it, chooses there what methods that evict keep; the others go on from that.
"""

MARK: Final = "sparse_tasks_request"
"""Key of ``extra_args`` of a request: a name of the caller's, under which its counts can be taken."""

BACKEND: Final = "CUSTOM"
WORKER: Final = "sparse_tasks.attention.vllm.worker.SparseWorker"
MIDDLEWARE: Final = "sparse_tasks.attention.vllm.middleware.SparsityMiddleware"
CONNECTOR: Final = {
    "kv_connector": "FreeingConnector",
    "kv_connector_module_path": "sparse_tasks.attention.vllm.connector",
    "kv_role": "kv_producer",  # of a role that does not load: then blocks are free at once
}
"""vLLM's ``kv_transfer_config`` where its scheduler hears from the workers which blocks to free."""
_PARTS: Final = ("attention", "sparsity", "arguments", "choices", "free_blocks", "self_test", "sessions")

_STAYS: Final = (
    "a block is free once no layer and no head will read it; take a method by which all keep the same blocks "
    "(snapkv_blocks, knorm_blocks), or one that chooses by position: window_evict or window_decode, alone or after "
    "streaming_llm (streaming_llm+window_evict)"
)


@dataclass(frozen=True)
class Offer:
    """The attention of an engine, and what its requests may choose instead.

    Attributes:
        attention: The engine's own.
        choices: Attentions that requests may name, including the engine's, each with the sparsity that it has unless a
            request names another; empty if requests have no choice.
        free_blocks: Whether blocks of the cache that no later query sees go back to vLLM.
        sessions: Whether requests read cached prefixes only within a ``SESSION``, if a method otherwise forbids them.

    Raises:
        UsageError: A method does not run in vLLM.
    """

    attention: Attention
    choices: tuple[Attention, ...] = ()
    free_blocks: bool = False
    sessions: bool = False

    def __post_init__(self) -> None:
        for method in self.methods:
            if isinstance(method, RepeatMethod):
                remedy = (
                    "has the model read each prompt a second time before it evicts, which vLLM does not do within a "
                    "request; take --engine transformers, or another method"
                )
                raise UsageError("attention", method.name, remedy)

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods of all choices, possibly with duplicates."""
        return tuple(method for each in (self.attention, *self.choices) for method in each.methods)

    @property
    def reports(self) -> bool:
        """Whether workers report which blocks go back, since that depends on what the blocks contain."""
        return self.free_blocks and self.attention.agrees

    def forbids_prefixes(self, method: Method) -> bool:
        """Whether a method rules out prefix caching."""
        return method.unshared is not None and not (self.sessions and method.shared_in_sessions)

    def check_devices(self, size: int) -> None:
        """Refuse tensor parallelism with a calibrated method.

        Args:
            size: vLLM's ``tensor_parallel_size``.

        Raises:
            UsageError: Devices have only some of the heads of a calibration.
        """
        for method in self.methods if size > 1 else ():
            if getattr(method, "calibration", None) is not None:
                raise UsageError(
                    "tensor_parallel_size",
                    size,
                    f"gives each device only some of the heads, but the calibration of {method.name} covers all; leave "
                    "tensor_parallel_size out, or take a method without a calibration",
                )

    def check_context(self, extra: Mapping[str, object]) -> None:
        """Refuse a request, by its ``extra_args``, whose context ends before its prompt, if that is not supported.

        A cache that frees blocks knows where prompts end, and nothing else about requests. Layers that choose together
        must all have read what they choose from.

        Raises:
            UsageError: It is one.
        """
        if CONTEXT not in extra:
            return
        if self.free_blocks:
            raise UsageError(
                CONTEXT, extra[CONTEXT], "cannot be combined with free_blocks: blocks are freed by whole prompts"
            )
        for attention in (self.attention, *self.choices):
            attention.check_context(CONTEXT, extra[CONTEXT])

    def choose(self, attention: object = None, sparsity: object = None) -> Attention:
        """The attention of a request.

        Args:
            attention: A name, as the request has it; None for the engine's own.
            sparsity: Target, in [0, 1), as the request has it; None for the engine's.

        Raises:
            UsageError: It is not among the choices, or takes no such sparsity.
        """
        if attention is None and sparsity is None:
            return self.attention
        if not self.choices:
            given = ("sparsity", sparsity) if attention is None else ("attention", attention)
            remedy = (
                "cannot be chosen by a request here; start the server with sparse-tasks serve, without --free-blocks"
            )
            raise UsageError(*given, remedy)
        name = self.attention.method if attention is None else attention
        if name == DENSE:
            return Attention.parse(DENSE, sparsity=sparsity)  # type: ignore[arg-type]  # which is checked there
        able = {each.method: each for each in self.choices}
        if not isinstance(name, str) or spell_out(name) not in able:
            names = ", ".join(dict.fromkeys([DENSE, *able]))
            raise UsageError("attention", name, f"is not one of the methods of this server; choose from {names}")
        own = able[spell_out(name)]
        if sparsity is None:
            return own
        return Attention.parse(own.method, sparsity=sparsity, arguments=own.arguments)  # type: ignore[arg-type]


def engine_arguments(
    attention: str,
    *,
    sparsity: float | None = None,
    arguments: Mapping[str, object] | None = None,
    choices: Sequence[str] = (),
    free_blocks: bool = False,
    self_test: bool = True,
    sessions: bool = False,
) -> JsonObject:
    """Arguments of ``vllm.LLM`` for a method: ``LLM(model, **engine_arguments("quest", sparsity=0.9))``.

    They turn prefix caching off for methods that forbid it, and leave attention out of CUDA graphs.

    Args:
        attention: ``dense``, a method, or two for prefill and after it: ``vertical_slash+quest``.
        sparsity: Target of all methods, in [0, 1).
        arguments: ``METHOD.PARAMETER`` to a value.
        choices: Methods that a request may name in ``extra_args`` (``attention`` and ``sparsity``); the engine's own
            is among them. None: requests have no choice.
        free_blocks: Whether blocks of the cache that no later query sees go back to vLLM, for other requests to take.
        self_test: Whether layers are compared with vLLM's own attention at the start, which fails if they differ.
        sessions: Whether prefix caching stays on with methods that choose once where a context ends. Then requests say
            ``skip_reading_prefix_cache``, unless an earlier one had their ``SESSION``.

    Raises:
        UsageError: A method or a parameter is unknown or wrong.
    """
    # Given as JSON, of which vLLM makes a hash.
    settings: JsonObject = {"attention": attention, "sparsity": sparsity, "arguments": dict(arguments or {})}
    if choices:
        settings["choices"] = list(choices)
    if free_blocks:
        settings["free_blocks"] = True
    if not self_test:
        settings["self_test"] = False
    if sessions:
        settings["sessions"] = True
    offer = parse_offer({KEY: settings})
    given: JsonObject = {
        "attention_config": {"backend": BACKEND},
        "worker_cls": WORKER,
        "additional_config": {KEY: settings},
        "compilation_config": {"cudagraph_mode": "PIECEWISE"},
    }
    if any(map(offer.forbids_prefixes, offer.methods)):
        given["enable_prefix_caching"] = False
    if offer.reports:
        given["kv_transfer_config"] = dict(CONNECTOR)
    return given


def serve_arguments(
    attention: str,
    *,
    sparsity: float | None = None,
    arguments: Mapping[str, object] | None = None,
    choices: Sequence[str] = (),
    free_blocks: bool = False,
    self_test: bool = True,
    tensor_parallel_size: int = 1,
) -> list[str]:
    """``engine_arguments`` as options of ``vllm serve MODEL``, whose answers say what was left out.

    The arguments are the same, and the server's ``tensor_parallel_size``, which is checked and not among the options.

    Raises:
        UsageError: A method or a parameter is unknown or wrong, or a method does not go with tensor parallelism.
    """
    given = engine_arguments(
        attention,
        sparsity=sparsity,
        arguments=arguments,
        choices=choices,
        free_blocks=free_blocks,
        self_test=self_test,
    )
    parse_offer(given["additional_config"]).check_devices(tensor_parallel_size)
    words = [
        *("--attention-backend", BACKEND, "--worker-cls", WORKER),
        *("--additional-config", json.dumps(given["additional_config"])),
        *("--compilation-config", json.dumps(given["compilation_config"])),
        *("--middleware", MIDDLEWARE),
    ]
    if (connector := given.get("kv_transfer_config")) is not None:
        words += ["--kv-transfer-config", json.dumps(connector)]
    return words if given.get("enable_prefix_caching", True) else [*words, "--no-enable-prefix-caching"]


def parse_offer(additional_config: object) -> Offer:
    """Attention that vLLM's ``additional_config`` names, with what requests may choose.

    Raises:
        UsageError: The attention, or its table, is missing or not valid.
    """
    settings = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if not isinstance(settings, Mapping) or "attention" not in settings:
        example = json.dumps({KEY: {"attention": "quest", "sparsity": 0.9}})
        raise UsageError("additional_config", additional_config, f"has to name an attention, as in {example}")
    if unknown := sorted(set(settings) - set(_PARTS)):
        raise UsageError(f"additional_config.{KEY}", unknown[0], f"is unknown; choose from {', '.join(_PARTS)}")
    name, sparsity, arguments, choices, *_ = (settings.get(part) for part in _PARTS)
    free_blocks, sessions = (_flag(settings, part, False) for part in ("free_blocks", "sessions"))
    if not isinstance(name, str):
        raise UsageError(f"additional_config.{KEY}.attention", name, f"has to be a name, {DENSE!r} or of a method")
    if sparsity is not None and (isinstance(sparsity, bool) or not isinstance(sparsity, int | float)):
        raise UsageError(f"additional_config.{KEY}.sparsity", sparsity, "has to be a number in [0, 1)")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UsageError(f"additional_config.{KEY}.arguments", arguments, "has to be a table of METHOD.PARAMETER")
    if not choices:
        attention = Attention.parse(name, sparsity=sparsity, arguments=arguments)
        if free_blocks and not attention.frees:
            raise UsageError("free_blocks", True, f"does not go with {name}: {_STAYS}")
        return Offer(attention, free_blocks=free_blocks, sessions=sessions)
    if free_blocks:
        raise UsageError("free_blocks", True, "needs one attention for all requests; leave choices out")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UsageError(f"additional_config.{KEY}.choices", choices, "has to be a list of names")
    named = list(dict.fromkeys([name, *choices]))
    able = tuple(
        Attention.parse(each, sparsity=0.0 if each == DENSE else sparsity, arguments=given)
        for each, given in zip(named, share_out(arguments or {}, named), strict=True)
    )
    return Offer(able[0], able, sessions=sessions)


def parse_self_test(additional_config: Mapping[str, Any]) -> bool:
    """Whether vLLM's ``additional_config``, already read by ``parse_offer``, enables the self-test.

    Raises:
        UsageError: It is neither true nor false.
    """
    return _flag(additional_config[KEY], "self_test", True)


def _flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    given = settings.get(name, default)
    if not isinstance(given, bool):
        raise UsageError(f"additional_config.{KEY}.{name}", given, "has to be true or false")
    return given
