"""Engines side by side: who answers what, on which part of the machine, and what becomes of failures."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.engines.engine import ENGINES, EngineSettings, Request
from sparse_tasks.evaluators.engines.group import EngineGroup, engines, places
from sparse_tasks.evaluators.engines.running import Engines
from sparse_tasks.evaluators.models import Model
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.runs import Run
from tests.evaluators.engines.fake_engine import PlacedEngine

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs to know which cores it may use")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")


def made(**arguments: Any) -> PlacedEngine:
    model = Model("m", "m")
    return PlacedEngine(EngineSettings(model, arguments=arguments))


def asked(count: int) -> Iterator[Request]:
    return (Request(str(number), "p", [], 1) for number in range(count))


@pytest.mark.usefixtures("two_gpus")
def test_each_engine_answers_its_share_on_its_gpu_and_goes_on_to_the_next_run() -> None:
    with engines(2) as starter:
        running = starter.start(made(), 10)
        answers = {output.id: output.text.split("; ") for output in running.generate(asked(9))}
        assert set(answers) == set(map(str, range(9)))
        # The same each time: the engines take turns.
        of_engine = [{tuple(answers[str(number)]) for number in range(first, 9, 2)} for first in (0, 1)]
        assert [len(one) for one in of_engine] == [1, 1]
        (first,), (second,) = of_engine
        assert (first[2], second[2]) == ("5", "7")
        assert len({first[0], second[0], str(os.getpid())}) == 3
        assert running.version() == "1"
        assert running.details() == {"engines": 2}
        # The next run's engine takes over what is loaded; one that cannot, loads anew in the same process.
        later = {o.id: o.text.split("; ") for o in starter.start(made(), 20).generate(asked(2))}
        assert [later[name][:2] for name in "01"] == [list(first[:2]), list(second[:2])]
        anew = {o.id: o.text.split("; ") for o in starter.start(made(alone=1), 30).generate(asked(2))}
        assert [anew[name][:2] for name in "01"] == [[one[0], f"{one[0]}, 30"] for one in (first, second)]
    for pid in (int(first[0]), int(second[0])):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": "not"}, "no start"),
        ({"fails at": "3"}, "fell over"),
        ({"breaks at": "3"}, "an engine failed: LookupError: not there"),
        ({"dies at": "3"}, r"engine 2 of 2 died \(exit code -9\)"),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_failure_of_one_engine_fails_all(arguments: dict[str, str], message: str) -> None:
    def answer() -> None:
        with engines(2) as starter:
            came.extend(output.id for output in starter.start(made(**arguments), 10).generate(asked(50)))

    came: list[str] = []
    with pytest.raises(EngineError, match=message):
        answer()
    assert "3" not in came


@pytest.mark.usefixtures("two_gpus")
def test_errors_of_prompts_are_raised_here() -> None:
    def spoilt() -> Iterator[Request]:
        yield from asked(3)
        raise UsageError("tokenizer", "t", "is broken")

    with pytest.raises(UsageError, match="is broken"), engines(2) as starter:
        assert len(list(starter.start(made(), 10).generate(spoilt()))) <= 3


@pytest.mark.usefixtures("two_gpus")
def test_a_run_by_two_engines_equals_one(
    dataset: Dataset, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ENGINES.names()  # the others come first
    monkeypatch.setitem(ENGINES._members, "placed", PlacedEngine)
    request = RunRequest(dataset, dataset.select(), str(model), "placed")
    ids = {}
    for count in (1, 2):
        with Run(tmp_path / str(count)) as run:
            predict(replace(request, engines=count), run)
            assert run.settings is not None
            assert run.settings.engine.details == ({} if count == 1 else {"engines": 2})
            ids[count] = [prediction.id for prediction in run.predictions()]
            texts = {prediction.text for prediction in run.predictions()}
            assert len(texts) == count
    assert ids[1] == ids[2]


def test_one_engine_needs_no_group() -> None:
    assert isinstance(engines(1), Engines)
    assert isinstance(engines(2), EngineGroup)


@pytest.mark.parametrize(
    ("visible", "count", "devices", "seen"),
    [
        ("0,1", 2, 1, ["0", "1"]),
        ("2,3,4,5", 2, 2, ["2,3", "4,5"]),
        ("0,1", 4, 1, ["0", "1", "0", "1"]),  # they share, as far as memory goes
        ("GPU-a,GPU-b", 1, 2, ["GPU-a,GPU-b"]),
    ],
)
def test_gpus_are_assigned_in_order(
    visible: str, count: int, devices: int, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert places(count, devices) == [{"CUDA_VISIBLE_DEVICES": one} for one in seen]


@pytest.mark.skipif(sys.platform != "linux", reason="sched_getaffinity is Linux's")
def test_cores_are_divided_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5, 6, 7})
    assert [place["VLLM_CPU_OMP_THREADS_BIND"] for place in places(2, 1)] == ["0,1,2", "4,5,6,7"]
    assert [place["OMP_NUM_THREADS"] for place in places(2, 1)] == ["3", "4"]
    assert {place["VLLM_CPU_KVCACHE_SPACE"] for place in places(2, 1)} == {"2"}
    assert [place["VLLM_CPU_OMP_THREADS_BIND"] for place in places(3, 2)] == ["0|1", "2|4", "5|6,7"]
    with pytest.raises(UsageError, match="engines: 8 need a core each, and there are 7 and no GPU"):
        places(8, 1)


def test_the_number_is_checked(dataset: Dataset, model: Path) -> None:
    with pytest.raises(UsageError, match="engines: 0 must be at least 1"):
        RunRequest(dataset, dataset.select(), str(model), engines=0)
    with pytest.raises(UsageError, match="engines: 2 start models on this machine, and replay starts none"):
        RunRequest(dataset, dataset.select(), str(model), "replay", engines=2)
