"""Measured density of each request: query-key interactions of the indices that ran over those of dense attention.

Computed interactions are summed on the device; those of dense attention follow from lengths, on the host.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import PageIndex, PrefillIndex, computed_by
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.positions_read import add_positions_read
from sparse_tasks.attention.vllm.plan import Plan
from sparse_tasks.attention.vllm.requests import Choice

_KEPT: Final = 4096  # finished requests whose counts are kept until they are taken
_ROOM: Final = 64  # requests that the first buffer holds
_HELD: Final = 2**24  # bytes of prompts' indices that wait for each other


@dataclass
class _Tally:
    """Counts of a request. Interactions of dense attention are those of one head of one layer."""

    slot: int
    prompt: Tensor  # computed: float64 [layers, query_heads]
    prompt_dense: int = 0
    prompt_whole: int = 0  # the part of these that ran as dense attention
    steps: int = 0
    steps_dense: int = 0
    steps_whole: int = 0


class Counter:
    """Counts by request.

    Args:
        layers: Sparse layers.
        kv_heads: KV heads of each, on this rank.
        group: Query heads of a KV head.
        key_bytes: Bytes of a key and its value.
        device: Device of the counts, that of attention.
        impl: "auto", "triton" or "torch".
    """

    def __init__(
        self, layers: int, kv_heads: int, group: int, key_bytes: int, device: torch.device, impl: str = "auto"
    ) -> None:
        self._heads, self._key_bytes, self._impl = kv_heads * group, key_bytes, impl
        # Positions read in decoding, by slot, layer and KV head.
        self._read = torch.zeros(_ROOM, layers, kv_heads, dtype=torch.int64, device=device)
        self._free = list(range(_ROOM))
        self._running: dict[str, _Tally] = {}
        self._finished: OrderedDict[str, _Tally] = OrderedDict()
        self._taken: set[str] = set()  # requests whose counts were taken before they had finished
        self._prompts: list[tuple[str, int, PrefillIndex]] = []  # not counted yet: request, layer, index
        self._held = 0  # bytes of these
        self._pending: dict[Choice | None, dict[int, PageIndex]] = {}
        self._slots: tuple[tuple[str, ...], Tensor] | None = None

    def prompt(self, request: str, layer: int, index: PrefillIndex) -> None:
        """Count queries of a prompt that ran under an index in a layer."""
        self._prompts.append((request, layer, index))
        self._held += index.nbytes()
        if self._held > _HELD:
            self._count_prompts()

    def steps(self, layer: int, index: PageIndex, choice: Choice | None = None) -> None:
        """Count decoding that ran under an index in a layer, of the step's requests of one choice."""
        if index.unit == 1:  # lists of tokens may be long, and are counted without a look at them
            index = replace(index, pages=index.pages[..., :0].clone(), log_weights=None)
        self._pending.setdefault(choice, {})[layer] = index

    def waiting(self) -> dict[int, PageIndex]:
        """Indices of the running step under the engine's attention, by layer, which ``end`` will count."""
        return dict(self._pending.get(None, {}))

    def end(self, plan: Plan, *, prompts_dense: bool, steps_dense: bool) -> None:
        """Add up a step that all layers have run, or its part of one choice.

        Args:
            plan: Its plan.
            prompts_dense: Whether prompts ran as dense attention, which is not counted by index.
            steps_dense: Whether decoding did.
        """
        pending = self._pending.pop(plan.choice, {})
        if pending and len(pending) < self._read.shape[1]:
            return  # the step failed, which vLLM reports
        self._count_prompts()
        for prompt in plan.prompts:
            tally, dense = self._tally(prompt.request), causal_count(prompt.end - prompt.start, prompt.end)
            tally.prompt_dense += dense
            tally.prompt_whole += dense * prompts_dense
        if plan.steps is None:
            return
        for request, length in zip(plan.steps.requests, plan.steps.lengths, strict=True):
            tally = self._tally(request)
            tally.steps += 1
            tally.steps_dense += length
            tally.steps_whole += length * steps_dense
        if pending:
            indices = [pending[layer] for layer in range(self._read.shape[1])]
            self._add(indices, self._slots_of(plan.steps.requests), plan.steps.cached)

    def _count_prompts(self) -> None:
        """Count waiting indices of prompts: those of all layers of a request at once, in few launches."""
        groups: dict[tuple[str, Hashable], list[tuple[int, PrefillIndex]]] = {}
        for request, layer, index in self._prompts:
            groups.setdefault((request, index.form), []).append((layer, index))
        for (request, _), group in groups.items():
            computed = computed_by([index for _, index in group]).double()
            computed = computed.repeat_interleave(self._heads // computed.shape[1], 1)
            tally = self._tally(request)
            for (layer, _), row in zip(group, computed.unbind(), strict=True):
                tally.prompt[layer] += row
        self._prompts, self._held = [], 0

    def _add(self, indices: list[PageIndex], slots: Tensor, cached: Tensor) -> None:
        """Add the positions that each layer's index lists, in few launches."""
        unit, alike = indices[0].unit, len({(index.unit, index.pages.shape) for index in indices}) == 1
        if all(index.unit == 1 for index in indices):
            counts = torch.stack([index.counts for index in indices], dim=1)
            self._read.index_add_(0, slots, counts.long())
        elif alike:
            counts, pages = torch.stack([index.counts for index in indices]), [index.pages for index in indices]
            add_positions_read(self._read, slots, torch.stack(pages), counts, cached, unit=unit, impl=self._impl)
        else:
            counts = [index.counts.long() if index.unit == 1 else index.computed() for index in indices]
            self._read.index_add_(0, slots, torch.stack(counts, dim=1))

    def finish(self, requests: Iterable[str]) -> None:
        """Keep the counts of finished requests until they are taken."""
        for request in requests:
            tally, taken = self._running.pop(request, None), request in self._taken
            self._taken.discard(request)
            if tally is None:
                continue
            if taken:  # what it went on with, as where its client left, is nobody's
                self._release(tally)
                continue
            if (before := self._finished.pop(request, None)) is not None:
                self._release(before)
            self._finished[request] = tally
            self._slots = None  # the name may come again
            while len(self._finished) > _KEPT:
                self._release(self._finished.popitem(last=False)[1])

    def take(self, request: str) -> dict[str, Any] | None:
        """Counts of a request, which are then dropped; waits for the device.

        Args:
            request: The request's id, or vLLM's, which adds a suffix.

        Returns:
            By phase (``prefill``, ``decode``): ``densities``, computed interactions over dense ones for each head of
            each layer; for decoding also ``steps``, and ``kv_bytes`` that a step read from the cache on average, in all
            layers. None for a request without counts.
        """
        tally: _Tally | None = None
        for tallies in (self._finished, self._running):
            names = (request, *(name for name in tallies if name.rpartition("-")[0] == request))
            name = next((name for name in names if name in tallies), None)
            if tally is None and name is not None:
                tally = tallies.pop(name)
                if tallies is self._running:
                    self._taken.add(name)
        if tally is None:
            return None
        taken: dict[str, Any] = {}
        if tally.prompt_dense:
            # Divided here: a device multiplies by the reciprocal, and all of it would be a hair less than 1.
            computed = tally.prompt.flatten().tolist()
            densities = [(count + tally.prompt_whole) / tally.prompt_dense for count in computed]
            taken["prefill"] = {"densities": densities}
        if tally.steps:
            read = [count + tally.steps_whole for count in self._read[tally.slot].flatten().tolist()]
            taken["decode"] = {
                "densities": [count / tally.steps_dense for count in read],
                "kv_bytes": sum(read) * self._key_bytes / tally.steps,
                "steps": tally.steps,
            }
        self._release(tally)
        return taken

    def _tally(self, request: str) -> _Tally:
        tally = self._running.get(request)
        if tally is None:
            if not self._free:
                size = len(self._read)
                # Grown in a forward pass, it would be an inference tensor, which ``take`` could not set to 0.
                with torch.inference_mode(False):
                    self._read = torch.cat([self._read, torch.zeros_like(self._read)])
                self._free = list(range(size, 2 * size))
            # Made in a forward pass, it would be an inference tensor, to which nothing could be added after it.
            with torch.inference_mode(False):
                prompt = torch.zeros(self._read.shape[1], self._heads, dtype=torch.float64, device=self._read.device)
            tally = self._running[request] = _Tally(self._free.pop(), prompt)
        return tally

    def _release(self, tally: _Tally) -> None:
        self._read[tally.slot] = 0
        self._free.append(tally.slot)
        self._slots = None

    def _slots_of(self, requests: tuple[str, ...]) -> Tensor:
        """int64 ``[queries]``, on the device; rebuilt when other requests decode."""
        if self._slots is None or self._slots[0] != requests:
            slots = [self._tally(request).slot for request in requests]
            self._slots = requests, torch.tensor(slots, device=self._read.device)
        return self._slots[1]
