"""A worker of vLLM that replays whole steps on a CPU too, where a replay computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparse_tasks.attention.vllm.replay import Compute, Found, Recorder
from sparse_tasks.attention.vllm.worker import SparseWorker


class RecordingWorker(SparseWorker):
    played = 0

    def _join(self, recorder: Recorder | None) -> None:
        super()._join(self._record)
        if not self._sparse._whole:
            raise RuntimeError("this model is not recorded whole")

    def _record(self, compute: Compute[Found]) -> Compute[Found]:
        def play() -> Found:
            self.played += 1
            return compute()

        return play

    def sparse_tasks_take(self, requests: Sequence[str]) -> list[dict[str, Any] | None]:
        if not self.played:
            raise RuntimeError("no step was replayed")
        self.played = 0
        return super().sparse_tasks_take(requests)
