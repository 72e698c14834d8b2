"""The plan of the study."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import plan
import pytest

from sparse_tasks.attention.method import METHODS, RepeatMethod
from sparse_tasks.generators.task import TASKS, task_order
from tests.studies.conftest import FIRST_LIGHT

OPTIONS = plan.Options((plan.parse_model("probe=4k,8k"), plan.parse_model("/models/Qwen_0.5B=16k")))


def test_every_method_that_is_no_control_is_planned_once_at_each_place() -> None:
    for name in ("probe-4k", "probe-8k", "qwen-0.5b-16k"):
        cells = [cell for sweep in plan.sweeps(OPTIONS) if sweep.data.name == name for cell in sweep.cells]
        assert len(cells) == len(set(cells))
        for method in METHODS:
            of_method = {cell for cell in cells if cell.rpartition("-")[0] == method.name}
            more = 0 if method.phase == "prefill" else 1  # at .98
            left_out = method.control or issubclass(method, RepeatMethod)
            assert len(of_method) == (0 if left_out else len(plan.SPARSITIES) + more)
        assert {cell.rpartition("-")[0] for cell in cells if "+" in cell} == set(plan.COMPOSITIONS)
    assert len(plan.COMPOSITIONS) == 4


def test_phases_are_apart() -> None:
    prefill, decode = plan.methods_of("prefill"), plan.methods_of("decode")
    assert set(prefill).isdisjoint(decode)
    assert "quest" in decode
    assert "snapkv" in decode
    assert "block_sparse" in prefill


def test_names_of_sweeps_are_their_own() -> None:
    names = [sweep.name for sweep in plan.sweeps(OPTIONS)]
    assert len(names) == len(set(names))


def test_windows_are_studied_inside_and_outside_with_controls_apart() -> None:
    steered = [sweep for sweep in plan.sweeps(OPTIONS) if sweep.data.depth != "uniform"]
    assert {sweep.data.depth for sweep in steered} == set(plan.DEPTHS)
    assert {sweep.part for sweep in steered} == {"windows", plan.CONTROLS}
    for sweep in steered:
        assert all(METHODS.get(name).control == (sweep.part == plan.CONTROLS) for name in sweep.methods)
    assert not [s for s in plan.sweeps(replace(OPTIONS, windows=())) if s.data.depth != "uniform"]


def test_new_tasks_leave_the_data_sets_of_the_study_alone() -> None:
    assert len(set(plan.TASKS)) == 17
    assert set(plan.TASKS) < set(TASKS.names())
    assert tuple(sorted(plan.TASKS, key=task_order)) == plan.TASKS  # as the stored data sets have them
    assert {data.tasks for data in plan.data_sets(OPTIONS) if data.depth == "uniform"} == {plan.TASKS}


def test_commands() -> None:
    sweep = next(sweep for sweep in plan.sweeps(OPTIONS) if sweep.part == "decode")
    words = sweep.command(Path("data"), ["ruler_vt"], Path("runs"), ["dtype=float32"])
    assert plan.shown(words).startswith("sparse-tasks evaluate data --model probe --output runs --attention quest --")
    assert plan.shown(words).endswith("--sparsity 0.5,0.7,0.8,0.9,0.95,0.98 --task ruler_vt --engine-arg dtype=float32")
    assert "--seed 42" in plan.shown(sweep.data.command("tok", Path("data")))


@pytest.mark.parametrize("text", ["probe", "=4k", "probe="])
def test_a_model_without_lengths_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write probe=4k,8k"):
        plan.parse_model(text)


def test_a_dry_run_prints_cells_and_an_estimate_and_does_nothing(tmp_path: Path) -> None:
    command = [sys.executable, FIRST_LIGHT / "run", "--dry-run", "--miniature", "--work", tmp_path / "work"]
    reported = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "probe-1k/decode" in reported
    assert "minutes" in reported
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".coverage")]


def test_what_is_stopped_ends_with_all_that_it_started() -> None:
    command = runpy.run_path(str(FIRST_LIGHT / "run"))
    process = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
    command["ended"](process.pid)
    assert process.wait(10) == -9
    command["ended"](process.pid)  # already ended
