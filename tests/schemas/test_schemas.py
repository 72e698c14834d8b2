"""The schemas are valid, take what is written and refuse everything else."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sparse_tasks.core.records import to_builtins
from sparse_tasks.core.sample import Evidence, Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.compare import compare
from sparse_tasks.evaluators.dataset import open_dataset
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.predict import RunRequest, predict
from sparse_tasks.evaluators.results import read_outcomes, score_run
from sparse_tasks.evaluators.runs import Run
from sparse_tasks.generators.request import make_request
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.schemas import problems, schema

NAMES = sorted(
    path.name.removesuffix(".json") for path in files("sparse_tasks.schemas").iterdir() if ".json" in path.name
)
# Which of them take any text or number, so that another value of the same type is no mistake of form.
OTHERS = (None, True, -1, 0.5, "", "x y", [], [None], {}, {"x": 1})
# Differences may be -1.
SIGNED = ("difference", "low", "high")


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


def test_every_schema_has_an_example(examples: dict[str, Any]) -> None:
    assert sorted(examples) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_valid_and_says_who_it_is(name: str) -> None:
    loaded = schema(name)
    assert loaded["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert loaded["$id"] == name
    assert loaded["title"]
    jsonschema.Draft202012Validator.check_schema(loaded)


# What a manifest has only where there is something to say, so that others are as they were before.
OPTIONAL = {"corpora", "completed", "template"}


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
            assert part.get("additionalProperties") is not None, path
            assert part.get("additionalProperties") is not True, path
            assert set(part.get("properties", {})) - OPTIONAL == set(part.get("required", [])), path


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_taken(name: str, examples: dict[str, Any]) -> None:
    assert problems(examples[name], name) == []


def test_sample_schema_has_the_fields_of_a_sample() -> None:
    properties = schema("sample-1.0")["properties"]
    assert list(properties) == [field.name for field in dataclasses.fields(Sample)]
    assert list(properties["evidence"]["items"]["properties"]) == [field.name for field in dataclasses.fields(Evidence)]


# Objects whose names are not ours.
FREE = ("parameters", "libraries", "special_tokens", "arguments", "details", "packages")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value that the schema closes."""
    if path:
        yield path
    if path and path[-1] in FREE:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def parent(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


@pytest.mark.parametrize("name", NAMES)
def test_anything_that_is_left_out_is_missed(name: str, examples: dict[str, Any]) -> None:
    for path in places(examples[name]):
        value = copy.deepcopy(examples[name])
        inside = parent(value, path)
        if isinstance(inside, list) and len(inside) > 1:
            continue
        if name == "manifest-1.0" and path[:-1] in (("files",), ("request", "tasks")):
            continue  # one of several, which only validation can miss
        if name == "verdict-1.0" and isinstance(path[-1], int):
            continue  # there may be no reason and no warning
        if name == "replay-1.0" and path[-1] not in ("id", "text", "prefill"):
            continue
        del inside[path[-1]]
        assert problems(value, name), path


@pytest.mark.parametrize("name", NAMES)
def test_anything_that_is_too_much_is_refused(name: str, examples: dict[str, Any]) -> None:
    for path in [(), *places(examples[name])]:
        value = copy.deepcopy(examples[name])
        inside = parent(value, (*path, None))
        if isinstance(inside, dict) and not (path and path[-1] in FREE) and (name, path) != ("replay-1.0", ()):
            inside["More!"] = 1
            assert problems(value, name), path


def takes_null(name: str, path: tuple[Any, ...]) -> bool:
    """Whether the schema says that a place may hold nothing."""
    part: Any = schema(name)
    for key in path:
        part = next((one for one in part.get("oneOf", []) if one.get("type") == "object"), part)
        named = part.get("properties", {})
        part = part["items"] if isinstance(key, int) else named.get(key, part.get("additionalProperties"))
    return "null" in part.get("type", ()) or {"type": "null"} in part.get("oneOf", ())


@pytest.mark.parametrize("name", NAMES)
def test_value_of_another_type_is_refused_with_its_place(name: str, examples: dict[str, Any]) -> None:
    for path, other in itertools.product(places(examples[name]), OTHERS):
        value = copy.deepcopy(examples[name])
        inside = parent(value, path)
        old = inside[path[-1]]
        # Text in place of text and a number in place of a number may do.
        if type(other) is type(old) or (isinstance(old, float) and other == -1 and path[-1] in SIGNED):
            continue
        if takes_null(name, path) and None in (old, other):
            continue
        if path[-1] in FREE and isinstance(other, dict):
            continue
        inside[path[-1]] = other
        found = problems(value, name)
        assert found, (path, other)
        assert any(str(path[0]) in problem for problem in found)
        assert all("\n" not in problem for problem in found)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("id",), "story_multihop-3072-00000-XYZ"),
        (("id",), "story_multihop-3072-0-0123456789ab"),
        (("task",), "Story Multihop"),
        (("index",), -1),
        (("length",), 0),
        (("input_tokens",), 0),
        (("max_new_tokens",), 0),
        (("prompt",), ""),
        (("answer",), ""),
        (("answers",), []),
        (("answers", 0), ""),
        (("evidence",), []),
        (("evidence", 0, "start"), -1),
        (("evidence", 0, "end"), 0),
        (("evidence", 0, "depth"), 1.01),
        (("evidence", 0, "depth"), -0.01),
        (("question_position",), "before"),
        (("params",), "[]"),
        (("seed",), -1),
        (("seed",), 1.5),
    ],
)
def test_sample_out_of_range_is_refused(examples: dict[str, Any], place: tuple[Any, ...], value: object) -> None:
    row = copy.deepcopy(examples["sample-1.0"])
    parent(row, place)[place[-1]] = value
    assert len(problems(row, "sample-1.0")) == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), "other"),
        (("schema_version",), "1.1"),
        (("request", "lengths"), []),
        (("request", "lengths"), [3072, 3072]),
        (("request", "samples"), 0),
        (("request", "seed"), -1),
        (("request", "tasks"), {}),
        (("request", "question_position"), "before"),
        (("tokenizer", "sha256"), "0" * 63),
        (("tokenizer", "sha256"), "X" * 64),
        (("fingerprint",), "0" * 65),
        (("card_sha256",), ""),
        (("files",), {}),
    ],
)
def test_manifest_out_of_range_is_refused(examples: dict[str, Any], place: tuple[Any, ...], value: object) -> None:
    manifest = copy.deepcopy(examples["manifest-1.0"])
    parent(manifest, place)[place[-1]] = value
    assert problems(manifest, "manifest-1.0")


@pytest.mark.parametrize(
    "name",
    [
        "../3072/ruler_niah-test-00000-of-00001.parquet",
        "/3072/ruler_niah-test-00000-of-00001.parquet",
        "3072/../ruler_niah-test-00000-of-00001.parquet",
        "3072/a/ruler_niah-test-00000-of-00001.parquet",
        "3072/ruler_niah-test-00000-of-00001.parquet\n",
        "3072/ruler_niah-test-00000-of-00001.parquet/..",
        "3072/ruler_niah-train-00000-of-00001.parquet",
        "3072/ruler_niah-test-0-of-1.parquet",
        "x/ruler_niah-test-00000-of-00001.parquet",
        "3072\\ruler_niah-test-00000-of-00001.parquet",
        "",
    ],
)
def test_file_name_cannot_lead_elsewhere(examples: dict[str, Any], name: str) -> None:
    manifest = copy.deepcopy(examples["manifest-1.0"])
    manifest["files"][name] = next(iter(manifest["files"].values()))
    assert problems(manifest, "manifest-1.0")


def test_null_template_is_a_template(examples: dict[str, Any]) -> None:
    assert problems(examples["manifest-1.0"] | {"chat_template": None}, "manifest-1.0") == []


def test_problem_names_its_place_and_is_short(examples: dict[str, Any]) -> None:
    row = copy.deepcopy(examples["sample-1.0"])
    row["evidence"][0]["depth"] = 7
    assert problems(row, "sample-1.0") == ["evidence[0].depth: 7 is greater than the maximum of 1"]
    assert problems([], "sample-1.0") == ["value: [] is not of type 'object'"]
    row = examples["sample-1.0"] | {"prompt": ["word " * 10_000]}
    found = problems(row, "sample-1.0")
    assert re.fullmatch(r"prompt: .{1,200}", found[0])
    assert found[0].endswith("is not of type 'string'")


def test_schemas_are_part_of_the_package() -> None:
    assert {"sample-1.0", "manifest-1.0"} <= set(NAMES)
    assert all(Path(str(files("sparse_tasks.schemas") / f"{name}.json")).is_file() for name in NAMES)


RULED = ("id", "task", "metric", "sha256", "fingerprint", "dataset_sha256", "file_sha256", "started")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("prediction-1.0", "replay-1.0")])
def test_no_pattern_takes_a_line_more(name: str, examples: dict[str, Any]) -> None:
    # In Python, "$" also stands before a newline at the end.
    def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield from texts(inner, (*path, key))
            if isinstance(inner, str):
                yield (*path, key)

    ruled = [path for path in texts(examples[name]) if path[-1] in RULED]
    assert ruled
    for path in ruled:
        value = copy.deepcopy(examples[name])
        parent(value, path)[path[-1]] += "\n"
        assert problems(value, name), path
