"""Guards replays of the whole model: what a step computes follows from tensors at their places, and is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparse_tasks.attention.method import METHODS, DecodeMethod
from sparse_tasks.attention.vllm.plan import Step
from sparse_tasks.attention.vllm.replay import PATIENCE, Replays
from sparse_tasks.attention.vllm.session import Session
from tests.attention.vllm.served import HEADS, KV_HEADS, LAYERS, SIZE, named, scheduled
from tests.attention.vllm.test_session import metadata, module

PROMPTS, STEPS, BLOCK = (300, 210), 12, 16
RECORDABLE = [kind.name for kind in METHODS if issubclass(kind, DecodeMethod) and kind.recordable]


class Engine:
    """Two requests that decode, in buffers that stay where they are, as vLLM has them."""

    def __init__(self, method: str, *, whole: bool) -> None:
        self.session = Session(named(method), impl="torch")
        self.modules = {f"layers.{n}": module(KV_HEADS, HEADS, SIZE) for n in range(LAYERS)}
        replays = Replays(self._record) if whole else None
        self.session.join(self.modules, torch.device("cpu"), replays, whole=whole)
        self.session.lay_out(list(self.modules), BLOCK)
        self.draw = torch.Generator().manual_seed(1)
        self.table = torch.arange(1, 65, dtype=torch.int32).view(2, 32)
        self.lengths = torch.zeros(2, dtype=torch.int32)
        self.cache = torch.zeros(LAYERS, 2, 65, BLOCK, KV_HEADS, SIZE)
        self.q, self.out = torch.zeros(LAYERS, 2, HEADS, SIZE), torch.zeros(LAYERS, 2, HEADS, SIZE)
        self.k, self.v = torch.zeros(LAYERS, 2, KV_HEADS, SIZE), torch.zeros(LAYERS, 2, KV_HEADS, SIZE)
        self.slots = torch.zeros(2, dtype=torch.int64)
        self.step: Step | None = None
        self.reported: list[str] = []

    def read_prompts(self) -> None:
        names = dict(zip("ab", PROMPTS, strict=True))
        self.session.begin(scheduled(names, new={name: (n, 0) for name, n in names.items()}), lambda: ["a", "b"])
        assert self.session.plan(list(self.modules), metadata(*PROMPTS), BLOCK) is not None
        slots = torch.cat([row[:1] * BLOCK + torch.arange(n) for row, n in zip(self.table, PROMPTS, strict=True)])
        keys = torch.randn(LAYERS, 2, len(slots), KV_HEADS, SIZE, generator=self.draw)
        for layer, one in enumerate(self.modules.values()):
            for cache, new in zip(self.cache[layer], keys[layer], strict=True):
                cache.view(-1, KV_HEADS, SIZE)[slots] = new
            one.impl.sparse.notice(keys[layer, 0], self.cache[layer, 0], slots)
        self.session.end()
        self.lengths += torch.tensor(PROMPTS)

    def decode(self) -> torch.Tensor:
        """A step; what its layers wrote."""
        cached = dict(zip("ab", self.lengths.tolist(), strict=True))
        self.session.begin(scheduled({"a": 1, "b": 1}, cached=cached), lambda: ["a", "b"])
        for buffer in (self.q, self.k, self.v):
            buffer.normal_(generator=self.draw)
        self.slots.copy_(self.table[:, 0] * BLOCK + self.lengths)
        self.lengths += 1
        given = metadata(1, 1)
        given.block_table_tensor, given.seq_lens = self.table, self.lengths
        self.step = self.session.plan(list(self.modules), given, BLOCK)
        self.out.fill_(float("nan"))
        self.reported.append("")
        output = self.session.run_model(self._forward(self.step), lambda: [self.q, self.slots])
        self.session.end()
        assert output is self.out
        return output.clone()

    def _forward(self, step: Step | None) -> Callable[[], torch.Tensor]:
        def forward() -> torch.Tensor:
            assert step is not None
            self.reported[-1] += "ran "
            for layer, one in enumerate(self.modules.values()):
                keys, values = self.cache[layer]
                keys.view(-1, KV_HEADS, SIZE)[self.slots] = self.k[layer]
                values.view(-1, KV_HEADS, SIZE)[self.slots] = self.v[layer]
                one.impl.sparse.notice(self.k[layer], keys, self.slots)
                one.impl.sparse.attend(step, self.q[layer], self.k[layer], self.v[layer], keys, values, self.out[layer])
            return self.out

        return forward

    def _record(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        """As a graph: of a later step nothing but tensors reaches it, and its result is written over."""
        recorded, found = self.step, compute()
        self.reported[-1] += "recorded "

        def play() -> Any:
            self.reported[-1] += "played "
            for plan in recorded.plans if recorded is not None else ():
                if plan.steps is not None:
                    plan.steps.shared.clear()  # the graph makes these anew
            again = compute()
            for layer, index in again.indices.items():
                for name in ("pages", "counts"):
                    getattr(found.indices[layer], name).copy_(getattr(index, name))
            self.session.counter._pending.clear()  # type: ignore[union-attr]  # a graph tells nobody
            return found

        return play


@pytest.mark.parametrize("method", RECORDABLE)
def test_replayed_steps_are_as_those_that_ran(method: str) -> None:
    plain, whole = Engine(method, whole=False), Engine(method, whole=True)
    for engine in (plain, whole):
        engine.read_prompts()
    for _ in range(STEPS):
        expected = plain.decode()
        torch.testing.assert_close(whole.decode(), expected, rtol=0, atol=0)
    reported = ["ran "] * PATIENCE + ["ran recorded played ran "] + ["played ran "] * (STEPS - PATIENCE - 1)
    assert whole.reported == reported
    for name in "ab":
        counts = [engine.session.counter.take(name) for engine in (plain, whole)]  # type: ignore[union-attr]
        assert counts[0] == counts[1]
        assert counts[0] is not None
        assert 0 < min(counts[0]["decode"]["densities"]) < 0.9


@pytest.mark.parametrize("method", ["vertical_slash", "streaming_llm"])  # whose decoding is dense
def test_what_cannot_be_recorded_runs(method: str) -> None:
    engine = Engine(method, whole=True)
    engine.read_prompts()
    for _ in range(2 * PATIENCE):
        engine.decode()
    assert set(engine.reported) == {"ran "}
