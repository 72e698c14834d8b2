"""A submission holds every prediction and nothing private, and untrusted submissions are read with care."""

from __future__ import annotations

import base64
import json
import lzma
import os
import pickle
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.json import to_json
from sparse_tasks.evaluators.analyses.table import read_runs
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.leaderboard import submission
from sparse_tasks.evaluators.leaderboard.reading import LARGEST_FILE, SubmissionError, plain, read_submission
from sparse_tasks.evaluators.leaderboard.submission import make_submission
from sparse_tasks.evaluators.records import Reason
from sparse_tasks.evaluators.runs import Run
from tests.evaluators.example_runs import made_run
from tests.evaluators.leaderboard.handed_in import Edit, answered, changed, packed, put, repacked
from tests.schemas.validation import problems

Written = Callable[[bytes], Path]
Refused = Callable[..., Any]
RUN = ("runs", 0)
ENGINE = (*RUN, "settings", "engine")
SCORES = {("story_multihop", 1024): [1.0, 0.0, 1.0], ("ruler_vt", 1024): [0.5, 1.0]}


def read(path: Path) -> int:
    """Read all of a submission; how many predictions it has."""
    return sum(1 for run in read_submission(path).runs for _ in run.predictions())


def reason_of(path: Path) -> Reason:
    """Why a file cannot be read, or its predictions cannot."""
    with pytest.raises(SubmissionError) as caught:
        read(path)
    reason = caught.value.reason
    assert f"{reason.where}{reason.message}".isprintable()
    assert len(str(caught.value)) < 500
    return reason


def test_predictions_survive_a_round_trip(honest: bytes, runs: Path, handed_in: Written) -> None:
    assert problems(json.loads(honest), "submission-1.0") == []
    read = read_submission(handed_in(honest))
    assert (read.content.name, read.content.contact, len(read.runs)) == ("Honest", "honest@example.org", 2)
    labels = [(run.label, run.packed.lines, run.dense) for run in read.runs]
    assert labels == [("dense", 16, True), ("quest 0.5", 16, False)]
    for run, folder in zip(read.runs, ("dense", "quest"), strict=True):
        predictions = Run(runs / folder).predictions()
        expected = [msgspec.structs.replace(line, seconds=None, seconds_to_first_token=None) for line in predictions]
        assert list(run.predictions()) == expected
        assert list(run.predictions()) == expected  # repeatable
    assert read.runs[0].comparison is None
    assert read.runs[1].comparison is not None
    assert read.runs[1].comparison.averages[0].difference == -0.25


def test_bytes_are_the_same_in_whatever_order_runs_are_named(runs: Path, dataset: Dataset, tmp_path: Path) -> None:
    more = answered(tmp_path / "more", dataset, attention="quest", sparsity=0.25)
    folders = [runs / "dense", runs / "quest", more]
    first = make_submission(read_runs(folders), "x")
    for order in ([2, 1, 0], [1, 2, 0], [1, 0, 2]):
        assert make_submission(read_runs([folders[i] for i in order]), "x") == first
    labels = [run["settings"]["attention"]["sparsity"] for run in json.loads(first)["runs"]]
    assert labels == [0.0, 0.25, 0.5]


def test_nothing_private_gets_into_the_file(tmp_path: Path) -> None:
    home = "/home/jdoe"
    run = made_run(tmp_path / "jdoe-run", SCORES, model=f"{home}/models/small", attention="quest", sparsity=0.5,
                   arguments={"quest.table": f"{home}/quest.json"})  # fmt: skip
    said = json.loads((run / "run.json").read_bytes())
    said["dataset"]["name"] = f"{home}/data/stories"
    said["command_line"] = ["evaluate", f"{home}/data/stories"]
    said["engine"]["arguments"] = {"download_dir": f"{home}/cache/hub", "nested": [{"x": f"--at={home}/a/b c"}]}
    said["engine"]["details"] = {
        "base_url": "http://jdoe:secret@10.0.0.7:8000/v1",
        "dtype": "bfloat16",
        "drafter": "org/name",
        "windows": "C:\\Users\\jdoe\\x",
        "share": "\\\\nas\\jdoe\\x",
    }
    (run / "run.json").write_bytes(to_json(said))
    content = make_submission(read_runs([run])).decode()
    for word in ("jdoe", "home", "secret", "10.0.0.7", "command_line", str(tmp_path)):
        assert word not in content, word
    (found,) = json.loads(content)["runs"]
    assert found["settings"]["model"]["name"] == found["result"]["model"]["name"] == "small"
    assert found["settings"]["model"]["config_sha256"] == "c" * 64
    assert found["settings"]["dataset"]["name"] == "stories"
    assert found["settings"]["engine"]["arguments"] == {"download_dir": "hub", "nested": [{"x": "--at=b c"}]}
    assert found["settings"]["engine"]["details"] == {
        "base_url": "(address)", "dtype": "bfloat16", "drafter": "org/name", "windows": "x", "share": "x"
    }  # fmt: skip
    assert found["settings"]["attention"] == found["result"]["attention"]


def test_without_a_name_it_is_called_by_its_models(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", SCORES, model="acme/b")
    b = made_run(tmp_path / "b", SCORES, model="acme/a")
    assert json.loads(make_submission(read_runs([a, b])))["name"] == "acme/a, acme/b"
    c = made_run(tmp_path / "c", SCORES, model="acme/" + "m" * 150)
    assert len(json.loads(make_submission(read_runs([c])))["name"]) <= 100


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "\x1b[31mred", "a\u202eb", "a\u200bb"])
def test_an_invalid_name_is_refused(name: str, runs: Path, refused: Refused) -> None:
    with refused(UsageError, "name:", "write"):
        make_submission(read_runs([runs]), name)
    with refused(UsageError, "contact:", "write"):
        make_submission(read_runs([runs]), "x", name * 2)


def test_an_incomplete_run_is_refused(runs: Path, tmp_path: Path, dataset: Dataset, refused: Refused) -> None:
    run = answered(tmp_path / "run", dataset)
    kept = (run / "predictions.jsonl").read_bytes()
    (run / "predictions.jsonl").write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
    with refused(DataError, str(run), "1 of 16 predictions are missing", "complete the run"):
        make_submission(read_runs([run]))
    with refused(UsageError, "runs:", "'run'", "is not complete", "15 predictions and 16 scores of 16", "evaluate"):
        make_submission(read_runs([run], partial=True))
    (run / "predictions.jsonl").write_bytes(kept)
    (run / "result.json").unlink()
    with refused(UsageError, "holds no result.json", "evaluate or score"):
        read_runs([run])


def test_a_duplicate_run_is_refused(dataset: Dataset, runs: Path, tmp_path: Path, refused: Refused) -> None:
    again = answered(tmp_path / "again", dataset, attention="quest", sparsity=0.5, limit=2)
    with refused(UsageError, "runs:", "is the same as", "name one of them"):
        make_submission(read_runs([runs, again]))


def test_a_dense_run_of_another_model_of_the_same_name_is_refused(
    dataset: Dataset, runs: Path, tmp_path: Path, refused: Refused
) -> None:
    def another(settings: dict[str, Any]) -> None:
        settings["model"]["config_sha256"] = "e" * 64

    other = answered(tmp_path / "other", dataset, attention="quest", sparsity=0.9, settings=another)
    with refused(UsageError, "runs:", "another model than its dense run"):
        make_submission(read_runs([runs / "dense", other]))


def test_tasks_in_separate_runs_are_accepted(dataset: Dataset, tmp_path: Path) -> None:
    one = answered(tmp_path / "one", dataset, attention="quest", sparsity=0.5, tasks=["ruler_vt"])
    two = answered(tmp_path / "two", dataset, attention="quest", sparsity=0.5, tasks=["ruler_niah"])
    assert len(json.loads(make_submission(read_runs([one, two])))["runs"]) == 2


def test_an_answer_that_is_too_long_is_refused(dataset: Dataset, tmp_path: Path, refused: Refused) -> None:
    run = answered(tmp_path / "run", dataset, texts=lambda row: "x" * 300_000)
    with refused(UsageError, "prediction of 300", "--max-new-tokens"):
        make_submission(read_runs([run]))


def test_a_setting_that_cannot_be_shown_is_refused_before_it_is_written(tmp_path: Path, refused: Refused) -> None:
    run = made_run(tmp_path / "run", SCORES, model="evil\u202ename")
    with refused(UsageError, "runs:", "model.name", "cannot be submitted"):
        make_submission(read_runs([run]), "x")


def test_an_answer_with_a_lone_surrogate_is_submitted_as_scored(
    dataset: Dataset, tmp_path: Path, handed_in: Written
) -> None:
    run = answered(tmp_path / "run", dataset, texts=lambda row: "a\ud800b 😀")
    found = read_submission(handed_in(make_submission(read_runs([run]))))
    assert {line.text for line in found.runs[0].predictions()} == {"a?b 😀"}


def test_only_a_regular_file_is_read(honest: bytes, handed_in: Written, tmp_path: Path) -> None:
    path = handed_in(honest)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    os.mkfifo(pipe)
    for odd in (link, pipe, Path("/dev/zero")):
        assert reason_of(odd).code == "file"


@pytest.mark.parametrize(
    ("name", "word"),
    [("", "is a folder")]
    + [(name, "cannot be read") for name in ("none.json", "n" * 300, "a\0b", "submission.json/x")],
)
def test_a_file_that_cannot_be_opened_is_a_usage_error(
    name: str, word: str, honest: bytes, handed_in: Written, refused: Refused
) -> None:
    folder = handed_in(honest).parent
    with refused(UsageError, "file:", word):
        read_submission(folder / name)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    assert reason_of(path).code == "size"


def test_errors_cross_process_borders() -> None:
    error = SubmissionError(Reason(code="size", where="file", message="is too large"))
    assert pickle.loads(pickle.dumps(error)).reason == error.reason


@pytest.mark.parametrize(
    ("content", "code"),
    [
        *((content, "json") for content in (b"", b"nonsense", b"1e400", b"NaN", b"1" * 5000, b'{"a": 1, "a": 1}')),
        *((content, "json") for content in (b'{"\\u0061": 1, "a": 1}', b"{} {}", b'"' + b'\\"' * 10_000)),
        *((content, "json") for content in ('{"name": "Zoë"}'.encode(), '{"name": "x"}'.encode("utf-16"))),
        *((content, "json") for content in (b"\xef\xbb\xbf{}", b"PK\x03\x04" + bytes(100), b"\x80\x04\x95.")),
        *((content, "schema") for content in (b"[]", b"null", b"[" * 64 + b"]" * 64)),
        *((content, "size") for content in (b"[" * 1_000_000, b"[" * 65 + b"]" * 65, b'{"a":' * 100_000)),
        *((content, "size") for content in (b"[" + b"1," * 2_000_000 + b"1]", b'["' + b"x\\u0041" * 20_000 + b'"]')),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:20]),
)
def test_other_files_are_refused(content: bytes, code: str, handed_in: Written) -> None:
    assert reason_of(handed_in(content)).code == code


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), "1.1"),
        (("runs",), []),
        ((*RUN, "settings", "dataset", "sha256"), "sha256:"),
        ((*RUN, "settings", "dataset", "lengths"), [1100, 1100]),
        ((*RUN, "settings", "dataset", "samples"), 16.0),
        ((*RUN, "settings", "started"), "2026-13-45T00:00:00Z"),
        ((*RUN, "result", "configs", 0, "mean"), "1.0"),
        ((*RUN, "result", "configs", 0, "n"), True),
        ((*RUN, "comparison"), {}),
    ],
)
def test_the_form_is_checked(place: tuple[str | int, ...], value: object, honest: bytes, handed_in: Written) -> None:
    assert reason_of(handed_in(changed(honest, put(value, *place)))).code == "schema"


@pytest.mark.parametrize(
    ("place", "value", "where"),
    [
        (("more",), {f"x{i}": i for i in range(101)}, "more"),
        ((*ENGINE, "details"), {f"x{i}": i for i in range(101)}, "acme/small, dense: settings.engine.details"),
        ((*ENGINE, "arguments"), {"x" * 201: 0}, "acme/small, dense: settings.engine.arguments"),
        ((*ENGINE, "name"), "x" * 201, "acme/small, dense: settings.engine.name"),
        (
            (*RUN, "settings", "environment", "packages"),
            {"x": "y" * 201},
            "acme/small, dense: settings.environment.packages.x",
        ),
        ((*RUN, "result", "configs"), [0] * 5001, "acme/small, dense: result.configs"),
        (("runs",), [0] * 201, "runs"),
    ],
)
def test_everything_in_a_submission_is_bounded(
    place: tuple[str | int, ...], value: object, where: str, honest: bytes, handed_in: Written
) -> None:
    reason = reason_of(handed_in(changed(honest, put(value, *place))))
    assert (reason.code, reason.where) == ("size", where)


@pytest.mark.parametrize("place", [("name",), ("contact",), (*ENGINE, "version"), (*ENGINE, "details", "x")])
@pytest.mark.parametrize("text", ["\x1b[31m", "a\u202eb", "a\x7f", "so\ue000", "a\ud800", "a\u200bb"])
def test_texts_can_be_shown(place: tuple[str | int, ...], text: str, honest: bytes, handed_in: Written) -> None:
    assert reason_of(handed_in(changed(honest, put(text, *place)))).code == "text"


def packed_with(content: bytes, **fields: Any) -> Edit:
    return lambda document: document["runs"][0].update(predictions=packed(content, **fields))


def text_of(edit: Callable[[str], str]) -> Edit:
    """An edit of the base64."""
    return lambda document: says(data=edit(document["runs"][0]["predictions"]["data"]))(document)


def data_of(edit: Callable[[bytes], bytes]) -> Edit:
    """An edit of the compressed bytes."""
    return text_of(lambda data: base64.b64encode(edit(base64.b64decode(data))).decode())


def says(**fields: Any) -> Edit:
    return lambda document: document["runs"][0]["predictions"].update(fields)


def lines(edit: Callable[[list[dict[str, Any]]], object]) -> Edit:
    return lambda document: repacked(document["runs"][0], edit)


LINE = b'{"id":"x"}\n'


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (text_of(lambda data: data[:-1]), "not base64"),
        (text_of(lambda data: data[:40] + "\n" + data[40:]), "cannot be shown"),
        (text_of(lambda data: "-_" + data[2:]), "not base64"),
        (text_of(lambda data: data[:64]), "cut short"),
        (data_of(lambda packed: packed[:-12]), "cut short"),
        (data_of(lambda packed: packed + bytes(4)), "followed"),
        (data_of(lambda packed: packed[:200] + bytes([packed[200] ^ 1]) + packed[201:]), "unpack"),
        (data_of(lambda packed: lzma.compress(lzma.decompress(packed), lzma.FORMAT_ALONE)), "unpacked"),
        (data_of(lambda packed: lzma.compress(lzma.decompress(packed), preset=9)), "Memory usage limit"),
        (says(bytes=1), "more than the 1 bytes"),
        (says(bytes=2**20), "not the 1,048,576"),
        (says(bytes=2**28), "too many for 16 samples"),
        (says(lines=17), "selects 16 samples"),
        (says(sha256="0" * 64), "sha256"),
        (packed_with(LINE * 16, lines=16), "missing required field `task`"),
        (packed_with(b"\n" * 16), "not valid JSON"),
        (packed_with(b"x" * 300_000 + b"\n" * 16), "line of more"),
        (packed_with(b"{", lines=16), "do not end with a line"),
        (packed_with(b"\xff\xfe\n" * 16), "not valid JSON"),
        (lines(lambda rows: rows.pop()), "selects 16 samples"),
        (lines(lambda rows: rows[3].update(text="a\ud800b")), "UTF-8"),
        (lines(lambda rows: rows[3].update(index="\ud800")), "cannot be encoded"),
        (lines(lambda rows: rows[3].update(length=1100.0)), "`int`"),
        (lines(lambda rows: rows[3].update(sparsity={"decode": 1.5})), "<= 1.0"),
        (lines(lambda rows: rows[3].update(kv_bytes_per_step=float("inf"))), "too large"),
        (lines(lambda rows: rows[3].update(seconds=1.0)), "unknown field `seconds`"),
        (lines(lambda rows: rows[3].update(id="x" * 501)), "length <= 500"),
    ],
)
def test_predictions_that_differ_from_their_claims_are_refused(
    edit: Edit, word: str, honest: bytes, handed_in: Written
) -> None:
    reason = reason_of(handed_in(changed(honest, edit)))
    assert reason.code in ("predictions", "size", "schema", "samples", "json", "text")
    assert word in reason.message
    assert reason.where.startswith("acme/small, dense: predictions")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_changed_bytes_raise_no_other_error(seed: int, honest: bytes, handed_in: Written) -> None:
    generator = random.Random(seed)
    content = bytearray(honest)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(content))
        match generator.randrange(4):
            case 0:
                content[at] = generator.randrange(256)
            case 1:
                del content[at : at + generator.randint(1, 50)]
            case 2:
                content[at:at] = generator.choice([b"{", b"]", b'"', b"\\ud800", b"1e999", b",", b"NaN", b"\0"])
            case _:
                content[at:at] = content[at : at + generator.randint(1, 50)]
    path = handed_in(bytes(content))
    with suppress(SubmissionError):
        # What is taken in spite of it was changed in no place that matters to the form.
        assert read(path) == 32


@given(st.text())
def test_plain_text_can_be_printed(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable() or len(text) > 200


def test_more_than_the_largest_file_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setattr(submission, "LARGEST_FILE", 4096)
    with refused(UsageError, "runs:", "submit fewer at once"):
        make_submission(read_runs([runs]))
