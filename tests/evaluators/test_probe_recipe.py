"""The recipe of the probe: what it is taught is right, and what it is tested on was not taught."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_tasks import generate, list_tasks
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.scoring import score
from tests.cli.program import ROOT

RECIPE = ROOT / "probe"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


@pytest.mark.usefixtures("recipe")
def test_no_part_of_the_training_has_the_seed_of_the_tests() -> None:
    from data import ALL, PARTS

    seeds = {name: [stage.seed for stage in stages] for name, stages in PARTS.items()}
    taught = [seed for name, some in seeds.items() if not name.startswith("test") for seed in some]
    assert len(set(taught)) == len(taught)
    assert {seed for name, some in seeds.items() if name.startswith("test") for seed in some} == {42}
    assert 42 not in taught
    later = ("reason_", "copy_", "code_", "turns_", "ladder_", "story_judge")  # than the probe
    untaught = {name for name in list_tasks() if name.startswith(("qa_", "ruler_qa", *later))}
    assert set(ALL) == (set(list_tasks()) - untaught) | {"qa_biographies"}
    taught_tasks = {t for n, stages in PARTS.items() if not n.startswith("test") for s in stages for t in s.tasks}
    assert taught_tasks == set(ALL)


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("kind", ["spent", "costly", "dearest", "kept", "met", "purse"])
def test_steps_of_an_aggregation_end_in_the_answer(kind: str) -> None:
    from steps import target

    samples = generate("4k", "story_aggregation", 3, settings={"story_aggregation.kind": kind}, seed=5)
    for sample in samples["story_aggregation_4k"]:
        *steps, last = target(sample).partition("\n</explanation>")[0].splitlines()
        if kind in ("spent", "costly", "purse"):
            assert last.rpartition(" ")[2] == sample["answer"]
        elif kind == "kept":
            gone = [line[2:] for line in [*steps, last] if line.startswith("- ")]
            kept = [line[2:] for line in [*steps, last] if line.startswith("+ ") and line[2:] not in gone]
            assert kept == sample["answers"]
        else:
            assert any(sample["answer"] in line for line in [*steps, last])


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("task", ["story_multihop", "story_filtering", "story_retrieval", "qa_biographies", "ruler_vt"])
def test_what_is_taught_scores_one(task: str) -> None:
    from steps import target

    for sample in generate("6k", task, 3, seed=6)[f"{task}_6k"]:
        assert score(sample["metric"], target(sample), sample["answers"]).value == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.nightly, id="goes on from its checkpoint")])
def test_a_small_model_is_trained_cut_packed_and_answers(times: int, llama: Path, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.torch import load_file

    base = shutil.copytree(llama, tmp_path / "base")
    end = json.loads((base / "config.json").read_text())["eos_token_id"]
    last = load_tokenizer(str(llama)).backend.id_to_token(end)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": last}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    for part, lengths in {"short": (90, 190), "4k": (250, 260), "test4k": (250, 260)}.items():
        prompt, output = rng.integers(*lengths, 24), rng.integers(3, 6, 24)
        np.savez(
            tmp_path / f"{part}.npz",
            ids=rng.integers(3, 200, int((prompt + output).sum())).astype(np.uint16),
            prompt=prompt.astype(np.int32), output=output.astype(np.int32), task=np.arange(24, dtype=np.int16) % 2,
            tasks=np.array(["first", "second"]), id=np.array([f"id-{i}" for i in range(24)]),
        )  # fmt: skip
    small = {
        "TRAIN": "2", "REPAIR": "1", "SAVE": "1", "MICRO": "600", "STEP": "600", "BYTES": "6000", "MEASURED": "2",
        "ANSWERS": "3", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, RECIPE / "train.py", base, tmp_path]
    for _ in range(times):
        done = subprocess.run(command, env=os.environ | small, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
    packed = load_file(tmp_path / "probe.safetensors")
    assert packed["model.layers.0.self_attn.q_proj.left"].dtype.is_signed
    assert packed["model.layers.0.self_attn.q_proj.left"].shape[1] >= 4
    answers = [json.loads(line) for line in (tmp_path / "outputs-4k-0.jsonl").read_text().splitlines()]
    assert sorted(answer["id"] for answer in answers) == [f"id-{i}" for i in range(6)]
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["full"]) == {"first", "second"}
