"""``leaderboard``: a maintainer checks submissions and builds the board; exit codes distinguish verdicts."""

from __future__ import annotations

import json
import lzma
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from sparse_tasks import __version__
from sparse_tasks.core.format import size
from sparse_tasks.generators.dataset import fingerprint
from tests.cli.program import ABSENT, contents, run
from tests.cli.test_compare import evaluated
from tests.cli.test_imports import CALL, loaded
from tests.schemas.validation import problems


@pytest.fixture(scope="module")
def submission(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's submission; read-only."""
    root = tmp_path_factory.mktemp("leaderboard")
    path = root / "submission.json"
    assert run("submit", evaluated(data, root / "run", 1), "-o", path, "--name", "One").code == 0
    return path


@pytest.fixture(scope="module")
def forged(submission: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with better scores."""
    path = tmp_path_factory.mktemp("forged") / "submission.json"
    text = submission.read_text(encoding="ascii").replace('"mean": 0.5', '"mean": 1.0')
    path.write_text(text, encoding="ascii")
    return path


def test_an_honest_submission_is_accepted(submission: Path, data: Path) -> None:
    before = contents(data), submission.read_bytes()
    finished = run("leaderboard", "check", submission, "--data", data)
    assert (finished.code, finished.err) == (0, "")
    out = finished.out.splitlines()
    assert out[0] == "ACCEPTED"
    assert out[1] == "  note, attention_unknown: run.jsonl, unknown: was made by replay"
    assert out[2] == "One: 1 run, 8 predictions scored again"
    assert out[3] == f"sha256 {sha256(submission.read_bytes()).hexdigest()}"
    verdict = run("leaderboard", "check", submission, "--data", data, "--format", "json").json()
    assert problems(verdict, "verdict-1.0") == []
    assert (verdict["accepted"], verdict["sparse_tasks"]) == (True, __version__)
    assert (contents(data), submission.read_bytes()) == before


def test_without_data_it_is_regenerated(submission: Path, data: Path, tmp_path: Path) -> None:
    expected = run("leaderboard", "check", submission, "--data", data)
    assert run("leaderboard", "check", submission, "-w", "1") == expected
    manifest = tmp_path / "board.json"
    manifest.write_bytes((data / "sparse_tasks.json").read_bytes())
    assert run("leaderboard", "check", submission, "-d", manifest, "-w", "1") == expected
    document = json.loads(submission.read_bytes())
    document["datasets"][0]["request"]["samples"] = 10**9
    for part in document["runs"]:
        part["settings"]["dataset"]["fingerprint"] = fingerprint(document["datasets"][0])
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(document), encoding="ascii")
    finished = run("leaderboard", "check", forged)
    assert (finished.code, finished.err) == (1, "")
    assert finished.out.splitlines()[:2] == [
        "REFUSED",
        "  dataset_unknown: run.jsonl, unknown: settings.dataset: cannot be generated again: samples: 1000000000 is "
        "out of range; choose from 1 to 1000000; or name the data set with --data",
    ]


def test_a_forged_one_is_refused_with_reasons(forged: Path, data: Path) -> None:
    finished = run("leaderboard", "check", forged, "--data", data)
    assert (finished.code, finished.err) == (1, "")
    out = finished.out.splitlines()
    assert out[0] == "REFUSED"
    assert out[1].startswith(
        "  scores_differ: run.jsonl, unknown: result.configs[story_multihop 3k].mean: is 1.0; by the predictions 0.5"
    )
    finished = run("leaderboard", "check", forged, "--data", data, "--format", "json")
    assert (finished.code, finished.json()["accepted"]) == (1, False)


def test_an_uncheckable_submission_is_one_line(submission: Path, data: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["check", tmp_path / "nowhere.json", "--data", data], ["file", "nowhere.json", "cannot be read"]),
        (["check", data, "--data", data], ["file", str(data), "is a folder", "name a submission"]),
        (["check", submission, "--data", tmp_path], ["data", "sparse_tasks.json"]),
        (["check", submission, "--data", "/no/folder"], ["data", "/no/folder"]),
        (["check", submission, "--data", submission], ["data: ", str(submission), "unknown field"]),
        (["check", submission, "--tokenizer", "/no/folder"], ["tokenizer", "/no/folder"]),
        (["check", submission, "--corpus", "essays"], ["corpus", "essays", "NAME=FILE"]),
        (["build", tmp_path / "nowhere", "-o", tmp_path / "site"], ["folder", "nowhere", "cannot be read"]),
    ):
        finished = run("leaderboard", *arguments)
        assert finished.says("error: ", *words)
        assert finished.code == 2
    assert not (tmp_path / "site").exists()


def test_no_control_character_of_a_submission_reaches_the_terminal(
    submission: Path, data: Path, tmp_path: Path
) -> None:
    evil = "\x1b]0;evil\x07\u202e\r"
    document = json.loads(submission.read_bytes())
    predictions = document["runs"][0]["predictions"]
    rows = [json.loads(line) for line in lzma.decompress(b64decode(predictions["data"])).splitlines()]
    rows[0]["finish_reason"] = rows[1]["id"] = evil
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    packed = b64encode(lzma.compress(content)).decode()
    predictions |= {"data": packed, "bytes": len(content), "sha256": sha256(content).hexdigest()}
    for name, spoilt in (
        ("predictions", document),
        ("name", document | {"name": evil}),
        ("field", document | {evil: evil}),
        ("format", document | {"format": evil}),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(spoilt), encoding="ascii")
        finished = run("leaderboard", "check", path, "--data", data)
        assert finished.code == 1
        assert all(line.isprintable() for line in finished.out.splitlines())
        assert "evil" in finished.out


def test_the_board_is_built_from_accepted_submissions(submission: Path, tmp_path: Path) -> None:
    folder, site = tmp_path / "accepted", tmp_path / "site"
    folder.mkdir()
    (folder / "one.json").write_bytes(submission.read_bytes())
    finished = run("leaderboard", "build", folder, "-o", site)
    assert (finished.code, finished.err) == (0, "")
    page = size((site / "index.html").stat().st_size)
    assert finished.out == f"1 submission, 1 run: {site}/index.html ({page})\n"


def test_checking_does_not_import_generators_or_plots(submission: Path, data: Path) -> None:
    arguments = ["leaderboard", "check", str(submission), "--data", str(data)]
    heavy = {"torch", "datasets", "transformers", "matplotlib", "nltk", "vllm", "openai", "faker"}
    assert not loaded(ABSENT + CALL.format(arguments=arguments)) & heavy
