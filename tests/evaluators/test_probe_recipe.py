"""The recipe of the probe: what it is taught is right, and what it is tested on was not taught."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from sparse_tasks import generate, list_tasks
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.scoring import score
from tests.cli.program import ROOT, keep_tokenizers

RECIPE = ROOT / "probe"


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    with keep_tokenizers():
        yield


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


@pytest.mark.usefixtures("recipe")
def test_no_part_of_the_training_has_the_seed_of_the_tests() -> None:
    from data import ALL, PARTS

    # A round adds 1000 to each seed, so that they have to differ below that.
    seeds = {name: [stage.seed for stage in stages] for name, stages in PARTS.items()}
    taught = [seed for name, some in seeds.items() if not name.startswith("test") for seed in some]
    assert len({seed % 1000 for seed in taught}) == len(taught)
    assert {seed for name, some in seeds.items() if name.startswith("test") for seed in some} == {42}
    assert min(taught) > 1000
    untaught = {name for name in list_tasks() if name.startswith(("qa_", "ruler_qa"))}
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


TAUGHT = [
    *("story_multihop", "story_filtering", "story_retrieval", "story_judge", "qa_biographies", "ruler_vt"),
    *("reason_ledger", "reason_walk", "reason_sort", "reason_execute", "copy_nth"),
    *("code_value", "code_definition", "code_calls", "turns_story"),
    *("ladder_retrieval", "ladder_multivalue", "ladder_multihop", "ladder_filtering", "ladder_aggregation"),
]


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("task", TAUGHT)
def test_targets_score_one_for_each_question(task: str) -> None:
    from steps import questions, target

    (sample,) = generate("6k", task, 1, seed=6)[f"{task}_6k"]
    rows = list(questions(sample))
    assert [row["answer"] for row in rows] == ([turn["answer"] for turn in sample["turns"]] or [sample["answer"]])
    for row in rows:
        assert score(row["metric"], target(row), row["answers"]).value == 1.0


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("hops", [1, 5])
def test_steps_through_code_end_in_the_answer(hops: int) -> None:
    from steps import target

    for task in ("code_value", "code_definition"):
        for sample in generate("4k", task, 4, seed=7, settings={f"{task}.hops": hops})[f"{task}_4k"]:
            *_, last = target(sample).partition("\n</explanation>")[0].splitlines()
            if task == "code_value":
                assert last.endswith(f" = {sample['answer']}")
            else:
                name, file = last.partition(" is ")[2].split(" of ")
                assert f"{file}: {name}" == sample["answer"]


@pytest.mark.usefixtures("recipe")
def test_lines_of_a_search_name_all_that_it_finds() -> None:
    from steps import target

    for sample in generate("4k", "reason_walk", 4, seed=8)["reason_walk_4k"]:
        lines = target(sample).partition("\n</explanation>")[0].splitlines()[1:]
        found = {place for line in lines for place in line.partition(": ")[2].split(", ")}
        places = [answer.partition(": ")[0] for answer in sample["answers"]]
        assert found >= set(places)
        assert [line.partition(": ")[0] for line in lines[1:]] == places


@pytest.mark.usefixtures("recipe")
def test_chats_are_encoded_with_earlier_messages(llama: Path) -> None:
    from data import Stage, encode

    tokenizer = load_tokenizer(str(llama))
    (sample,) = generate("6k", "turns_story", 1, seed=9, tokenizer=str(llama))["turns_story_6k"]
    encoded = encode(Stage("6k", ("turns_story",), 1, 9), str(llama), True, [sample])
    assert [len(prompt) for _, prompt, _ in encoded] == [turn["input_tokens"] for turn in sample["turns"]]
    assert [row["id"] for row, _, _ in encoded] == [sample["id"], *(f"{sample['id']}#{n}" for n in range(2, 7))]
    for turn, (_, _, output) in zip(sample["turns"], encoded, strict=True):
        assert turn["answer"] in tokenizer.backend.decode(output)


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
    if times > 1:  # a training from these weights that changes nothing gives them back
        again = tmp_path / "again"
        again.mkdir()
        for path in tmp_path.glob("*.npz"):
            shutil.copy(path, again)
        going_on = small | {"FROM": str(tmp_path / "probe.safetensors"), "TRAIN": "0.001", "REPAIR": "0.001", "LR": "0"}
        command[-1] = again
        subprocess.run(command, env=os.environ | going_on, check=True, capture_output=True, timeout=240)
        before, after = (load_file(folder / "probe.safetensors") for folder in (tmp_path, again))
        name = "model.layers.0.mlp.down_proj"
        changes = [_change(packed, name) for packed in (before, after)]
        assert changes[0].abs().max() > 0
        assert (changes[1] - changes[0]).norm() < 0.05 * changes[0].norm()


def _change(packed: dict[str, Tensor], name: str) -> Tensor:
    left, right = packed[f"{name}.left"].float(), packed[f"{name}.right"].float()
    return (left * packed[f"{name}.left_scale"].float()) @ (right * packed[f"{name}.right_scale"].float()[:, None])
