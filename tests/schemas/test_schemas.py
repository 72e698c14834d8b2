"""The published schemas are those of the types, and both take what is written and refuse everything else."""

from __future__ import annotations

import copy
import json
import operator
import re
import runpy
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from sparse_tasks.core.records import Manifest, Record, convert, problem, to_builtins
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.results import read_outcomes, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.schemas import names, schema
from tests.cli.program import ROOT
from tests.generators.requests import make_request
from tests.schemas.validation import problems

MODULE = runpy.run_path(str(ROOT / "scripts/schemas"))
TYPES: dict[str, tuple[type[Record], ...]] = MODULE["TYPES"]
NAMES = names()
# 1.5 and not 1.0, which a schema takes for a whole number and a type does not.
OTHERS = (None, True, -1, 0, 1.5, 2**63, "", "x y", "x\n", [], [None], {}, {"x": 1})


@pytest.fixture(scope="module")
def examples(qwen: PromptTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One thing of each schema, as it is really written."""
    folder = tmp_path_factory.mktemp("schemas")
    request = make_request(["3k"], ["story_multihop", "ruler_niah"], samples=1)
    row = make_sample(request, qwen, request.tasks[0], 3072, 0).row()
    manifest = generate_folder(request, qwen, folder / "data")
    dataset = open_dataset(str(folder / "data"))
    replayed = {"id": "", "text": "<answer>a</answer>", "finish_reason": "stop", "input_tokens": 1, "output_tokens": 2,
                "seconds": 0.5, "seconds_to_first_token": 0.25, "sparsity": {"prefill": 0.5}}  # fmt: skip
    outputs = [replayed | {"id": row["id"]} for row in dataset.rows(dataset.select())]
    (folder / "outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in outputs), encoding="utf-8")
    command = ("evaluate", "data", "--engine", "replay")
    with Run(folder / "run") as run:
        predict(
            RunRequest(dataset, dataset.select(), str(folder / "outputs.jsonl"), "replay", command_line=command), run
        )
        result, prediction = score_run(run), next(run.predictions())
        settings = run.settings
    rows, sha256 = read_outcomes(folder / "run"), result.dataset_sha256
    comparison = to_builtins(compare(rows, rows, dataset_a=sha256, dataset_b=sha256))
    submission = json.loads(make_submission(read_runs([folder / "run"]), "mine", "me@example.org"))
    submission["runs"][0]["comparison"] = comparison
    (folder / "submission.json").write_text(json.dumps(submission), encoding="utf-8")
    verdict = check(folder / "submission.json", [dataset])
    written = {
        "sample-1.0": row,
        "manifest-1.0": manifest,
        "run-1.0": settings,
        "prediction-1.0": prediction,
        "replay-1.0": outputs[0],
        "result-1.0": result,
        "comparison-1.0": comparison,
        "submission-1.0": submission,
        "verdict-1.0": to_builtins(verdict),
    }
    return {name: json.loads(json.dumps(value, default=to_builtins)) for name, value in written.items()}


def test_every_schema_has_an_example_and_a_type(examples: dict[str, Any]) -> None:
    assert sorted(examples) == NAMES == sorted(TYPES)


def test_the_files_are_what_the_types_give() -> None:
    for name, made in MODULE["schemas"]().items():
        jsonschema.Draft202012Validator.check_schema(made)
        text = (files("sparse_tasks.schemas") / f"{name}.json").read_text(encoding="utf-8")
        assert text == MODULE["written"](made), "run scripts/schemas"


def test_a_submission_refers_to_the_records_that_it_holds() -> None:
    parts = schema("submission-1.0")["$defs"]
    assert parts["SubmissionRun"]["properties"]["result"]["$ref"] == "result-1.0"
    assert parts["PublicSettings"]["properties"]["model"]["$ref"] == "run-1.0#/$defs/ModelRecord"


# What is left out where there is nothing to say.
OPTIONAL = {
    "turns",
    "later",
    "encoder",
    "missing",
    "missing_a",
    "missing_b",
    "thinking",
    "thinking_tokens",
    "answer_tokens",
    "cut_thinking",
    "ambiguous",
    "read_by",
    "corpora",
    "completed",
    "template",
    "begin_answer",
    "control_tokens",
    "compress",
    "format_share",
    "nominal",
    "serving",
    "samples_sha256",
    "made_from",
    "datasets",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_object_is_closed(name: str) -> None:
    # Nothing that nobody has thought of comes in by an open door; parameters are the tasks' own.
    def objects(part: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(part, dict):
            if part.get("type") == "object":
                yield path, part
            for key, value in part.items():
                yield from objects(value, f"{path}/{key}")
        elif isinstance(part, list):
            for i, value in enumerate(part):
                yield from objects(value, f"{path}/{i}")

    for path, part in objects(schema(name), ""):
        if name == "replay-1.0" and not path:
            assert part["additionalProperties"] is True  # others make it, and may have more to say
        elif not path.endswith(("/parameters", "/arguments", "/details")):
            assert part.get("additionalProperties") not in (None, True), path
            assert set(part.get("properties", {})) - OPTIONAL == set(part.get("required", [])) - OPTIONAL, path


# --- what is taken and what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_written_records_are_valid(name: str, examples: dict[str, Any]) -> None:
    assert problems(examples[name], name) == []
    assert to_builtins(convert(examples[name], TYPES[name][0], name)) == examples[name]


# Objects whose names are not ours.
FREE = ("parameters", "libraries", "special_tokens", "arguments", "details", "packages")
# Within a submission, these have schemas of their own, with which they are tried.
RECORDS = ("result", "comparison")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value that the schema closes."""
    if path:
        yield path
    if path and path[-1] in FREE + RECORDS:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutations(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The value with one place left out, one too many, or one of another kind."""

    def changed(path: tuple[Any, ...], change: Callable[[Any, Any], object]) -> tuple[tuple[Any, ...], Any]:
        inside = copied = copy.copy(value)
        for key in path[:-1]:
            inside[key] = copy.copy(inside[key])
            inside = inside[key]
        change(inside, path[-1])
        return path, copied

    for path in places(value):
        yield changed(path, operator.delitem)
        for other in OTHERS:
            yield changed(path, lambda inside, key, other=other: operator.setitem(inside, key, other))
        yield changed((*path[:-1], "More!"), lambda inside, key: isinstance(inside, dict) and inside.update({key: 1}))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_schema_and_type_agree(name: str, examples: dict[str, Any]) -> None:
    refused = 0
    for path, value in mutations(examples[name]):
        wrong = problem(value, TYPES[name][0])
        assert bool(wrong) == bool(problems(value, name)), (path, wrong)
        if wrong:
            refused += 1
            assert "\n" not in wrong
            assert len(wrong) < 400
    assert refused > 20


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("id",), "story_multihop-3072-00000-XYZ"),
        (("id",), "story_multihop-3072-0-0123456789ab"),
        (("answers", 0), ""),
        (("evidence", 0, "depth"), 1.01),
        (("question_position",), "before"),
        (("params",), "[]"),
    ],
)
def test_sample_out_of_range_is_refused(examples: dict[str, Any], place: tuple[Any, ...], value: object) -> None:
    row = copy.deepcopy(examples["sample-1.0"])
    inside = row
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    wrong = problem(row, Sample)
    assert wrong is not None
    assert wrong.startswith(str(place[0]))
    assert json.dumps(value) in wrong


@pytest.mark.parametrize(
    "name",
    [
        "../3072/ruler_niah-test-00000-of-00001.parquet",
        "/3072/ruler_niah-test-00000-of-00001.parquet",
        "3072/a/ruler_niah-test-00000-of-00001.parquet",
        "3072/ruler_niah-test-00000-of-00001.parquet\n",
        "3072/ruler_niah-test-0-of-1.parquet",
        "3072\\ruler_niah-test-00000-of-00001.parquet",
        "",
    ],
)
def test_file_name_cannot_lead_elsewhere(examples: dict[str, Any], name: str) -> None:
    manifest = copy.deepcopy(examples["manifest-1.0"])
    manifest["files"][name] = next(iter(manifest["files"].values()))
    assert problem(manifest, Manifest)
    assert problems(manifest, "manifest-1.0")


def test_a_problem_names_field_and_value_and_is_short(examples: dict[str, Any]) -> None:
    row = copy.deepcopy(examples["sample-1.0"])
    row["evidence"][0]["depth"] = 7
    assert problem(row, Sample) == "evidence[0].depth: expected `float` <= 1.0, not 7"
    assert problem([], Sample) == "value: expected `object`, not []"
    wrong = problem(row | {"prompt": ["word " * 10_000]}, Sample)
    assert wrong is not None
    assert re.fullmatch(r"prompt: expected `str`, not .{1,90}", wrong)
