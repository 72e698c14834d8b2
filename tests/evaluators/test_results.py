"""What a run scored is what its answers are worth, of all samples that were asked, and of no others."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.core.turns import request_id
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.results import SCORES_SCHEMA, read_outcomes, read_result, read_scores, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.evaluators.statistics import mean_interval
from sparse_tasks.generators.table import SCHEMA, samples_sha256
from tests.cli.program import contents, run
from tests.schemas.validation import problems

Refused = Callable[..., Any]
Lines = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path, fake: Any, dataset: Dataset, model: Path) -> Path:
    """A run that answered everything right, not scored yet."""
    return answered(tmp_path / "run", dataset, model)


def answered(folder: Path, dataset: Dataset, model: Path, **choice: Any) -> Path:
    with Run(folder) as opened:
        predict(RunRequest(dataset, dataset.select(**choice), str(model), "fake"), opened)
    return folder


def changed(folder: Path, change: Callable[[int, dict[str, Any]], object]) -> Path:
    """Rewrite a run's predictions."""
    path = folder / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for number, line in enumerate(lines):
        change(number, line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line), encoding="utf-8")
    return folder


def scored(folder: Path, data: str | None = None) -> dict[str, Any]:
    with Run(folder) as opened:
        return to_builtins(score_run(opened, data))


@pytest.fixture(scope="module")
def every_task(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sample of every task there is."""
    folder = tmp_path_factory.mktemp("results") / "data"
    arguments = ["-l", "12k", "-t", "all", "-n", "1", "-w", "1", "--tokenizer", model]
    assert run("generate", *arguments, "-o", folder).code == 0
    return folder


def test_gold_scores_one_and_nothing_scores_zero_in_every_task(
    every_task: Path, tmp_path: Path, fake: Any, model: Path
) -> None:
    data = open_dataset(str(every_task))
    rows = list(data.rows(data.select()))
    assert len(rows) == len(data.manifest.request.tasks) >= 7
    fake.takes_ids = False
    for name, text, worth in (("gold", "<answer>{}</answer>", 1.0), ("empty", "", 0.0)):
        fake.texts = {
            request_id(row["id"], number): text.format(asked["answer"])
            for row in rows
            for number, asked in enumerate(row["turns"] or [row])
        }
        result = scored(answered(tmp_path / name, data, model))
        assert problems(result, "result-1.0") == []
        assert {one["mean"] for one in result["configs"]} == {worth}
        assert {one["unparsed"] for one in result["configs"]} == {1.0 - worth}
        assert [average["mean"] for average in result["averages"]] == [worth]


def rewritten(folder: Path, **fields: Any) -> Dataset:
    """The data set with a column changed in every sample."""
    manifest = json.loads((folder / "sparse_tasks.json").read_bytes())
    for name, entry in manifest["files"].items():
        rows = [row | fields for row in pq.read_table(folder / name).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / name)
        entry["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        entry["samples_sha256"] = samples_sha256(rows)
    (folder / "sparse_tasks.json").write_text(json.dumps(manifest))
    return open_dataset(str(folder))


def test_a_result_records_the_run(folder: Path, dataset: Dataset, model: Path) -> None:
    result = scored(folder)
    settings = json.loads((folder / "run.json").read_bytes())
    assert result == json.loads((folder / "result.json").read_bytes())
    assert problems(result, "result-1.0") == []
    assert result["dataset_sha256"] == dataset.sha256
    for name in ("model", "attention", "query_aware"):
        assert result[name] == settings[name]
    places = [(one["length"], one["task"]) for one in result["configs"]]
    assert places == [(length, task) for length in (1100, 1500) for task in ("ruler_niah", "ruler_vt")]
    interval = mean_interval([1.0] * 4)
    for one in result["configs"]:
        assert (one["n"], one["mean"], one["low"], one["high"]) == (4, 1.0, interval.low, interval.high)
        assert (one["unparsed"], one["fallback"], one["truncated"], one["sparsity"]) == (0.0, 0.0, 0.0, None)
        assert one["output_tokens"] == 7
    assert [(one["length"], one["tasks"], one["n"], one["mean"]) for one in result["averages"]] == [
        (1100, 2, 8, 1.0),
        (1500, 2, 8, 1.0),
    ]


def test_scores_are_one_row_a_sample_in_order(folder: Path, rows: Lines) -> None:
    def spoil(number: int, line: dict[str, Any]) -> None:
        if number == 5:
            line |= {"text": "I do not know", "finish_reason": None}

    scored(changed(folder, spoil))
    table = pq.read_table(folder / "scores.parquet")
    assert table.schema.equals(SCORES_SCHEMA)
    found = table.to_pylist()
    for name in ("id", "task", "index", "length", "metric"):
        assert [row[name] for row in found] == [row[name] for row in rows]
    lost = found.pop(5)
    assert {row["score"] for row in found} == {1.0}
    assert {(row["parsed"], row["how"], row["finish_reason"]) for row in found} == {(True, "tag", "stop")}
    assert [lost[name] for name in ("score", "extracted", "parsed", "how", "finish_reason")] == [
        0.0,
        None,
        False,
        None,
        None,
    ]


def test_scoring_again_gives_the_same_bytes(folder: Path) -> None:
    scored(folder)
    before = contents(folder)
    changed(folder, lambda number, line: line.update(dict(line)))
    shuffle = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)[::-1]
    (folder / "predictions.jsonl").write_bytes(b"".join(shuffle))
    scored(folder)
    after = contents(folder)
    assert after["scores.parquet"] == before["scores.parquet"]
    assert after["result.json"] == before["result.json"]


def test_shares_are_correct(folder: Path) -> None:
    texts = ["<answer>{}", "\\boxed{{{}}}", "nothing", "<answer>{}</answer>"]

    def spoil(number: int, line: dict[str, Any]) -> None:
        answer = line["text"].removeprefix("<answer>").removesuffix("</answer>")
        line["text"] = texts[number % 4].format(answer)
        line["finish_reason"] = ["length", "stop", "length", None][number % 4]

    for one in scored(changed(folder, spoil))["configs"]:
        assert (one["unparsed"], one["truncated"], one["fallback"]) == (0.25, 0.5, 0.5)


def test_what_the_prompt_began_belongs_to_the_answer(tmp_path: Path, copy: Path, fake: Any, model: Path) -> None:
    data = rewritten(copy, answer_prefix="<answer>")
    fake.texts = {identifier: text.removeprefix("<answer>") for identifier, text in fake.texts.items()}
    result = scored(answered(tmp_path / "run", data, model))
    assert {one["mean"] for one in result["configs"]} == {1.0}
    # Without it the same text has no answer.
    plain = rewritten(copy, answer_prefix="")
    result = scored(answered(tmp_path / "plain", plain, model))
    assert {one["unparsed"] for one in result["configs"]} == {1.0}


def test_tokens_are_a_mean_only_if_all_are_known(folder: Path, rows: Lines) -> None:
    first = scored(folder)["configs"][0]
    assert first["input_tokens"] == pytest.approx(sum(row["input_tokens"] for row in rows[:4]) / 4)
    changed(folder, lambda number, line: line.update(output_tokens=None) if number == 2 else None)
    found = scored(folder)["configs"]
    assert [one["output_tokens"] for one in found] == [None, 7, 7, 7]
    assert found[0]["input_tokens"] == first["input_tokens"]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ([{"prefill": 0.5, "decode": 0.25}, {"prefill": 0.0, "decode": 0.75}], {"prefill": 0.25, "decode": 0.5}),
        ([{"prefill": 0.5, "decode": 0.25}, {"decode": 0.75}], {"decode": 0.5}),
        ([{"prefill": 0.5}, {"decode": 0.75}], None),
        ([{"prefill": 0.5}, None], None),
        ([None, None], None),
    ],
)
def test_sparsity_is_a_mean_by_phase_if_every_sample_has_it(
    measured: list[dict[str, float] | None], expected: dict[str, float] | None, folder: Path
) -> None:
    changed(folder, lambda number, line: line.update(sparsity=measured[number % 2]))
    result = scored(folder)
    assert [one["sparsity"] for one in result["configs"]] == [expected] * 4
    assert problems(result, "result-1.0") == []


def test_a_part_of_a_data_set_is_scored(tmp_path: Path, fake: Any, dataset: Dataset, model: Path) -> None:
    result = scored(answered(tmp_path / "run", dataset, model, tasks=["ruler_vt"], lengths=[1500], limit=3))
    assert [(one["task"], one["length"], one["n"]) for one in result["configs"]] == [("ruler_vt", 1500, 3)]
    assert [(one["length"], one["tasks"], one["n"]) for one in result["averages"]] == [(1500, 1, 3)]


def test_an_incomplete_run_is_refused_with_its_numbers(folder: Path, refused: Refused) -> None:
    changed(folder, lambda number, line: line.clear() if number in (3, 9) else None)
    with refused(DataError, str(folder), "2 of 16 predictions are missing", "complete the run: evaluate()"):
        scored(folder)
    (folder / "predictions.jsonl").unlink()
    with refused(DataError, "16 of 16 predictions are missing"):
        scored(folder)
    assert sorted(contents(folder)) == ["run.json"]


def test_a_prediction_without_a_sample_is_refused(folder: Path, refused: Refused) -> None:
    changed(folder, lambda number, line: line.update(id="stranger") if number == 6 else None)
    with refused(DataError, "predictions.jsonl, line 7: stranger is not a sample of the run's selection"):
        scored(folder)


def test_a_duplicate_prediction_is_refused(folder: Path, rows: Lines, refused: Refused) -> None:
    changed(folder, lambda number, line: line.update(id=rows[1]["id"]) if number == 6 else None)
    with refused(DataError, f"predictions.jsonl, line 7: {rows[1]['id']} occurs twice"):
        scored(folder)


def test_another_data_set_is_refused(folder: Path, copy: Path, data: Path, refused: Refused) -> None:
    assert scored(folder, str(copy))["averages"] == scored(folder)["averages"]  # the same samples, elsewhere
    other = rewritten(copy, seed=43)
    with refused(UsageError, "data: ", other.name, "is not the data set of the run", "--data"):
        scored(folder, other.name)


def test_a_missing_data_set_is_refused(
    tmp_path: Path, copy: Path, fake: Any, model: Path, data: Path, refused: Refused
) -> None:
    folder = answered(tmp_path / "run", open_dataset(str(copy)), model)
    shutil.rmtree(copy)
    with refused(UsageError, "data: ", str(copy)):
        scored(folder)
    assert scored(folder, str(data))["averages"][0]["mean"] == 1.0


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("tasks", ["ruler_cwe"], ["task: 'ruler_cwe'", "is unknown"]),
        ("lengths", [2048], ["length: '2k'", "is not in the data set"]),
    ],
)
def test_a_record_for_another_data_set_is_refused(
    part: str, value: object, words: list[str], folder: Path, refused: Refused
) -> None:
    settings = json.loads((folder / "run.json").read_bytes())
    settings["dataset"][part] = value
    (folder / "run.json").write_text(json.dumps(settings))
    with refused(UsageError, *words):
        scored(folder)


def test_a_sample_with_an_empty_field_is_refused(folder: Path, copy: Path, model: Path, refused: Refused) -> None:
    for fields in ({"answer_prefix": None}, {"answers": ["a", None]}, {"max_new_tokens": None}):
        data = rewritten(copy, **fields)
        with refused(DataError, ".parquet", "empty field", "sparse-tasks validate"):
            list(data.rows(data.select()))


def test_a_scored_run_is_read(folder: Path) -> None:
    result = scored(folder)
    assert to_builtins(read_result(folder)) == result
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    assert [to_builtins(row).items() for row in read_scores(folder)] == [row.items() for row in table]
    assert [row.score for row in read_outcomes(folder)] == [row["score"] for row in table]


def test_a_run_that_an_older_version_scored_is_read(folder: Path) -> None:
    result = scored(folder)
    added = ["rules", "thinking_tokens", "answer_tokens", "cut_thinking"]
    older = pq.read_table(folder / "scores.parquet").drop_columns(added)
    pq.write_table(older, folder / "scores.parquet")
    for config in result["configs"]:
        for name in ("ambiguous", "read_by", "thinking_tokens", "answer_tokens", "cut_thinking"):
            del config[name]
    (folder / "result.json").write_text(json.dumps(result))
    assert problems(result, "result-1.0") == []
    assert to_builtins(read_result(folder)) == result
    assert [row.score for row in read_scores(folder)] == older["score"].to_pylist()
    assert {(row.rules, row.thinking_tokens, row.cut_thinking) for row in read_scores(folder)} == {(None, None, None)}
    settings = json.loads((folder / "run.json").read_bytes())
    del settings["thinking"]
    (folder / "run.json").write_text(json.dumps(settings))
    assert {config["mean"] for config in scored(folder)["configs"]} == {1.0}


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff", "[" * 100_000, '{"format": "sparse-tasks-result"}'])
def test_a_damaged_result_is_refused(text: str, folder: Path, refused: Refused) -> None:
    scored(folder)
    (folder / "result.json").write_bytes(text.encode("latin-1"))
    with refused(DataError, str(folder / "result.json")):
        read_result(folder)


def test_damaged_scores_are_refused(folder: Path, refused: Refused) -> None:
    scored(folder)
    path = folder / "scores.parquet"
    whole = path.read_bytes()
    table = pq.read_table(path)
    for content in (b"", b"PAR1", whole[:-20], b"x" * len(whole)):
        path.write_bytes(content)
        with refused(DataError, str(path), "cannot be read"):
            read_scores(folder)
    pq.write_table(table.drop_columns(["how"]), path)
    with refused(DataError, str(path), "other columns"):
        read_scores(folder)
    rows = table.to_pylist()
    pq.write_table(table.from_pylist([*rows[1:], rows[0] | {"score": None}], schema=SCORES_SCHEMA), path)
    with refused(DataError, str(path), "without score"):
        read_scores(folder)
    path.unlink()
    with refused(DataError, str(path), "cannot be read"):
        read_scores(folder)
