"""Whatever an engine does, a run keeps its answers, resumes, and ends as an undisturbed one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import DataError, EngineError, UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.dataset import Dataset, Selection, open_dataset
from sparse_tasks.evaluators.predict import RunRequest, default_folder, predict
from sparse_tasks.evaluators.results import score_run
from sparse_tasks.evaluators.runs import Run
from tests.cli.program import contents
from tests.schemas.validation import problems

Refused = Callable[..., Any]
Made = Callable[..., dict[str, Any]]


@pytest.fixture
def make(fake: Any, dataset: Dataset, model: Path) -> Made:
    """Runs the fake engine into a folder; with ``finish`` the run is scored too."""

    def run_it(folder: Path, finish: bool = False, selection: Selection | None = None, **options: Any) -> Any:
        progress = options.pop("progress", None)
        request = RunRequest(dataset, selection or dataset.select(), str(model), "fake", **options)
        with Run(folder) as run:
            settings = predict(request, run, progress)
            return to_builtins(score_run(run) if finish else settings)

    return run_it


def files(folder: Path) -> dict[str, bytes | None]:
    """What does not depend on when a run was made."""
    return {name: content for name, content in contents(folder).items() if name != "run.json"}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_bytes().splitlines()]


class Noted:
    """Records calls."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.told.append((name, *values))


def test_a_run_has_every_sample_and_its_settings(
    tmp_path: Path, make: Made, fake: Any, dataset: Dataset, model: Path, rows: list[dict[str, Any]]
) -> None:
    settings = make(tmp_path, command_line=["evaluate", "data"])
    expected = [
        {name: row[name] for name in ("id", "task", "index", "length", "input_tokens")}
        | {"text": fake.texts[row["id"]], "finish_reason": "stop", "output_tokens": 7}
        | dict.fromkeys(
            ["thinking_tokens", "seconds_to_first_token", "seconds", "sparsity", "sparsity_spread", "kv_bytes_per_step"]
        )
        for row in rows
    ]
    assert lines(tmp_path) == expected
    assert settings == json.loads((tmp_path / "run.json").read_bytes())
    assert problems(settings, "run-1.0") == []
    assert settings["dataset"] == {
        "name": dataset.name,
        "revision": None,
        "sha256": dataset.sha256,
        "fingerprint": dataset.manifest.fingerprint,
        "tasks": ["ruler_niah", "ruler_vt"],
        "lengths": [1100, 1500],
        "limit": None,
        "samples": 16,
    }
    assert settings["engine"] == {"name": "fake", "version": "1.2.3", "arguments": {}, "details": {"starts": 0}}
    assert settings["attention"] == {"method": "dense", "sparsity": 0.0, "arguments": {}}
    assert settings["sampling"] == {"temperature": 0.0, "seed": 42, "max_new_tokens": None}
    assert settings["prompt"]["rendered_by"] == "sparse-tasks"
    assert settings["prompt"]["as_generated"] is True
    assert settings["prompt"]["tokenizer_sha256"] == dataset.manifest.tokenizer.sha256
    assert settings["query_aware"] is True
    assert settings["model"]["name"] == str(model)
    assert settings["command_line"] == ["evaluate", "data"]


def test_the_engine_is_started_for_what_is_needed_and_stopped(
    tmp_path: Path, make: Made, fake: Any, rows: list[dict[str, Any]]
) -> None:
    make(tmp_path)
    assert fake.log == [("start", max(row["input_tokens"] + row["max_new_tokens"] for row in rows)), "stop"]
    assert [len(request.ids) for request in fake.asked] == [row["input_tokens"] for row in rows]
    assert {request.max_new_tokens for request in fake.asked} == {row["max_new_tokens"] for row in rows}


def test_a_users_budget_overrides_the_samples(tmp_path: Path, make: Made, fake: Any) -> None:
    settings = make(tmp_path, max_new_tokens=11)
    assert {request.max_new_tokens for request in fake.asked} == {11}
    assert settings["sampling"]["max_new_tokens"] == 11


def test_answers_are_sorted_into_the_data_sets_order(tmp_path: Path, make: Made, fake: Any) -> None:
    make(tmp_path / "a", finish=True)
    fake.backwards = True
    make(tmp_path / "b", finish=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_no_engine_is_started_for_a_complete_run(tmp_path: Path, make: Made, fake: Any) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    fake.log.clear()
    noted = Noted()
    make(tmp_path, progress=noted)
    assert fake.log == []
    assert noted.told == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("after", "backwards"), [(0, False), (1, True), (15, True)])
def test_a_run_whose_engine_failed_resumes_to_the_same_bytes(
    after: int, backwards: bool, tmp_path: Path, make: Made, fake: Any, refused: Refused
) -> None:
    make(tmp_path / "clean", finish=True)
    fake.log.clear()
    fake.asked.clear()
    fake.fails_after, fake.backwards = after, backwards
    with refused(EngineError, "the fake fell over"):
        make(tmp_path / "run")
    assert fake.log[-1] == "stop"
    kept = lines(tmp_path / "run") if after else []
    assert len(kept) == after
    fake.asked.clear()
    fake.fails_after = None
    assert make(tmp_path / "run", finish=True)["averages"][0]["mean"] == 1
    assert len(fake.asked) == 16 - after
    assert {request.id for request in fake.asked}.isdisjoint(row["id"] for row in kept)
    assert files(tmp_path / "run") == files(tmp_path / "clean")


def test_an_engine_that_does_not_start_is_stopped_and_leaves_nothing(
    tmp_path: Path, make: Made, fake: Any, refused: Refused
) -> None:
    fake.fails_at_start = True
    with refused(EngineError, "does not start"):
        make(tmp_path / "run")
    assert fake.log[-1] == "stop"
    assert contents(tmp_path) == {}


def test_ctrl_c_stops_the_engine_and_keeps_the_answers(tmp_path: Path, make: Made, fake: Any) -> None:
    class Interrupted(Noted):
        def predicted(self, output: object) -> None:
            if len(fake.asked) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, progress=Interrupted())
    assert fake.log[-1] == "stop"
    assert len(lines(tmp_path)) == 5
    assert sorted(contents(tmp_path)) == ["predictions.jsonl", "run.json"]
    make(tmp_path)
    assert len(lines(tmp_path)) == 16


@pytest.mark.parametrize("after", [0, 15])
def test_an_engine_that_ends_early_is_reported_and_the_next_call_resumes(
    after: int, tmp_path: Path, make: Made, fake: Any, rows: list[dict[str, Any]], refused: Refused
) -> None:
    fake.ends_after = after
    with refused(EngineError, f"left out {16 - after} of 16 samples", rows[after]["id"]):
        make(tmp_path)
    assert fake.log[-1] == "stop"
    fake.ends_after = None
    make(tmp_path)
    assert [row["id"] for row in lines(tmp_path)] == [row["id"] for row in rows]


def test_an_answer_without_a_request_is_refused(
    tmp_path: Path, make: Made, fake: Any, rows: list[dict[str, Any]], refused: Refused
) -> None:
    fake.renames = {rows[2]["id"]: "ruler_niah-9"}
    with refused(EngineError, "ruler_niah-9, which was not requested"):
        make(tmp_path)
    assert len(lines(tmp_path)) == 2


def test_a_second_answer_to_a_sample_is_refused(
    tmp_path: Path, make: Made, fake: Any, rows: list[dict[str, Any]], refused: Refused
) -> None:
    fake.renames = {rows[2]["id"]: rows[0]["id"]}
    with refused(EngineError, rows[0]["id"], "again"):
        make(tmp_path)
    fake.renames = {}
    make(tmp_path)
    assert [row["id"] for row in lines(tmp_path)] == [row["id"] for row in rows]


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_prompt_of_other_tokens_than_counted_is_refused(
    extra: int, tmp_path: Path, make: Made, fake: Any, rows: list[dict[str, Any]], refused: Refused
) -> None:
    fake.extra_tokens = extra
    counted = rows[0]["input_tokens"]
    with refused(EngineError, f"read {counted + extra:,} tokens", rows[0]["id"], f"has {counted:,}"):
        make(tmp_path)
    assert fake.log[-1] == "stop"
    assert not (tmp_path / "predictions.jsonl").exists()


def test_prompts_that_do_not_fit_stop_before_the_engine_starts(
    tmp_path: Path, make: Made, fake: Any, dataset: Dataset, refused: Refused
) -> None:
    fake.limit = 1100 + 1024
    with refused(UsageError, "length: 1500", "context of 2,124"):
        make(tmp_path / "run")
    assert fake.log == []
    assert contents(tmp_path) == {}
    make(tmp_path / "run", selection=dataset.select(lengths=[1100]))
    make(tmp_path / "other", max_new_tokens=1)


def test_prompts_are_counted_by_the_models_own_tokenizer(
    tmp_path: Path, make: Made, fake: Any, tokenizer_folders: dict[str, Path], rows: list[dict[str, Any]]
) -> None:
    noted = Noted()
    settings = make(tmp_path, tokenizer=str(tokenizer_folders["llama"]), progress=noted)
    assert settings["prompt"]["as_generated"] is False
    assert noted.told[:17] == [("counting", 16), *[("counted",)] * 16]
    name, engine, samples, tokens, done = noted.told[17]
    assert (name, engine, samples, done) == ("starting", "fake", 16, 0)
    assert tokens == sum(row["input_tokens"] for row in lines(tmp_path))
    assert [row["input_tokens"] for row in lines(tmp_path)] != [row["input_tokens"] for row in rows]


def test_a_doubled_beginning_stops_the_run_and_the_engine(
    tmp_path: Path, make: Made, fake: Any, tokenizer_folders: dict[str, Path], refused: Refused
) -> None:
    template = tmp_path / "doubled.jinja"
    template.write_text("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}")
    with refused(UsageError, "chat-template: '<s>'", "twice"):
        make(tmp_path / "run", tokenizer=str(tokenizer_folders["llama"]), chat_template=str(template))
    assert fake.log[-1] == "stop"
    assert not (tmp_path / "run/predictions.jsonl").exists()


def test_an_engine_that_renders_itself_gets_text_and_is_not_counted(
    tmp_path: Path, make: Made, fake: Any, rows: list[dict[str, Any]]
) -> None:
    fake.takes_ids, fake.fields = False, {"finish_reason": "stop", "input_tokens": 3}
    settings = make(tmp_path)
    assert [(request.ids, request.prompt) for request in fake.asked] == [([], row["prompt"]) for row in rows]
    assert settings["prompt"] == {
        "rendered_by": "engine",
        "tokenizer_sha256": None,
        "chat_template_sha256": None,
        "as_generated": False,
    }
    assert {row["input_tokens"] for row in lines(tmp_path)} == {3}


def test_another_request_is_refused_before_the_engine_starts(
    tmp_path: Path, make: Made, fake: Any, dataset: Dataset, refused: Refused
) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    fake.log.clear()
    for name, options in {
        "sampling.seed": {"seed": 1},
        "sampling.temperature": {"temperature": 0.5},
        "sampling.max_new_tokens": {"max_new_tokens": 8},
        "engine.arguments.x": {"engine_arguments": {"x": 1}},
        "dataset.tasks": {"selection": dataset.select(["ruler_vt"])},
        "prompt.chat_template_sha256": {"chat_template": "none"},
    }.items():
        with refused(UsageError, "output: ", f"({name} is "):
            make(tmp_path, **options)
    assert fake.log == []
    assert contents(tmp_path) == before


def test_a_prediction_of_another_sample_is_refused_and_kept(
    tmp_path: Path, make: Made, fake: Any, refused: Refused
) -> None:
    make(tmp_path)
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write((json.dumps(lines(tmp_path)[0] | {"id": "stranger"}) + "\n").encode())
    before = contents(tmp_path)
    with refused(DataError, "predictions.jsonl", "stranger is not a sample"):
        make(tmp_path)
    assert contents(tmp_path) == before


def test_progress_is_called_for_every_answer(tmp_path: Path, make: Made, rows: list[dict[str, Any]], fake: Any) -> None:
    fake.fails_after = 4
    with pytest.raises(EngineError):
        make(tmp_path)
    fake.fails_after, noted = None, Noted()
    make(tmp_path, progress=noted)
    tokens = sum(row["input_tokens"] for row in rows[4:])
    assert noted.told[:2] == [("starting", "fake", 12, tokens, 4), ("started",)]
    assert [(name, output.id) for name, output in noted.told[2:]] == [("predicted", row["id"]) for row in rows[4:]]


@pytest.mark.parametrize(
    ("named", "on", "expected"),
    [
        ("demo", "sparse-tasks-4k", "runs/demo-sparse-tasks-4k"),
        ("Qwen/Qwen2.5-7B-Instruct", "/data/sparse tasks/", "runs/Qwen2.5-7B-Instruct-sparse-tasks"),
        ("some/model@v1", "out", "runs/model-v1-out"),
        ("outputs.jsonl", "/home/me@work/data", "runs/outputs.jsonl-data"),
        ("/", ".", "runs/run-run"),
    ],
)
def test_a_run_gets_a_default_name(named: str, on: str, expected: str, dataset: Dataset) -> None:
    data = Dataset(on, dataset.path, None, dataset.manifest, dataset.sha256)
    assert default_folder(RunRequest(data, data.select(), named)).as_posix() == expected


def test_a_data_set_whose_question_comes_after_is_not_query_aware(
    copy: Path, tmp_path: Path, model: Path, fake: Any
) -> None:
    manifest = json.loads((copy / "sparse_tasks.json").read_bytes())
    manifest["request"]["question_position"] = "after"
    (copy / "sparse_tasks.json").write_text(json.dumps(manifest))
    data = open_dataset(str(copy))
    with Run(tmp_path / "run") as run:
        assert predict(RunRequest(data, data.select(limit=1), str(model), "fake"), run).query_aware is False


def test_the_tokenizer_has_the_models_revision(
    tmp_path: Path, make: Made, fake: Any, model: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the cache of the Hub's library, main has moved on, and has no tokenizer any more.
    repository = tmp_path / "hub/models--acme--small"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "snapshots" / ("b" * 40) / "tokenizer.json").unlink()
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("b" * 40)
    (repository / "refs/v1").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with Run(tmp_path / "run") as run:
        settings = predict(RunRequest(dataset, dataset.select(limit=1), "acme/small@v1", "fake"), run)
    assert settings.model.revision == "a" * 40
    assert settings.prompt.as_generated is True
