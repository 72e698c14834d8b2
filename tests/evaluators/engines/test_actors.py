"""Engines on a cluster's nodes: who answers what, and what becomes of those that die."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.engines import actors
from sparse_tasks.evaluators.engines.engine import ENGINES, EngineSettings, Request
from sparse_tasks.evaluators.engines.group import engines
from sparse_tasks.evaluators.models import Model
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.runs import Run
from tests.evaluators.engines.fake_engine import PlacedEngine
from tests.ray_cluster import RayCluster, ray_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster({}) as running:
        yield running


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "_BATCH", 3)


def made(source: str = "m", **arguments: Any) -> PlacedEngine:
    return PlacedEngine(EngineSettings(Model("m", source), arguments=arguments))


def asked(count: int) -> Iterator[Request]:
    return (Request(str(number), "p", [], 1) for number in range(count))


def test_engines_answer_in_batches_stay_for_the_next_run_and_are_begun_again(
    cluster: RayCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with engines(on=cluster.address) as starter:
        running = starter.start(made(), 10)
        answers = {output.id: output.text.split("; ") for output in running.generate(asked(20))}
        assert set(answers) == set(map(str, range(20)))
        first = {process: loaded for process, loaded, _ in answers.values()}
        assert len(first) == 2, "both nodes answered"
        assert running.version() == "1"
        assert running.details() == {"engines": 2}
        # A batch is one engine's.
        assert all(len({answers[str(n)][0] for n in range(k, min(k + 3, 20))}) == 1 for k in range(0, 20, 3))
        # The next run's engine takes over what is loaded.
        later = [output.text.split("; ")[:2] for output in starter.start(made(), 20).generate(asked(20))]
        assert all(first[process] == loaded for process, loaded in later)
        # One dies in the middle: its batch is answered once, by the next free engine.
        dying = starter.start(made(**{"dies once": str(tmp_path / "died")}), 30)
        again = [output.id for output in dying.generate(asked(20))]
        assert (tmp_path / "died").exists()
        assert Counter(again) == Counter(map(str, range(20)))
        anew = {output.text.split("; ")[0] for output in starter.start(made(), 40).generate(asked(20))}
        assert len(anew) == 2
        assert len(anew & set(first)) == 1, "another actor has taken the place of the one that died"
    for process in first:
        assert not os.path.exists(f"/proc/{process}")
    assert capfd.readouterr().out == ""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": "not"}, "no start"),
        ({"fails at": "3"}, "fell over"),
        ({"breaks at": "3"}, "a node of the cluster failed: not there"),
        ({"dies at": "3"}, "engines died 3 times"),
    ],
)
def test_a_failure_of_one_engine_fails_all(
    cluster: RayCluster, arguments: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "RETRIES", 2)

    def answer() -> None:
        with engines(2, cluster.address) as starter:
            came.extend(output.id for output in starter.start(made(**arguments), 10).generate(asked(50)))

    came: list[str] = []
    with pytest.raises(EngineError, match=message):
        answer()
    assert "3" not in came
    assert len(came) == len(set(came))


@pytest.mark.parametrize(
    ("count", "source", "message"),
    [
        (5, "m", "engines: 5 take a core each, and the cluster has room for 2"),
        (1, "/nowhere", "model: '/nowhere' is not"),
    ],
)
def test_missing_resources_are_reported(cluster: RayCluster, count: int, source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message), engines(count, cluster.address) as starter:
        starter.start(made(source), 10)


@pytest.mark.nightly
def test_a_run_on_a_cluster_equals_one_engine_and_resumes(
    cluster: RayCluster, dataset: Dataset, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ENGINES.names()  # the others come first
    monkeypatch.setitem(ENGINES._members, "placed", PlacedEngine)
    ids = {}
    for on in (None, cluster.client):
        with Run(tmp_path / str(on is None)) as run:
            predict(RunRequest(dataset, dataset.select(), str(model), "placed", on=on), run)
            ids[on] = [prediction.id for prediction in run.predictions()]
    assert ids[None] == ids[cluster.client]
    file = tmp_path / "False" / "predictions.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:2]), encoding="utf-8")
    with Run(tmp_path / "False") as run:
        predict(RunRequest(dataset, dataset.select(), str(model), "placed", on=cluster.address), run)
    assert file.read_text(encoding="utf-8").splitlines(keepends=True)[:2] == lines[:2]
    assert [prediction.id for prediction in run.predictions()] == ids[None]


def test_models_that_run_elsewhere_need_no_cluster(dataset: Dataset, model: Path) -> None:
    with pytest.raises(UsageError, match="on: 'auto' starts models on a cluster, and replay starts none"):
        RunRequest(dataset, dataset.select(), str(model), "replay", on="auto")
