"""The worst samples: which, with what evidence, and what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import run as run_program
from tests.evaluators.example_runs import made_run
from tests.evaluators.report.reading import Element, parsed
from tests.evaluators.report.sweeps import Report


@pytest.fixture
def answered(data: Path, gold: dict[str, str], outputs: Callable[..., Path], tmp_path: Path) -> Path:
    """A dense run that is right about everything, and a sparse one that is wrong about every other sample."""
    wrong = {id: text if number % 2 else "<answer>no idea</answer>" for number, (id, text) in enumerate(gold.items())}
    for name, texts in (("dense", gold), ("quest", wrong)):
        folder = tmp_path / "runs" / name
        done = run_program(
            "evaluate", data, "--engine", "replay", "--model", outputs(texts, f"{name}.jsonl"), "-o", folder
        )
        assert done.code == 0, done.err
        settings = json.loads((folder / "run.json").read_text())
        settings["model"] |= {"name": "acme/small", "sha256": None}
        settings["attention"] = {"method": name, "sparsity": 0.5 if name == "quest" else 0.0, "arguments": {}}
        (folder / "run.json").write_text(json.dumps(settings))
    return tmp_path / "runs"


def samples(page: str) -> list[Element]:
    return parsed(page).section("worst").all("article")


def test_a_sample_has_its_prompt_its_evidence_the_right_answer_and_both_outputs(
    answered: Path, report: Report, rows: list[dict[str, Any]]
) -> None:
    shown = samples(report(answered))
    assert len(shown) == 6
    by_title = {(row["task"], row["index"]): row for row in rows if row["length"] == 1500}
    first = shown[0]
    task, _, index = first.all("h3")[0].text.partition(". ")[2].partition(", sample ")
    row = by_title[task, int(index)]
    assert first.all("mark")
    for mark in first.all("mark"):
        assert mark.text in " ".join(row["prompt"].split())
    words = [one.text for one in first.all("div") if "words" in (one.attributes.get("class") or "")]
    assert words[1] == " ".join(row["answer"].split())
    assert words[2] == " ".join(f"<answer>{row['answer']}</answer>".split())
    assert words[3] == "<answer>no idea</answer>"
    assert "dense , score 1.00" in first.text
    assert "quest 0.5 , score 0.00" in first.text


def test_the_choice_is_spread_over_tasks_and_names_no_sample_twice(answered: Path, report: Report) -> None:
    titles = [one.all("h3")[0].text.partition(". ")[2] for one in samples(report(answered))]
    tasks = [title.partition(",")[0] for title in titles]
    assert sorted(tasks.count(task) for task in set(tasks)) == [3, 3]


def test_another_place_of_the_data_set_can_be_given(answered: Path, report: Report, copy: Path) -> None:
    for name in ("dense", "quest"):
        path = answered / name / "run.json"
        settings = json.loads(path.read_text())
        settings["dataset"]["name"] = "./gone"
        path.write_text(json.dumps(settings))
    page = report(answered)
    assert "<mark>" not in page
    assert "say with --data where it is" in parsed(page).section("worst").text
    assert "no idea" in page
    assert "<mark>" in report(answered, data=str(copy))


def test_what_lost_most_comes_first_and_what_lost_nothing_not_at_all(tmp_path: Path, report: Report) -> None:
    made_run(tmp_path / "dense", {("ruler_vt", 1024): [1.0, 1.0, 0.5, 0.0]})
    made_run(tmp_path / "quest", {("ruler_vt", 1024): [0.75, 0.0, 0.5, 1.0]}, attention="quest", sparsity=0.9)
    titles = [one.all("h3")[0].text for one in samples(report(tmp_path))]
    assert titles == ["1. ruler_vt, sample 1", "2. ruler_vt, sample 0"]
