"""A run's folder: written once, repaired after a kill, locked by one process, and refused for another run."""

from __future__ import annotations

import copy as copying
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from sparse_tasks.core.errors import DataError, OutputError, UsageError
from sparse_tasks.core.json import parse_json, to_json
from sparse_tasks.core.records import convert, to_builtins
from sparse_tasks.evaluators.records import Prediction, RunSettings
from sparse_tasks.evaluators.runs import Run, read_record
from tests.cli.program import contents
from tests.evaluators.example_runs import made_settings

Refused = Callable[..., Any]
PLAIN: dict[str, Any] = to_builtins(
    made_settings(tasks=["ruler_niah", "ruler_vt"], lengths=[4096, 8192], samples=8, model="small", shape=None)
)
PLAIN["engine"] |= {"arguments": {"heads": 4, "deep": {"er": [1, 2]}}, "details": {"device": "cpu"}}
ASKED = convert(PLAIN, RunSettings, "settings")


def asked(**changes: object) -> RunSettings:
    """The settings, some of them others; a name has ``__`` for a dot."""
    found = copying.deepcopy(PLAIN)
    for path, value in changes.items():
        *names, last = path.split("__")
        part = found
        for name in names:
            part = part[name]
        part[last] = value
    return convert(found, RunSettings, "settings")


def prediction(index: int, text: str = "<answer>é\u2028\n</answer>", **changes: Any) -> Prediction:
    return Prediction(
        **{
            "id": f"ruler_niah-4096-{index}",
            "task": "ruler_niah",
            "index": index,
            "length": 4096,
            "text": text,
            "finish_reason": "stop",
            "input_tokens": 4090,
            "output_tokens": None,
            "seconds_to_first_token": None,
            "seconds": 0.25,
            "sparsity": None,
            "sparsity_spread": None,
            "kv_bytes_per_step": None,
        }
        | changes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with three predictions."""
    with Run(tmp_path / "run") as run:
        run.check(ASKED)
        run.begin(ASKED)
        for index in range(3):
            run.add(prediction(index))
    return tmp_path / "run"


def test_records_survive_a_round_trip(folder: Path) -> None:
    assert sorted(contents(folder)) == ["predictions.jsonl", "run.json"]
    with Run(folder) as run:
        assert run.settings == ASKED
        assert run.finished() == {f"ruler_niah-4096-{index}" for index in range(3)}
        assert list(run.predictions()) == [prediction(index) for index in range(3)]


def test_an_unused_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyError), Run(tmp_path / "mine/new/run"):
        raise KeyError("before anything began")
    with pytest.raises(KeyError), Run(tmp_path / "mine"):
        raise KeyError("before anything began")
    assert list(contents(tmp_path)) == ["mine"]


def test_settings_are_written_once(folder: Path) -> None:
    before = (folder / "run.json").read_bytes()
    with Run(folder) as run:
        run.begin(asked(started="2030-01-01T00:00:00Z", command_line=["another"]))
    assert (folder / "run.json").read_bytes() == before


def test_a_changed_environment_is_added_once(folder: Path) -> None:
    other, third = PLAIN["environment"] | {"python": "3.99.0"}, PLAIN["environment"] | {"packages": {"torch": "9.0"}}
    for now in (other, PLAIN["environment"], other, third, third):
        with Run(folder) as run:
            run.begin(asked(environment=now))
    assert read_record(folder / "run.json", RunSettings) == asked(other_environments=[other, third])


def test_invalid_settings_are_not_written(tmp_path: Path, refused: Refused) -> None:
    with Run(tmp_path / "run") as run, refused(DataError, "run.json", "sampling.seed", "-1"):
        run.begin(structs.replace(ASKED, sampling=structs.replace(ASKED.sampling, seed=-1)))
    assert contents(tmp_path) == {}


OTHERS = {
    "dataset.sha256": "e" * 64,
    "dataset.tasks": ["ruler_niah"],
    "dataset.limit": 3,
    "model.name": "large",
    "model.revision": None,
    "model.config_sha256": "0" * 64,
    "model.sha256": "0" * 64,
    "engine.name": "fake",
    "engine.arguments.heads": 8,
    "engine.arguments.deep.er": [1, 2, 3],
    "attention.method": "quest",
    "attention.arguments.page": 16,
    "sampling.temperature": 1.0,
    "sampling.max_new_tokens": 5,
    "prompt.rendered_by": "engine",
    "prompt.chat_template_sha256": "0" * 64,
    "prompt.as_generated": False,
}


@pytest.mark.parametrize(("name", "value"), OTHERS.items(), ids=OTHERS.keys())
def test_another_configuration_is_refused_by_the_setting_that_differs(
    name: str, value: object, folder: Path, refused: Refused
) -> None:
    before = contents(folder)
    here = json.dumps(value) if len(json.dumps(value)) <= 80 else ""
    with Run(folder) as run, refused(UsageError, "output: ", str(folder), f"({name} is ", f", {here} here", "--output"):
        run.check(asked(**{name.replace(".", "__"): value}))
    assert contents(folder) == before


def test_a_long_setting_is_shortened(folder: Path) -> None:
    with Run(folder) as run, pytest.raises(UsageError) as caught:
        run.check(asked(engine__arguments__heads="x" * 10_000))
    assert len(str(caught.value)) < 500


def test_settings_without_effect_on_answers_may_differ(folder: Path) -> None:
    names = ("environment__python", "dataset__name", "dataset__revision", "engine__version", "engine__details__device")
    other = asked(started="2030-01-01T00:00:00Z", command_line=["another"], **dict.fromkeys(names, "another"))
    with Run(folder) as run:
        run.check(other)


@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", "predictions.jsonl", "sparse_tasks.json"])
def test_a_folder_with_other_files_is_refused_and_unchanged(name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / name).write_text("mine")
    with Run(tmp_path) as run, refused(UsageError, "output: ", str(tmp_path), "name an empty or a new folder"):
        run.check(ASKED)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_folder_that_cannot_be_made_is_one_line(refused: Refused) -> None:
    with refused(OutputError, "cannot write /proc/run"), Run(Path("/proc/run")):
        pass


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "x"}', "[" * 100_000, "\xff\xfe", ""])
def test_a_damaged_record_is_refused_by_name(text: str, folder: Path, refused: Refused) -> None:
    (folder / "run.json").write_bytes(text.encode("latin-1"))
    with Run(folder) as run:
        with refused(DataError, str(folder / "run.json")):
            run.check(ASKED)
        with refused(DataError, str(folder / "run.json")):
            run.begin(ASKED)


def test_partial_files_do_not_stop_a_run(tmp_path: Path) -> None:
    # A kill while run.json was being written: its final name does not exist yet.
    (tmp_path / ".sparse_tasks-abc").write_text("{")
    with Run(tmp_path) as run:
        run.check(ASKED)
        assert run.finished() == set()
        run.begin(ASKED)
    assert list(contents(tmp_path)) == ["run.json"]


def test_a_long_line_cut_is_taken_away(folder: Path) -> None:
    # Longer than what is read at once, in both directions.
    with Run(folder) as run:
        run.add(prediction(3, "é" * 150_000))
    path = folder / "predictions.jsonl"
    whole = path.read_bytes()
    for end in (len(whole) - 1, len(whole) - 2**16, len(whole) - 2**17 - 1):
        path.write_bytes(whole[:end])
        with Run(folder) as run:
            assert len(run.finished()) == 3
    path.write_bytes(b"x" * 200_000)
    with Run(folder) as run:
        assert run.finished() == set()
    assert path.read_bytes() == b""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=4), st.data())
def test_any_prefix_is_repaired_to_the_whole_lines_it_holds(texts: list[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder)) as run:
        for index, text in enumerate(texts):
            run.add(prediction(index, text))
        path = Path(folder) / "predictions.jsonl"
        whole = path.read_bytes() if texts else b""
        end = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:end])
        lines = whole[:end].count(b"\n")
        assert len(run.finished()) == lines
        assert [row.text for row in run.predictions()] == texts[:lines]
        assert whole.startswith(path.read_bytes())


def dumped(index: int) -> str:
    return json.dumps(to_builtins(prediction(index)))


DAMAGED = {
    "no JSON": (b"{", ["line 2", "is not a line of JSON"]),
    "an empty line": (b"", ["line 2", "is not a line of JSON"]),
    "no UTF-8": (b'{"id": "\xff"}', ["line 2", "is not a line of JSON"]),
    "nested too deep": (b"[" * 100_000, ["line 2", "is not a line of JSON"]),
    "no object": (b"[]", ["line 2", "object"]),
    "no number": (dumped(1).replace("0.25", "NaN").encode(), ["line 2", "NaN"]),
    "a number beyond all": (dumped(1).replace("4090", "9" * 400).encode(), ["line 2", "too large"]),
    "another field": (json.dumps(to_builtins(prediction(1)) | {"more": 1}).encode(), ["line 2", "more"]),
    "the first one again": (dumped(0).encode(), ["line 2", "ruler_niah-4096-0 occurs twice"]),
}


@pytest.mark.parametrize(("line", "words"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_in_the_middle_is_named_and_left(
    line: bytes, words: list[str], folder: Path, refused: Refused
) -> None:
    path = folder / "predictions.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    before = path.read_bytes()
    with Run(folder) as run, refused(DataError, str(path), *words):
        run.finished()
    assert path.read_bytes() == before


def test_nan_is_not_written(folder: Path, refused: Refused) -> None:
    before = contents(folder)
    with Run(folder) as run, refused(DataError, "predictions.jsonl", "seconds", "NaN"):
        run.add(prediction(3, seconds=float("nan")))
    assert contents(folder) == before


def test_lone_surrogates_are_written(folder: Path) -> None:
    with Run(folder) as run:
        run.add(prediction(3, "half \ud83d a pair"))
    assert [row.text for row in Run(folder).predictions()][-1] == "half ? a pair"


def test_a_full_disk_is_one_line_and_the_lock_is_given_back(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "predictions.jsonl").symlink_to("/dev/full")
    with refused(OutputError, "cannot write", "predictions.jsonl", "No space left"), Run(tmp_path) as run:
        run.add(prediction(0))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    with Run(tmp_path):
        pass


def test_missing_predictions_are_one_line(folder: Path, refused: Refused) -> None:
    (folder / "predictions.jsonl").unlink()
    with Run(folder) as run, refused(DataError, "predictions.jsonl", "cannot be read", "No such file"):
        list(run.predictions())


def test_predictions_are_put_in_order(folder: Path) -> None:
    path = folder / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    ids = [f"ruler_niah-4096-{index}" for index in range(3)]
    path.write_bytes(lines[2] + lines[0] + lines[1])
    with Run(folder) as run:
        run.put_in_order(ids)
        assert path.read_bytes() == b"".join(lines)
        unchanged = path.stat().st_ino
        run.put_in_order(ids)
        assert path.stat().st_ino == unchanged
        # The old open file is not written to after the replacement.
        run.add(prediction(3))
        run.put_in_order([*reversed(ids), "ruler_niah-4096-3"])
        run.add(prediction(4))
    assert [row.index for row in Run(folder).predictions()] == [2, 1, 0, 3, 4]


def test_json_that_is_written_can_be_read_by_anyone() -> None:
    assert to_json({"a": "é"}) == '{\n  "a": "é"\n}\n'.encode()
    assert json.loads(to_json(["name-\udcff"])) == ["name-?"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))


@pytest.mark.parametrize("line", [b"NaN", b"[Infinity]", b"-Infinity", b"1e400", b"9223372036854775808", b"\xff"])
def test_a_line_of_no_finite_json_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds, all of one line
        parse_json(line)


def test_a_line_is_what_it_says() -> None:
    assert parse_json(b'{"a": [1, -2.5, 9223372036854775807, "\xc3\xa9"]}\r\n') == {"a": [1, -2.5, 2**63 - 1, "é"]}
