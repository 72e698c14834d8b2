"""Guards when decoding is recorded and played: only what is alike to the last tensor, all layers of a step or none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sparse_tasks.attention.index import PageIndex
from sparse_tasks.attention.vllm import replay
from sparse_tasks.attention.vllm.plan import Steps
from sparse_tasks.attention.vllm.replay import KEPT, PATIENCE, Replays

LAYERS = 3
TABLE, CACHED = torch.zeros(20, 8, dtype=torch.int32), torch.ones(20, dtype=torch.int32)


def steps(count: int = 2, *, width: int = 4, mixed: bool = False) -> Steps:
    """Of so many requests, with the tensors that are there at every step."""
    names = tuple(str(number) for number in range(count))
    tokens = torch.arange(count) if mixed else None
    return Steps((), names, (1,) * count, tokens, TABLE[:count, :width], CACHED[:count])


class Model:
    """Layers that tell how each of their steps came about."""

    def __init__(self, pages: int = 1) -> None:
        self.replays = Replays(self._record)
        self.tensors = [(torch.zeros(2), torch.zeros(3)) for _ in range(LAYERS)]
        self.pages, self.reported = pages, [""] * LAYERS

    def step(self, of: Steps) -> list[str]:
        self.reported = [""] * LAYERS
        for layer in range(LAYERS):
            index = self.replays.run(of, layer, self.tensors[layer], self._computes(layer))
            assert index.unit == layer + 1
        return self.reported

    def until_recorded(self, count: int = 2) -> None:
        for _ in range(PATIENCE):
            assert self.step(steps(count)) == ["computed"] * LAYERS
        assert self.step(steps(count)) == ["recorded, played"] * LAYERS

    def _computes(self, layer: int) -> Callable[[], PageIndex]:
        def compute() -> PageIndex:
            self.reported[layer] = "computed"
            pages = torch.zeros(1, 1, self.pages, dtype=torch.int32)
            return PageIndex(pages, torch.ones(1, 1, dtype=torch.int32), layer + 1, CACHED[:1])

        return compute

    def _record(self, compute: Callable[[], PageIndex]) -> Callable[[], PageIndex]:
        index = compute()
        layer = index.unit - 1
        self.reported[layer] = "recorded"

        def play() -> PageIndex:
            self.reported[layer] = "recorded, played" if self.reported[layer] == "recorded" else "played"
            return index

        return play


def test_steps_that_are_alike_are_recorded_and_then_played() -> None:
    model = Model()
    model.until_recorded()
    for _ in range(3):
        assert model.step(steps()) == ["played"] * LAYERS


@pytest.mark.parametrize("other", [steps(3), steps(2, width=5), steps(2, mixed=True)])
def test_another_step_between_begins_anew(other: Steps) -> None:
    model = Model()
    for _ in range(PATIENCE):
        model.step(steps())
    assert model.step(other) == ["computed"] * LAYERS
    model.until_recorded()


def test_what_was_recorded_is_found_again() -> None:
    model = Model()
    model.until_recorded(2)
    model.until_recorded(3)
    assert model.step(steps(2)) == model.step(steps(3)) == ["played"] * LAYERS


def test_beside_prompts_nothing_is_recorded() -> None:
    model = Model()
    for _ in range(3 * PATIENCE):
        assert model.step(steps(mixed=True)) == ["computed"] * LAYERS


@pytest.mark.parametrize("moved", range(LAYERS))
def test_a_tensor_that_has_moved_is_not_read_at_its_old_place(moved: int) -> None:
    model = Model()
    model.until_recorded()
    model.tensors[moved] = (model.tensors[moved][0], torch.zeros(3))
    reported = model.step(steps())
    assert reported[moved] == "computed"
    assert "recorded" not in " ".join(reported)
    # The graphs of a step are recorded together: the old ones of the other layers are gone.
    reported = [model.step(steps()) for _ in range(PATIENCE + 1)]
    assert reported == [["computed"] * LAYERS] * (PATIENCE - 1) + [["recorded, played"] * LAYERS, ["played"] * LAYERS]


def test_tensors_that_move_at_every_step_are_not_recorded_at_every_second() -> None:
    model = Model()
    reported = []
    for _ in range(3 * (PATIENCE + 1)):
        model.tensors = [(torch.zeros(2), torch.zeros(3)) for _ in range(LAYERS)]
        reported += model.step(steps())
    assert reported.count("recorded, played") <= 3 * LAYERS


def test_a_tensor_of_another_shape_has_moved() -> None:
    model = Model()
    whole = torch.zeros(4)
    model.tensors[0] = (whole[:2],)
    model.until_recorded()
    model.tensors[0] = (whole,)
    assert model.step(steps())[0] == "computed"


@pytest.mark.parametrize("value", [1, "a", (2, 3), None])
def test_other_values_are_computed_anew(value: object) -> None:
    """Of what decides what is launched, beside tensors; of unlike things none is as it was."""
    replays, tensor = Replays(lambda compute: compute), torch.zeros(2)
    computed = []

    def run(other: object) -> bool:
        def compute() -> PageIndex:
            computed.append(other)
            return PageIndex(torch.zeros(1, 1, 1), torch.ones(1, 1), 1, CACHED[:1])

        replays.run(steps(), 0, (tensor, other), compute)
        return computed.pop() is other

    assert all(run(value) for _ in range(PATIENCE + 2))
    for other in (4, object()):
        run(other)
        assert not replays._rounds


def test_long_lists_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "ROOM", LAYERS * 4 * (1 + 10))
    fits, too_long = Model(pages=10), Model(pages=11)
    fits.until_recorded()
    for _ in range(3 * PATIENCE):
        assert too_long.step(steps()) == ["computed"] * LAYERS


def test_the_kind_that_was_longest_unused_is_forgotten() -> None:
    model = Model()
    for count in range(1, KEPT + 1):
        model.until_recorded(count)
    assert model.step(steps(1)) == ["played"] * LAYERS
    model.until_recorded(KEPT + 1)
    assert model.step(steps(1)) == ["played"] * LAYERS
    assert model.step(steps(2)) == ["computed"] * LAYERS


def test_other_methods_are_recorded_anew() -> None:
    model = Model()
    model.until_recorded()
    model.replays.clear()
    model.until_recorded()
