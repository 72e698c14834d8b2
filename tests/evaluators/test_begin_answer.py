"""Begun answers in a run: what the engine gets, what is recorded, how it is scored and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.records import Result
from sparse_tasks.evaluators.results import compare_runs, score_run
from sparse_tasks.evaluators.runs import Run
from tests.cli.program import run
from tests.schemas.validation import problems

Refused = Callable[..., Any]


def answered(folder: Path, dataset: Dataset, model: Path, begin_answer: bool | None, **more: Any) -> Result:
    with Run(folder) as opened:
        predict(RunRequest(dataset, dataset.select(), str(model), "fake", begin_answer=begin_answer, **more), opened)
        return score_run(opened, dataset)


def generated(folder: Path, model: Path, *options: object) -> Dataset:
    arguments = ["-l", "2048", "-t", "ruler_niah_single_2", "-n", "3", "-w", "1", "--tokenizer", model, *options]
    assert run("generate", *arguments, "-o", folder).code == 0
    return open_dataset(str(folder))


def written(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_bytes())


@pytest.fixture
def inside(fake: Any) -> Any:
    """The fake, which writes the gold answer without its opening tag."""
    fake.texts = {identifier: text.removeprefix("<answer>") for identifier, text in fake.texts.items()}
    return fake


def test_the_engine_gets_the_beginning_and_its_tokens_count(
    tmp_path: Path, dataset: Dataset, model: Path, inside: Any, rows: list[dict[str, Any]]
) -> None:
    result = answered(tmp_path / "run", dataset, model, True)
    tokenizer = load_tokenizer(str(model))
    for request, row in zip(inside.asked, rows, strict=True):
        assert request.ids == tokenizer.ids(row["prompt"], "<answer>\n")
        assert tokenizer.backend.decode(request.ids, skip_special_tokens=False).endswith("<answer>\n")
        assert len(request.ids) > row["input_tokens"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["input_tokens"] for line in lines] == [len(request.ids) for request in inside.asked]
    assert {config.mean for config in result.configs} == {1.0}
    assert {config.unparsed + config.fallback for config in result.configs} == {0.0}


def test_it_is_recorded_only_if_set(tmp_path: Path, dataset: Dataset, model: Path, inside: Any) -> None:
    for name, begin_answer in (("with", True), ("without", False)):
        answered(tmp_path / name, dataset, model, begin_answer)
        settings, result = written(tmp_path / name, "run.json"), written(tmp_path / name, "result.json")
        assert settings["prompt"].get("begin_answer") == (begin_answer or None)
        assert result.get("begin_answer") == (begin_answer or None)
        assert (problems(settings, "run-1.0"), problems(result, "result-1.0")) == ([], [])
        assert settings["prompt"]["as_generated"] is not begin_answer


def test_the_models_limit_includes_the_beginning(
    tmp_path: Path, dataset: Dataset, model: Path, inside: Any, rows: list[dict[str, Any]], refused: Refused
) -> None:
    inside.limit = max(row["input_tokens"] for row in rows) + 10
    answered(tmp_path / "without", dataset, model, False, max_new_tokens=10)
    with refused(UsageError, "length: 1500 is too long for the model"):
        answered(tmp_path / "with", dataset, model, True, max_new_tokens=10)


def test_a_run_resumes_only_with_the_same_setting(
    tmp_path: Path, dataset: Dataset, model: Path, inside: Any, refused: Refused
) -> None:
    answered(tmp_path / "run", dataset, model, True)
    with refused(UsageError, "holds another run (prompt.begin_answer is true in it, null here"):
        answered(tmp_path / "run", dataset, model, None)


def test_an_engine_that_cannot_begin_answers_is_refused(
    tmp_path: Path, dataset: Dataset, model: Path, inside: Any, refused: Refused
) -> None:
    inside.takes_ids = False
    with refused(UsageError, "engine: 'fake' renders prompts itself and cannot begin answers", "--no-begin-answer"):
        answered(tmp_path / "run", dataset, model, True)
    inside.begins_answers = True
    answered(tmp_path / "run", dataset, model, True)
    assert {request.beginning for request in inside.asked} == {"<answer>\n"}


# --- data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["auto", "none"])
def test_a_run_may_override_a_data_set_that_begins_answers(
    tmp_path: Path, model: Path, inside: Any, template: str
) -> None:
    dataset = generated(tmp_path / "data", model, "--preset", "small", "--chat-template", template)
    rows = list(dataset.rows(dataset.select()))
    tokenizer = load_tokenizer(str(model), template)
    inside.texts = {row["id"]: f"{row['answer']}</answer>" for row in rows}
    result = answered(tmp_path / "as it is", dataset, model, None, chat_template=template)
    assert [len(request.ids) for request in inside.asked] == [row["input_tokens"] for row in rows]
    assert written(tmp_path / "as it is", "run.json")["prompt"]["as_generated"] is True
    assert (result.begin_answer, result.configs[0].mean) == (True, 1.0)

    inside.asked.clear()
    without = answered(tmp_path / "otherwise", dataset, model, False, chat_template=template)
    ends = [tokenizer.backend.decode(request.ids, skip_special_tokens=False)[-40:] for request in inside.asked]
    assert not any("<answer>\n" in end for end in ends)
    assert all(end.endswith("<explanation>") for end in ends) == (template == "none")
    assert without.configs[0].unparsed == 1.0


def test_a_ruler_completion_moves_into_the_models_turn(tmp_path: Path, model: Path, fake: Any) -> None:
    dataset = generated(tmp_path / "data", model, "--preset", "ruler")
    rows = list(dataset.rows(dataset.select()))
    fake.texts = {row["id"]: f" {row['answer']}." for row in rows}
    result = answered(tmp_path / "run", dataset, model, True)
    tokenizer = load_tokenizer(str(model))
    for request, row in zip(fake.asked, rows, strict=True):
        assert request.prompt == row["prompt"].removesuffix(row["answer_prefix"])
        text = tokenizer.backend.decode(request.ids, skip_special_tokens=False)
        assert text.endswith("[end][assistant] " + row["answer_prefix"].lstrip())
    assert result.configs[0].mean == 1.0


def test_a_template_of_the_users_begins_no_answers_of_its_own_beside_the_preset(tmp_path: Path, model: Path) -> None:
    words = tmp_path / "words.toml"
    parts = ('intro = "Read.\\n\\n"', 'question = "Which {kind} of {keys}? {format}"', 'answer_prefix = "It is"')
    words.write_text("\n".join(["[ruler_niah_single_2]", *parts]))
    arguments = ["-l", "2048", "-t", "ruler_niah_single_2", "--template", words, "--tokenizer", model]
    done = run("generate", *arguments, "--preset", "small", "-o", tmp_path / "data")
    assert done.code == 2
    assert "template: 'ruler_niah_single_2.answer_prefix' does not go with the preset small" in done.err


# --- comparison ---------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path, dataset: Dataset, model: Path, inside: Any) -> tuple[Path, Path]:
    """The same model without, where it scores nothing, and with, where it scores all."""
    for name, begin_answer in (("without", False), ("with", True)):
        answered(tmp_path / name, dataset, model, begin_answer)
    return tmp_path / "without", tmp_path / "with"


def test_runs_that_differ_only_in_it_give_the_share_of_the_format(pair: tuple[Path, Path]) -> None:
    comparison = compare_runs(*pair)
    assert comparison.format_share is True
    assert {row.difference for row in comparison.rows} == {1.0}
    assert not any(row.unable for row in comparison.rows)  # the model can do them, once it is begun
    done = run("compare", *pair)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[1].endswith("attention dense, answers begun)")
    assert any(line.split()[:5] == ["task", "n", "A", "B", "format"] for line in lines)
    assert any(line.startswith("format: B - A") for line in lines)
    assert all(len(line) <= 80 for line in lines[2:])
    assert run("compare", *pair, "--format", "json").json()["format_share"] is True


def test_other_pairs_of_such_runs_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, dataset: Dataset, model: Path, inside: Any, refused: Refused
) -> None:
    with refused(UsageError, "begins its answers and", "does not; name the run without first"):
        compare_runs(*pair[::-1])
    answered(tmp_path / "long", dataset, model, True, max_new_tokens=99)
    with refused(UsageError, "they differ in other settings (sampling.max_new_tokens is null in it, 99 here)"):
        compare_runs(pair[0], tmp_path / "long")
    assert compare_runs(pair[1], tmp_path / "long").format_share is not True  # both begin


def test_analyses_separate_such_runs(pair: tuple[Path, Path]) -> None:
    runs = read_runs(list(pair))
    assert len(set(runs.prompts)) == len({read.pairing for read in runs.runs}) == 2


# --- the command line ---------------------------------------------------------------------------------------


def test_the_command_takes_one_of_its_two_options(
    data: Path, gold: dict[str, str], outputs: Any, tmp_path: Path
) -> None:
    file = outputs({identifier: text.removeprefix("<answer>") for identifier, text in gold.items()})
    command = ["evaluate", data, "--engine", "replay", "-m", file]
    done = run(*command, "--begin-answer", "-o", tmp_path / "run", "--format", "json")
    assert done.code == 0, done.err
    assert {config["mean"] for config in done.json()["configs"]} == {1.0}
    both = run(*command, "--begin-answer", "--no-begin-answer", "-o", tmp_path / "both")
    assert both.code == 2
    assert "begin-answer: True contradicts --no-begin-answer" in both.err
