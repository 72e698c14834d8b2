"""vLLM workers for models with random weights; those of ``serving.py`` time attention and can disable counting."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.v1.worker.gpu_worker import Worker

from sparse_tasks.attention.vllm.worker import SparseWorker


class Drawn:
    """Draws weights anew: vLLM's own random ones are so small that attention hardly changes an answer."""

    def load_model(self, *arguments: Any, **options: Any) -> None:
        super().load_model(*arguments, **options)
        draw = torch.Generator(self.device).manual_seed(self.rank)
        for name, weights in self.get_model().named_parameters():
            if weights.dim() > 1 and weights.dtype.itemsize > 1:
                weights.data.normal_(0, weights.shape[-1] ** -0.5, generator=draw)
            elif "norm" in name:
                weights.data.fill_(1)


class DrawnWorker(Drawn, Worker):
    """vLLM's own."""


class DrawnSparseWorker(Drawn, SparseWorker):
    """The one of sparse attention."""


class ReplayWorker(SparseWorker):
    """A worker that can disable replays of whole steps."""

    def replay(self, on: bool) -> None:
        """Whether steps are recorded and replayed."""
        self._sparse._whole = on


class Timed(Drawn):
    """Records an event before and after each layer's attention, including the cache write."""

    def load_model(self, *arguments: Any, **options: Any) -> None:
        super().load_model(*arguments, **options)
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] | None = None
        for module in self.vllm_config.compilation_config.static_forward_context.values():
            if isinstance(module, Attention):
                for name in ("do_kv_cache_update", "forward"):
                    setattr(module.impl, name, self._timed(getattr(module.impl, name)))

    def _timed(self, method: MethodType) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            if self.events is None:
                return method(*arguments, **options)
            before, after = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
            before.record()
            result = method(*arguments, **options)
            after.record()
            self.events.append((before, after))
            return result

        return run

    def time_attention(self, on: bool) -> None:
        """Set whether calls are timed; graphs contain the events, so steps are recorded anew."""
        self.events = [] if on else None
        self._sparse.forget_graphs()

    def timed_attention(self) -> list[float]:
        """Milliseconds of each call that ran or was recorded so far; of a recorded one, the last time it ran."""
        torch.cuda.synchronize()
        return [before.elapsed_time(after) for before, after in self.events or []]


class TimedWorker(Timed, Worker):
    """vLLM's own."""


class TimedSparseWorker(Timed, SparseWorker):
    """The one of sparse attention."""

    def count(self, on: bool) -> None:
        """Whether interactions are counted."""
        counter = self._sparse.counter
        for name in ("prompt", "steps", "end", "finish"):
            if on:
                delattr(counter, name)
            else:
                setattr(counter, name, lambda *arguments, **options: None)


__all__ = ["DrawnSparseWorker", "DrawnWorker", "ReplayWorker", "TimedSparseWorker", "TimedWorker"]
