"""An engine for tests that can be pickled for another process, unlike classes inside tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable

from sparse_tasks.core.errors import EngineError
from sparse_tasks.evaluators.engines.engine import Engine, Output, Request


class PlacedEngine(Engine):
    """Answers with its process and what of the machine it sees; arguments say how it fails."""

    name = "placed"
    takes_ids = False
    loaded: str | None = None

    def context(self) -> int | None:
        return None

    def start(self, needed: int) -> None:
        if self.settings.arguments.get("starts") == "not":
            raise EngineError("no start")
        self.loaded = f"{os.getpid()}, {needed}"

    def take_over(self, running: Engine, needed: int) -> bool:
        self.loaded = getattr(running, "loaded", None)
        return self.settings.arguments.get("alone") is None

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        for request in requests:
            if request.id == self.settings.arguments.get("dies at"):
                os.kill(os.getpid(), signal.SIGKILL)
            if (once := self.settings.arguments.get("dies once")) and not os.path.exists(once):
                os.mkdir(once)
                os.kill(os.getpid(), signal.SIGKILL)
            if request.id == self.settings.arguments.get("fails at"):
                raise EngineError("fell over")
            if request.id == self.settings.arguments.get("breaks at"):
                raise LookupError("not there")
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
            yield Output(request.id, f"{os.getpid()}; {self.loaded}; {gpus}", "stop")

    def version(self) -> str | None:
        return "1"
