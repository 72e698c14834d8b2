"""``explain`` on a small random model: its runs, the parts that add up, what it says without a GPU, what it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import contents, run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        find_spec("torch") is None or find_spec("transformers") is None, reason="torch or transformers is not installed"
    ),
]


@pytest.fixture
def options(llama: Path, data: Path, tmp_path: Path) -> list[str]:
    chosen = ["-l", "1100", "--limit", "2", "--max-new-tokens", "4", "-o", str(tmp_path / "explained")]
    return [str(data), "--model", str(llama), "--attention", "quest", "--sparsity", "0.8", *chosen]


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count zeros of a model without training as scores."""
    monkeypatch.setattr("sparse_tasks.evaluators.ability.ABLE", 0.0)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has kernels, for which the twins serve."""
    from sparse_tasks.attention import huggingface

    real = huggingface.sparse_attention
    monkeypatch.setattr("sparse_tasks.evaluators.explain._has_kernels", lambda request: True)
    monkeypatch.setattr(
        huggingface, "sparse_attention", lambda *arguments, **options: real(*arguments, **options | {"impl": "torch"})
    )


def settings(folder: Path, name: str) -> Any:
    return json.loads((folder / name / "run.json").read_text())


@pytest.mark.usefixtures("able", "kernels")
def test_parts_add_up_to_the_total(options: list[str], tmp_path: Path) -> None:
    finished = run("explain", *options, "--format", "json")
    assert finished.code == 0, finished.err
    found = finished.json()
    assert list(found["results"]) == ["dense", "oracle", "twin", "kernel"]
    assert list(found["parts"]) == ["budget", "selection", "numerics", "total"]
    for kind in ("rows", "averages"):
        for rows in zip(*(found["parts"][part][kind] for part in found["parts"]), strict=True):
            differences = [row["difference"] for row in rows]
            assert sum(differences[:3]) == pytest.approx(differences[3])
    folder = tmp_path / "explained"
    ran = {name: settings(folder, name) for name in found["results"]}
    assert ran["oracle"]["attention"]["method"] == "oracle_decode"
    assert ran["oracle"]["attention"]["arguments"] == {"oracle_decode.page": 16, "oracle_decode.sparsity": 0.8}
    assert [ran[name]["engine"]["arguments"] for name in ran] == [
        {},
        {"impl": "torch"},
        {"impl": "torch"},
        {"impl": "triton"},
    ]
    assert found["results"]["oracle"]["configs"][0]["sparsity"]["decode"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.usefixtures("able")
def test_a_table_for_each_task_and_the_runs_are_kept(
    options: list[str], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_tasks.attention.kernels.dispatch.has_kernels", lambda device: False)
    finished = run("explain", *options)
    assert finished.code == 0, finished.err
    for title in ("ruler_niah, length 1100", "ruler_vt, length 1100", "mean of 2 tasks, length 1100"):
        assert title in finished.out
    assert "\noracle: oracle_decode oracle_decode.page=16\n" in finished.out
    words = [line.split() for line in finished.out.splitlines()]
    assert sum(line[:2] == ["budget", "oracle"] for line in words) == 3
    assert sum(line[:2] == ["selection", "twin"] for line in words) == 3
    assert sum(line[:1] == ["total"] for line in words) == 3
    assert "numerics: not measured (kernels need a GPU)" in finished.out
    assert max(map(len, finished.out.replace(str(tmp_path), "").replace(str(llama), "").splitlines())) <= 80
    before = contents(tmp_path / "explained")
    monkeypatch.setattr("sparse_tasks.evaluators.engines.transformers.TransformersEngine.start", None)
    assert run("explain", *options).out == finished.out
    assert contents(tmp_path / "explained") == before


@pytest.mark.nightly
def test_a_model_that_cannot_do_the_tasks_is_reported(options: list[str]) -> None:
    finished = run("explain", *options)
    assert finished.code == 0, finished.err
    assert "nothing can be concluded" in " ".join(finished.out.split())
    assert "selection" not in finished.out.replace("budget, selection", "")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-a", "dense", "-s", "0"], ["attention", "'dense'", "name a method"]),
        (["-a", "quest", "-s", ".5,.9"], ["attention", "explain one at a time"]),
        (["--engine-arg", "impl=torch"], ["engine-arg", "impl=torch", "leave it out"]),
        (["-s", "much"], ["sparsity", "much", "0.9"]),
    ],
)
def test_bad_input_is_reported(more: list[str], words: list[str], options: list[str]) -> None:
    finished = run("explain", *options, *more)
    assert finished.code == 2
    assert finished.says(*words)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.engine
def test_the_demo_model_loses_by_selection_what_its_oracle_keeps(demo: Path, tmp_path: Path) -> None:
    """In a real model the oracle reads as little as chance does, and holds more of the attention."""
    arguments = ["-l", "1k", "-t", "ruler_niah_multikey_1", "-n", "1", "--preset", "ruler", "--tokenizer", demo]
    assert run("generate", *arguments, "-o", tmp_path / "data").code == 0
    options = ["--model", demo, "--format", "json"]
    asked = ["-s", "0.9", "--max-new-tokens", "4", "-o", tmp_path / "explained"]
    found = run("explain", tmp_path / "data", *options, "-a", "random_decode", *asked).json()
    sparsity = [found["results"][name]["configs"][0]["sparsity"]["decode"] for name in ("oracle", "twin")]
    assert sparsity == pytest.approx([0.9, 0.9], abs=0.01)
    recall = []
    for name in ("oracle_decode", "random_decode"):
        seen = run(
            "attention", "inspect", *options, "--data", tmp_path / "data", "-a", name, "-s", "0.9", "--steps", "2"
        )
        (phase,) = seen.json()["phases"]
        assert len(phase["layers"]) == 30
        recall.append(sum(map(sum, phase["recall"])) / 270)
    assert recall[0] > 0.8 > 0.6 > recall[1]
