"""The check accepts honest submissions, and refuses all others for the right reason."""

from __future__ import annotations

import builtins
import copy
import io
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.leaderboard.check import check
from sparse_tasks.evaluators.leaderboard.reading import named, plain
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.records import Verdict
from tests.evaluators.leaderboard.handed_in import Edit, answered, changed, put, repacked
from tests.schemas.validation import problems

Written = Callable[[bytes], Path]


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


def test_an_honest_submission_is_accepted(honest: bytes, handed_in: Written, dataset: Dataset) -> None:
    verdict = check(handed_in(honest), [dataset])
    assert (verdict.accepted, verdict.reasons, verdict.warnings) == (True, [], [])
    assert (verdict.name, verdict.runs, verdict.samples) == ("Honest", 2, 32)
    assert problems(to_builtins(verdict), "verdict-1.0") == []
    assert check(handed_in(honest), [dataset]) == verdict


def test_a_submission_is_checked_against_its_data_set(
    honest: bytes, handed_in: Written, dataset: Dataset, copy: Path
) -> None:
    manifest = copy / "sparse_tasks.json"
    text = json.loads(manifest.read_text(encoding="utf-8"))
    text["files"] = {
        name: entry | {"sha256": "0" * 64, "samples_sha256": "0" * 64} for name, entry in text["files"].items()
    }
    manifest.write_text(json.dumps(text), encoding="utf-8")
    assert check(handed_in(honest), [open_dataset(str(copy)), dataset]).accepted


def lines(edit: Edit, number: int = 1) -> Edit:
    """An edit of a run's predictions."""
    return lambda document: repacked(document["runs"][number], edit)


def in_run(edit: Edit, number: int = 1) -> Edit:
    return lambda document: edit(document["runs"][number])


def both(*edits: Edit) -> Edit:
    return lambda document: [edit(document) for edit in edits]


SETTINGS = ("runs", 1, "settings")
RESULT = ("runs", 1, "result")
SPOILT: dict[str, list[Edit]] = {
    # What reading refuses; test_submission has all of it.
    "json": [put(10**30, *RESULT, "configs", 0, "n")],
    "size": [put({"a": "x" * 20_000}, *SETTINGS, "engine", "arguments"), lines(put("x" * 300_000, 3, "text"))],
    "schema": [put(["quest"], *SETTINGS, "command_line"), in_run(lambda run: run["settings"].pop("format"))],
    "text": [put("so\ue000", "runs", 0, "settings", "model", "name")],
    "samples": [put(3, "runs", 1, "predictions", "lines")],
    "predictions": [put("0" * 64, "runs", 1, "predictions", "sha256"), lines(put(1, 3, "more"))],
    # What the check refuses.
    "run_twice": [lambda document: document["runs"].append(document["runs"][1])],
    "dense_differs": [put("e" * 64, *SETTINGS, "model", "config_sha256")],
    "dataset_unknown": [put("0" * 64, *SETTINGS, "dataset", "sha256")],
    "dataset_differs": [
        put("0" * 64, *SETTINGS, "dataset", "fingerprint"),
        put(["all"], *SETTINGS, "dataset", "tasks"),
        put(3, *SETTINGS, "dataset", "limit"),
        put(False, *SETTINGS, "query_aware"),
        put("context", *SETTINGS, "compress"),
        put(True, "runs", 0, "settings", "prompt", "begin_answer"),
        put("0" * 64, *SETTINGS, "prompt", "tokenizer_sha256"),
        put({"tags": ["think"], "opened": "think", "budget": None}, *SETTINGS, "thinking"),
    ],
    "sample_missing": [lines(lambda rows: rows.__setitem__(2, rows[3] | {"id": rows[4]["id"]}))],
    "sample_unknown": [
        lines(lambda rows: rows[2].update(id="ruler_vt-1100-00002-000000000000")),
        lines(lambda rows: [row.update(id=row["id"][:-12] + "0" * 12) for row in rows]),
    ],
    "sample_twice": [lines(lambda rows: rows.__setitem__(2, rows[1]))],
    "order": [lines(lambda rows: rows.insert(0, rows.pop())), lines(lambda rows: rows.reverse())],
    "sample_differs": [lines(put(7, 2, "index")), lines(put("other", 2, "task")), lines(put(1500, 2, "length"))],
    "tokens": [
        lines(lambda rows: rows[2].update(input_tokens=rows[2]["input_tokens"] - 1)),
        lines(put(10**6, 2, "output_tokens")),
        lines(put(0, 2, "output_tokens")),
        lines(put(21, 2, "thinking_tokens")),
        both(
            put({"tags": ["think"], "opened": None, "budget": 5}, *SETTINGS, "thinking"),
            lines(put(6, 2, "thinking_tokens")),
        ),
        lines(put("x" * 6_000, 2, "text")),
        both(put(False, *SETTINGS, "prompt", "as_generated"), lines(put(20, 2, "input_tokens"))),
    ],
    "finish_reason": [lines(put("<script>", 2, "finish_reason"))],
    "settings_differ": [
        put(0.9, *RESULT, "attention", "sparsity"),
        put("0" * 64, *RESULT, "dataset_sha256"),
        put("big", *RESULT, "model", "name"),
        put("geometric mean", *RESULT, "average_is"),
        put(True, *RESULT, "begin_answer"),
        put("context", *RESULT, "compress"),
    ],
    "scores_differ": [
        put(1.0, *RESULT, "configs", 0, "mean"),
        put(0.75 + 1e-8, *RESULT, "configs", 0, "mean"),
        put(0.3, *RESULT, "configs", 1, "low"),
        put(3, *RESULT, "configs", 1, "n"),
        put(0.8, *RESULT, "averages", 0, "mean"),
        in_run(lambda run: run["result"]["configs"].pop()),
        lines(put("<answer>so it was not</answer>", 0, "text")),
    ],
    "measures_differ": [
        put({"prefill": 0.0, "decode": 0.9}, *RESULT, "configs", 0, "sparsity"),
        put(None, *RESULT, "configs", 0, "sparsity"),
        put(1.0, *RESULT, "configs", 0, "input_tokens"),
    ],
    "comparison_differs": [
        put(None, "runs", 1, "comparison"),
        put(1e-5, "runs", 1, "comparison", "rows", 0, "p_value"),
        put(0.0, "runs", 1, "comparison", "averages", 0, "difference"),
        lambda document: document["runs"][0].update(comparison=document["runs"][1]["comparison"]),
        lambda document: document["runs"].pop(0),
    ],
    "dense_sparse": [
        lines(put({"decode": 0.1}, 2, "sparsity"), 0),
        put(0.5, "runs", 0, "settings", "attention", "sparsity"),
    ],
    "sparsity_implausible": [
        lines(put({"prefill": 0.0, "decode": 0.97}, 2, "sparsity")),
        both(put("openai", *SETTINGS, "engine", "name"), put("context", *SETTINGS, "compress")),  # which cannot
        put("quest+quest", *SETTINGS, "attention", "method"),
        put({"no_such": 1}, *SETTINGS, "attention", "arguments"),
    ],
}


each_spoilt = pytest.mark.parametrize(
    ("code", "edit"),
    [pytest.param(code, edit, id=f"{code}-{i}") for code, edits in SPOILT.items() for i, edit in enumerate(edits)],
)


@each_spoilt
def test_corrupted_submissions_are_refused_with_the_right_reason(
    code: str, edit: Edit, honest: bytes, handed_in: Written, dataset: Dataset
) -> None:
    verdict = check(handed_in(changed(honest, edit)), [dataset])
    assert not verdict.accepted
    assert code in codes(verdict), verdict.reasons
    assert problems(to_builtins(verdict), "verdict-1.0") == []
    assert all(f"{one.where}{one.message}".isprintable() for one in verdict.reasons)


def test_every_code_is_documented_and_tested() -> None:
    text = (Path(__file__).parents[3] / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    refusals, warnings = (re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) for table in text.split("| warning |"))
    assert set(refusals) == {*SPOILT, "file", "echo", "control"}  # these three have tests of their own
    assert set(warnings) == {*NOTED, "echo", "unmeasured"}


def test_answers_of_other_samples_are_refused_as_echoes(
    dataset: Dataset, runs: Path, rows: list[dict[str, Any]], handed_in: Written, tmp_path: Path
) -> None:
    shifted = {row["id"]: rows[i - 1]["answer"] for i, row in enumerate(rows)}
    of_others = answered(tmp_path / "echo", dataset, texts=lambda row: f"<answer>{shifted[row['id']]}</answer>")
    verdict = check(handed_in(make_submission(read_runs([of_others]))), [dataset])
    assert codes(verdict) == {"echo"}
    assert "of another sample" in verdict.reasons[0].message
    assert "more)" in verdict.reasons[0].message


def test_one_echo_is_a_note(dataset: Dataset, rows: list[dict[str, Any]], handed_in: Written, tmp_path: Path) -> None:
    first, other = rows[0], rows[1]
    text = f"<answer>{other['answer']}</answer>"
    run = answered(tmp_path / "echo", dataset, texts=lambda row: text if row["id"] == first["id"] else "none")
    verdict = check(handed_in(make_submission(read_runs([run]))), [dataset])
    assert verdict.accepted
    assert [warning.code for warning in verdict.warnings] == ["unable", "echo"]


def test_repeated_reasons_are_merged_with_their_number(honest: bytes, handed_in: Written, dataset: Dataset) -> None:
    edit = lines(lambda rows: [row.update(finish_reason="x") for row in rows])
    (reason,) = check(handed_in(changed(honest, edit)), [dataset]).reasons
    assert reason.code == "finish_reason"
    assert reason.message.endswith("(and 15 more)")


def test_reasons_are_limited_to_about_twenty(honest: bytes, handed_in: Written, dataset: Dataset) -> None:
    def edit(document: Any) -> None:
        run = document["runs"][1]
        for number in range(60):
            another = copy.deepcopy(run)
            another["settings"]["dataset"]["sha256"] = f"{number:064x}"
            document["runs"].append(another)

    assert 20 <= len(check(handed_in(changed(honest, edit)), [dataset]).reasons) <= 25


@pytest.mark.parametrize("attention", ["oracle_decode", "quest+window_prefill", "random_evict"])
def test_controls_are_not_ranked(
    attention: str, dataset: Dataset, runs: Path, handed_in: Written, tmp_path: Path
) -> None:
    run = answered(tmp_path / "control", dataset, attention=attention, sparsity=0.5)
    (reason,) = check(handed_in(make_submission(read_runs([run, runs / "dense"]))), [dataset]).reasons
    assert reason.code == "control"
    assert "a board does not rank" in reason.message


NOTED = (
    "version",
    "partial",
    "no_dense",
    "attention_unknown",
    "method_unknown",
    "prompt_differs",
    "unable",
    "thinking_tags",
)


def test_notes_for_the_maintainer_are_listed(
    dataset: Dataset, runs: Path, honest: bytes, handed_in: Written, tmp_path: Path
) -> None:
    def noted(content: bytes) -> dict[str, str]:
        verdict = check(handed_in(content), [dataset])
        assert verdict.accepted, verdict.reasons
        return {warning.code: warning.message for warning in verdict.warnings}

    def made(name: str, *others: Path, **options: Any) -> bytes:
        return make_submission(read_runs([answered(tmp_path / name, dataset, **options), *others]))

    def other_engine(settings: dict[str, Any]) -> None:
        settings["engine"]["name"] = "transformers"

    def labelled(settings: dict[str, Any]) -> None:
        settings["engine"]["name"] = "replay"
        settings["attention"]["nominal"] = True

    def thinking(tags: list[str]) -> Callable[[dict[str, Any]], None]:
        return lambda settings: settings.update(thinking={"tags": tags, "opened": None, "budget": None})

    def half(row: dict[str, Any]) -> str:
        return "none" if row["task"] == "ruler_vt" else f"<answer>{row['answer']}</answer>"

    found = {
        "version": noted(changed(honest, put("0.0.1", "sparse_tasks"))),
        "partial": noted(made("limit", limit=2)),
        "no_dense": noted(made("alone", attention="quest", sparsity=0.5)),
        "attention_unknown": noted(made("unknown", attention="unknown")),
        "method_unknown": noted(made("foreign", runs / "dense", attention="their_method", sparsity=0.5)),
        "prompt_differs": noted(made("other", runs / "dense", attention="quest", sparsity=0.5, settings=other_engine)),
        "unable": noted(made("unable", texts=half)),
        "thinking_tags": noted(made("tags", settings=thinking(["mistral"]))),
    }
    for code, notes in found.items():
        assert set(notes) == {code}
    assert found["unable"]["unable"].startswith("scores below 0.1 with dense attention: ruler_vt (")
    label = made("label", attention="quest", sparsity=0.5, measured={}, settings=labelled)
    assert set(noted(label)) == {"attention_unknown"}  # a label is the user's word
    assert found["partial"]["partial"] == "answered 2 of 4 samples a task"
    assert noted(made("task", tasks=["ruler_vt"]))["partial"] == "answered 1 of 2 tasks, 2 of 2 lengths"
    assert set(found) == set(NOTED)


def test_begun_answers_are_scored_as_such(dataset: Dataset, handed_in: Written, tmp_path: Path) -> None:
    def begun(settings: dict[str, Any]) -> None:
        settings["prompt"] |= {"begin_answer": True, "as_generated": False}

    answers = answered(tmp_path / "run", dataset, texts=lambda row: f"{row['answer']}</answer>", settings=begun)
    content = make_submission(read_runs([answers]))
    result = json.loads(content)["runs"][0]["result"]
    assert (result["begin_answer"], {config["mean"] for config in result["configs"]}) == (True, {1.0})
    assert check(handed_in(content), [dataset]).accepted


def test_a_sparse_run_of_a_part_is_compared_over_that_part(
    dataset: Dataset, runs: Path, handed_in: Written, tmp_path: Path
) -> None:
    part = answered(tmp_path / "part", dataset, attention="quest", sparsity=0.5, limit=2, wrong=[1])
    content = make_submission(read_runs([runs / "dense", part]))
    comparison = json.loads(content)["runs"][1]["comparison"]
    assert (comparison["left_out_a"], comparison["left_out_b"]) == (8, 0)
    assert check(handed_in(content), [dataset]).accepted


def test_only_the_file_and_the_data_sets_are_opened(
    honest: bytes, handed_in: Written, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("secret", encoding="utf-8")
    names = [str(victim), f"file://{victim}", "http://127.0.0.1:9/x", "../../../../etc/passwd", "pickle:\\x80"]

    def edit(document: Any) -> None:
        for number, name in enumerate(names):
            document["runs"][1]["settings"]["engine"]["details"][f"d{number}"] = name
        for run in document["runs"]:
            for part in (run["settings"]["model"], run["result"]["model"]):
                part["name"] = str(victim)
            run["settings"]["dataset"]["name"] = "http://127.0.0.1:9/data"
        document["contact"] = "http://127.0.0.1:9/"
        lines(lambda rows: [row.update(text=f"{row['text']} {victim}") for row in rows])(document)

    path = handed_in(changed(honest, edit))
    opened: list[str] = []
    for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
        original = getattr(module, name)

        def spy(file: Any, *arguments: Any, _original: Any = original, **options: Any) -> Any:
            opened.append(str(file))
            return _original(file, *arguments, **options)

        monkeypatch.setattr(module, name, spy)

    def no_network(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    verdict = check(path, [dataset])
    monkeypatch.undo()
    assert verdict.samples == 32
    assert str(path) in opened
    assert not [name for name in opened if "victim" in name or "passwd" in name or "127.0.0.1" in name]
    ours = (str(path), str(dataset.path))
    assert not [name for name in opened if not name.startswith(ours) and not name.isdigit()
                and "sparse_tasks/schemas" not in name]  # fmt: skip


def test_a_maintainers_damaged_data_set_does_not_refuse_the_submission(
    honest: bytes, handed_in: Written, copy: Path
) -> None:
    next(copy.glob("*/*.parquet")).write_bytes(b"spoilt")
    with pytest.raises(UsageError, match=r"data: .* cannot be used for the check"):
        check(handed_in(honest), [open_dataset(str(copy))])


def test_every_run_is_named_with_its_own_reason(honest: bytes, handed_in: Written, dataset: Dataset) -> None:
    edit = both(put(0.5, "runs", 0, "result", "configs", 0, "mean"), put(0.5, *RESULT, "configs", 0, "mean"))
    verdict = check(handed_in(changed(honest, edit)), [dataset])
    assert [reason.where for reason in verdict.reasons] == [
        f"acme/small, {label}: result.configs[ruler_niah 1100].mean" for label in ("dense", "quest 0.5")
    ]
    assert "0.5" in verdict.reasons[0].message
    assert "1.0" in verdict.reasons[0].message


@settings(max_examples=300, deadline=None)
@given(
    path=st.from_regex(r"runs\[[01]\]\.result(\[[0-9]\]| … |\]|\[|\.[a-z]{1,3}){0,30}", fullmatch=True),
    most=st.integers(9, 60),
)
def test_any_path_can_be_named_even_if_shortened(path: str, most: int) -> None:
    part: Any = {"task": "ruler_vt", "length": 4096}
    for _ in range(20):
        part = [part] * 10
    settings = {"model": {"name": "acme"}, "attention": {"method": "quest"}}
    document = {"runs": [{"settings": settings, "result": part}] * 2}
    for written in (path, plain(path, most)):
        assert named(written, document).isprintable()


@each_spoilt
def test_runs_and_results_are_named_and_not_numbered(
    code: str, edit: Edit, honest: bytes, handed_in: Written, dataset: Dataset
) -> None:
    content = changed(honest, edit)
    verdict = check(handed_in(content), [dataset])
    document = json.loads(content) if code != "json" else {"runs": [0]}
    twice = len(document["runs"]) > 2  # names that are not unique have their number, too
    for reason in [*verdict.reasons, *verdict.warnings]:
        said = reason.where + reason.message
        assert twice or not re.search(r"(runs|configs|rows|averages)\[\d{1,2}\]", said), said
        names = ("acme/small, dense", "acme/small, quest 0.5", "acme/small, quest+quest 0.5", "so\\ue000, dense")
        assert reason.where == "file" or reason.where.startswith(names), said


def test_runs_with_the_same_name_are_numbered(dataset: Dataset, handed_in: Written, tmp_path: Path) -> None:
    def of_engine(name: str) -> Path:
        engine = {"name": name, "version": None, "arguments": {}, "details": {}}
        settings: dict[str, Any] = {"engine": engine}
        return answered(tmp_path / name, dataset, attention="random_decode", sparsity=0.5,
                        settings=lambda of_run: of_run.update(settings))  # fmt: skip

    content = make_submission(read_runs([of_engine("vllm"), of_engine("transformers")]))
    reasons = check(handed_in(content), [dataset]).reasons
    assert [reason.where for reason in reasons] == [
        f"acme/small, random_decode 0.5 (runs[{number}]): settings.attention" for number in (0, 1)
    ]
