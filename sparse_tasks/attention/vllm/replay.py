"""CUDA graphs of decoding, where launching kernels can take longer than they run.

vLLM's own graphs leave attention out (PIECEWISE). While the same number of requests decodes, the model does the same at
every step with tensors at the same places: that is recorded once and then replayed. It is recorded whole, or layer by
layer where vLLM computes layers that cannot be recorded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from sparse_tasks.attention.vllm.plan import Steps


class Result(Protocol):
    """What a computation returns, in tensors that its graph writes each time."""

    def nbytes(self) -> int:
        """Bytes of lists that its graph holds."""


Found = TypeVar("Found", bound=Result)
Compute: TypeAlias = Callable[[], Found]


class Recorder(Protocol):
    """Records a computation without running it, and returns its replay with the same tensors."""

    def __call__(self, compute: Compute[Found]) -> Compute[Found]: ...


PATIENCE: Final = 4
"""Steps of one kind in a row after which the next is recorded."""

KEPT: Final = 4
"""Kinds of steps that keep their graphs."""

ROOM: Final = 2**26
"""Bytes of lists that the graphs of a step may hold in all layers; longer lists run longer than launches take."""

MODEL: Final = -1
"""Number of the whole model, in place of a layer's."""

_Round: TypeAlias = dict[int, tuple[tuple[object, ...], Compute[Any]]]
"""Graphs of one kind of steps, by layer, each with the places of its tensors and the values it was recorded with.

They share memory, so they are recorded in one step and replayed in their order; counts last to the end of the step.
"""


class Replays:
    """Decides at each step whether the model, or its layers, compute, record or replay.

    Args:
        recorder: Records a computation.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._rounds: OrderedDict[Hashable, _Round] = OrderedDict()
        self._steps: Steps | None = None
        self._kind: Hashable = None
        self._alike = 0  # steps of this kind in a row
        self._bytes = 0  # of the lists that this step made without a graph
        self._records = False
        self._round: _Round | None = None

    def run(self, steps: Steps, layer: int, used: tuple[object, ...], compute: Compute[Found]) -> Found:
        """Compute a layer's step, or replay its graph.

        Args:
            steps: The decoding, the same object for all layers of a step.
            layer: Number of the layer, or ``MODEL``.
            used: All tensors that are read and written, apart from the table and the lengths, and values that decide
                what is launched, which are compared.
            compute: The computation; must not wait for the device.
        """
        if steps is not self._steps:
            self._begin(steps)
        if self._round is None:
            found = compute()
            self._bytes += found.nbytes()
            return found
        places = tuple(_place(one) if isinstance(one, Tensor) else one for one in used)
        if self._records:
            graph = self._recorder(compute)
            self._round[layer] = places, graph
            return graph()
        recorded = self._round.get(layer)
        if recorded is None or recorded[0] != places:  # tensors have moved, so all layers record anew
            self._rounds.pop(self._kind, None)
            self._alike = 0
            return compute()
        graph = recorded[1]
        return graph()

    def clear(self) -> None:
        """Drop all graphs, for other methods to run."""
        self._rounds.clear()
        self._steps, self._kind, self._alike, self._round = None, None, 0, None

    def _begin(self, steps: Steps) -> None:
        kind = _kind(steps)
        self._alike = self._alike + 1 if kind == self._kind else 0
        small, self._bytes = self._bytes <= ROOM, 0
        self._steps, self._kind, self._records = steps, kind, False
        self._round = None if kind is None else self._rounds.get(kind)
        if self._round is not None:
            self._rounds.move_to_end(kind)
        elif kind is not None and self._alike >= PATIENCE and small:
            self._round, self._records = {}, True
            self._rounds[kind] = self._round
            if len(self._rounds) > KEPT:
                self._rounds.popitem(last=False)


def _kind(steps: Steps) -> Hashable:
    """Places and shapes that steps of one kind share; None where prompts run beside them, which always differ."""
    if steps.tokens is not None:
        return None
    return _place(steps.table), _place(steps.cached)


def _place(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


class CudaRecorder:
    """Records CUDA graphs into shared memory.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs = WeakSet[torch.cuda.CUDAGraph]()

    def __call__(self, compute: Compute[Found]) -> Compute[Found]:
        """The computation as a graph that returns the same tensors each time."""
        graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        if not self._graphs:  # a pool ends with the last graph in it
            self._pool = torch.cuda.graph_pool_handle()
        self._graphs.add(graph)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            # Other threads copy results to the host meanwhile, and may.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                found = compute()
            finally:
                graph.capture_end()
        now.wait_stream(self._stream)

        def play() -> Found:
            graph.replay()
            return found

        return play
