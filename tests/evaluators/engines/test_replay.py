"""Outputs made elsewhere are taken as they are: every one that is asked for, once, or the run says which is missing."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.evaluators.engines.engine import EngineSettings, Output, Request
from sparse_tasks.evaluators.engines.replay import ReplayEngine

Refused = Callable[..., Any]


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def asked(*identifiers: str) -> list[Request]:
    return [Request(identifier, "prompt", [], 8) for identifier in identifiers]


def replayed(path: Path, *identifiers: str) -> list[Output]:
    engine = ReplayEngine(EngineSettings(ReplayEngine.find(str(path))))
    engine.start(0)
    return list(engine.generate(asked(*identifiers)))


def test_a_file_is_identified_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "made.jsonl", {"id": "a", "text": "x"})
    found = ReplayEngine.find(str(path))
    assert (found.name, found.source, found.revision, found.config_sha256) == ("made.jsonl", str(path), None, None)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ReplayEngine.find("~/made.jsonl").source == str(path)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "org/name", "demo", "a" * 300, "~nobody-has-this/a.jsonl", "/"])
def test_a_missing_file_is_refused(name: str, refused: Refused) -> None:
    with refused(UsageError, "model: ", repr(name), "name a JSONL file of outputs"):
        ReplayEngine.find(name)


def test_the_name_of_the_model_is_the_only_argument(tmp_path: Path, refused: Refused) -> None:
    model = ReplayEngine.find(str(written(tmp_path / "a.jsonl")))
    named = ReplayEngine(EngineSettings(model, arguments={"model": "acme/small"})).settings.model
    assert named == replace(model, name="acme/small")
    for arguments in ({"speed": 2}, {"model": 2}, {"model": ""}):
        with refused(UsageError, "engine-arg: ", "is unknown; replay takes only model=NAME"):
            ReplayEngine(EngineSettings(model, arguments=arguments))


def test_nothing_limits_a_prompt_and_no_library_answers(tmp_path: Path) -> None:
    engine = ReplayEngine(EngineSettings(ReplayEngine.find(str(written(tmp_path / "a.jsonl")))))
    assert (engine.context(), engine.version(), engine.details(), engine.arguments) == (None, None, {}, {})


def test_fields_are_taken_over_and_others_left(tmp_path: Path) -> None:
    full = {
        "id": "full",
        "text": "<answer>é\n\u2028</answer>",
        "finish_reason": "length",
        "input_tokens": 4000,
        "output_tokens": 12,
        "seconds_to_first_token": 0.5,
        "seconds": 2,
        "sparsity": {"prefill": 0.0, "decode": 0.9},
    }
    path = written(tmp_path / "a.jsonl", full | {"task": "x", "__class__": "y", "prompt": "z"}, {"id": "b", "text": ""})
    assert replayed(path, "full", "b") == [Output(**full), Output("b", "", None)]


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    lines = [{"id": f"é{number}", "text": "x" * (number * 37 % 11)} for number in range(50)]
    ids = [str(line["id"]) for line in lines]
    shuffled = random.Random(1).sample(lines, len(lines))
    expected = [Output(str(line["id"]), str(line["text"]), None) for line in lines]
    assert replayed(written(tmp_path / "a.jsonl", *lines), *ids) == expected
    assert replayed(written(tmp_path / "b.jsonl", *shuffled), *ids) == expected
    # Extra outputs are ignored.
    assert replayed(written(tmp_path / "c.jsonl", *shuffled), *ids[3:5]) == expected[3:5]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n", "\n  \n"])
def test_empty_lines_and_a_last_one_without_an_end_are_read(newline: str, tmp_path: Path) -> None:
    lines = [json.dumps({"id": name, "text": name * 2}, ensure_ascii=False) for name in ("a", "é", "c")]
    path = tmp_path / "a.jsonl"
    for start in ("", "\ufeff"):  # which programs for Windows put in front
        path.write_bytes((start + newline.join(lines)).encode())
        assert [output.text for output in replayed(path, "c", "a", "é")] == ["cc", "aa", "éé"]


def test_missing_outputs_are_counted_and_the_first_is_named(tmp_path: Path, refused: Refused) -> None:
    path = written(tmp_path / "a.jsonl", {"id": "b", "text": "x"})
    engine = ReplayEngine(EngineSettings(ReplayEngine.find(str(path))))
    engine.start(0)
    with refused(DataError, str(path), "no output for 2 of the samples", "a first", "--task, --length and --limit"):
        list(engine.generate(asked("a", "b", "c")))


def test_a_duplicate_output_is_refused(tmp_path: Path, refused: Refused) -> None:
    one = {"id": "a", "text": "x"}
    path = written(tmp_path / "a.jsonl", one, {"id": "b", "text": "x"}, one)
    with refused(DataError, f"{path}, line 3: a occurs twice"):
        replayed(path, "b")


WRONG = {
    "no JSON": (b'{"id": "a"', "is not a line of JSON"),
    "no UTF-8": (b'{"id": "a", "text": "\xff"}', "is not a line of JSON"),
    "nested too deep": (b"[" * 100_000, "is not a line of JSON"),
    "a list": (b"[]", "object"),
    "no id": (b'{"text": "x"}', "missing required field `id`"),
    "an empty id": (b'{"id": "", "text": "x"}', "id: "),
    "no text but null": (b'{"id": "x", "text": null}', "text: "),
    "tokens below zero": (b'{"id": "x", "text": "x", "output_tokens": -1}', "output_tokens: "),
    "tokens beyond all": (b'{"id": "x", "text": "x", "output_tokens": 1' + b"0" * 400 + b"}", "too large"),
    "seconds that are none": (b'{"id": "x", "text": "x", "seconds": NaN}', "NaN"),
    "sparsity beyond one": (b'{"id": "x", "text": "x", "sparsity": {"decode": 1.5}}', "sparsity: "),
}


@pytest.mark.parametrize(("line", "words"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_line_is_named_before_the_run(line: bytes, words: str, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a", "text": "x"}\n' + line + b"\n")
    engine = ReplayEngine(EngineSettings(ReplayEngine.find(str(path))))
    with refused(DataError, f"{path}, line 2: ", words):
        engine.start(0)


def test_a_lone_surrogate_becomes_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(rb'{"id": "a", "text": "\ud83d \uD83D\uDE00 \\ud83d"}')
    assert replayed(path, "a") == [Output("a", "? \U0001f600 \\ud83d", None)]
