"""``submit``: runs become one file, which says what it holds; anything else is one line, and no file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.evaluators.dataset import open_dataset
from tests.cli.program import contents, run
from tests.cli.test_compare import evaluated
from tests.evaluators.leaderboard.handed_in import answered


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of outputs that were made elsewhere."""
    root = tmp_path_factory.mktemp("submit")
    return [evaluated(data, root / "one", 0), evaluated(data, root / "two", 1)]


def test_runs_become_one_file(runs: list[Path], data: Path, tmp_path: Path) -> None:
    before = [contents(folder) for folder in runs]
    path = tmp_path / "new" / "submission.json"
    finished = run("submit", *runs, "-o", path, "--name", "Zoë", "--contact", "zoe@example.org")
    assert (finished.code, finished.err) == (0, "")
    out = finished.out.splitlines()
    assert re.fullmatch(rf"{path}: \d+\.\d KiB, Zoë", out[0])
    assert out[1] == "  one.jsonl, unknown: 8 predictions over data (2 tasks at 3k, 4k)"
    assert out[2] == "  two.jsonl, unknown: 8 predictions over data (2 tasks at 3k, 4k)"
    assert out[-1] == f"Check it as a leaderboard would: sparse-tasks leaderboard check {path} --data {data}"
    document = json.loads(path.read_bytes())
    assert (document["name"], document["contact"], len(document["runs"])) == ("Zoë", "zoe@example.org", 2)
    assert str(runs[0].parent) not in path.read_text(encoding="ascii")
    assert [contents(folder) for folder in runs] == before


def test_only_an_older_submission_is_overwritten(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    assert run("submit", *runs, "-o", path, "--name", "one").code == 0
    assert run("submit", *runs, "-o", path, "--name", "two").code == 0
    assert json.loads(path.read_bytes())["name"] == "two"
    before = contents(runs[0])
    for taken, words in ((runs[0] / "result.json", "is not a submission"), (runs[0], "is a folder")):
        finished = run("submit", *runs, "-o", taken)
        assert finished.says("output", str(taken), words)
        assert finished.code == 2
    assert contents(runs[0]) == before


def test_an_invalid_submission_is_one_line_and_no_file(runs: list[Path], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    predicted = tmp_path / "predicted"
    outputs = runs[0].with_suffix(".jsonl")
    assert run("predict", data, "--engine", "replay", "-m", outputs, "-o", predicted).code == 0
    for arguments, words in (
        ([predicted], ["holds no result.json", "evaluate or score"]),
        ([tmp_path / "nowhere"], ["nowhere", "cannot be read"]),
        ([*runs, runs[0]], ["is named twice"]),
        ([*runs, "--name", "x" * 101], ["name", "101 characters", "1 to 100"]),
        ([*runs, "--contact", "a\u202eb"], ["contact", "cannot be shown"]),
    ):
        finished = run("submit", *arguments, "-o", path)
        assert finished.says("error: ", *words), arguments
        assert finished.code == 2
        assert finished.err.isascii() or "\u202e" not in finished.err
        assert not path.exists()
    assert run("submit", "-o", path).code == 2


# --- what every check refuses -------------------------------------------------------------------------------

Spoil = Callable[[dict[str, Any]], object]
QUEST: dict[str, Any] = {"attention": "quest", "sparsity": 0.5}
SNAPKV: dict[str, Any] = {"attention": "snapkv", "sparsity": 0.5}


def _made(folder: Path, data: Path, settings: Spoil = lambda of_run: None, **options: Any) -> Path:
    """A run over the data set, of which ``run.json`` says where it is."""

    def edit(of_run: dict[str, Any]) -> None:
        of_run["dataset"]["name"] = str(data)
        settings(of_run)

    return answered(folder, open_dataset(str(data)), settings=edit, **(options or QUEST))


def _edited(folder: Path, name: str, edit: Callable[[Any], object]) -> None:
    """Change a file after the run was scored."""
    path = folder / name
    if name.endswith("l"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            edit(row)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        document = json.loads(path.read_bytes())
        edit(document)
        path.write_text(json.dumps(document), encoding="utf-8")


# By code: what is known of a run's settings, whether or not its data set is available.
OF_SETTINGS: dict[str, tuple[dict[str, Any], Spoil]] = {
    "control": ({"attention": "oracle_decode", "sparsity": 0.5}, lambda of_run: None),
    "control, composed": ({"attention": "quest+window_prefill", "sparsity": 0.5}, lambda of_run: None),
    "dense_sparse": ({"attention": "dense"}, lambda of_run: of_run["attention"].update(sparsity=0.5)),
    "sparsity_implausible, context on a server": (
        {"attention": "unknown"},
        lambda of_run: (of_run.update(compress="context"), of_run.get("engine", {}).update(name="openai")),
    ),
    "sparsity_implausible, twice": (QUEST, lambda of_run: of_run["attention"].update(method="quest+quest")),
    "sparsity_implausible, argument": (QUEST, lambda of_run: of_run["attention"]["arguments"].update(no_such=1)),
}
# What the data set tells.
OF_DATA: dict[str, Callable[[Path, Path], object]] = {
    "dataset_differs": lambda folder, data: _made(folder, data, lambda of_run: of_run.update(query_aware=False)),
    "dataset_differs, context": lambda folder, data: _made(
        folder,
        data,
        lambda of_run: (of_run.update(compress="context"), of_run["engine"].update(name="transformers")),
        **SNAPKV,
    ),
    "sparsity_implausible": lambda folder, data: _made(
        folder, data, **QUEST, measured={"prefill": 0.0, "decode": 0.97}
    ),
    "sparsity_implausible, unmeasured": lambda folder, data: _made(folder, data, **QUEST, measured={}),
    "echo": lambda folder, data: _made(folder, data, texts=_of_another(data)),
    "finish_reason": lambda folder, data: _edited(
        _made(folder, data), "predictions.jsonl", lambda row: row.update(finish_reason="eos")
    ),
    "tokens": lambda folder, data: _edited(
        _made(folder, data), "predictions.jsonl", lambda row: row.update(output_tokens=10**6)
    ),
    "scores_differ": lambda folder, data: _edited(
        _made(folder, data), "predictions.jsonl", lambda row: row.update(text="<answer>no</answer>")
    ),
    "scores_differ, result": lambda folder, data: _edited(
        _made(folder, data), "result.json", lambda result: result["averages"][0].update(mean=0.5)
    ),
    "settings_differ": lambda folder, data: _edited(
        _made(folder, data), "result.json", lambda result: result["attention"].update(sparsity=0.9)
    ),
    "measures_differ": lambda folder, data: _edited(
        _made(folder, data), "result.json", lambda result: result["configs"][0].update(input_tokens=9.0)
    ),
}


def _of_another(data: Path) -> Callable[[dict[str, Any]], str]:
    """The answer to the other sample of a task."""
    dataset = open_dataset(str(data))
    golds = {(row["task"], row["length"], row["index"]): row["answer"] for row in dataset.rows(dataset.select())}
    return lambda row: f"<answer>{golds[row['task'], row['length'], 1 - row['index']]}</answer>"


def _checked(runs: list[Path], data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The reasons of the maintainer's check, for a submission made anyway."""
    with monkeypatch.context() as patch:
        patch.setattr("sparse_tasks.evaluators.leaderboard.check.foreseen", lambda *_: [])
        assert run("submit", *runs, "-o", folder / "forced.json").code == 0
    verdict = run("leaderboard", "check", folder / "forced.json", "--data", data, "--format", "json").json()
    assert not verdict["accepted"]
    return list(verdict["reasons"])


@pytest.mark.parametrize("kind", [*OF_SETTINGS, *OF_DATA])
def test_submit_refuses_what_every_check_refuses_with_the_same_reason(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = tmp_path / "run", tmp_path / "submission.json"
    if kind in OF_DATA:
        OF_DATA[kind](folder, data)
    else:
        options, spoil = OF_SETTINGS[kind]
        _made(folder, data, **options)
        for name in ("run.json", "result.json"):
            _edited(folder, name, spoil)
    finished = run("submit", folder, "-o", path)
    assert finished.code == 2
    assert not path.exists()
    reason = _checked([folder], data, tmp_path, monkeypatch)[0]
    assert reason["code"] == kind.partition(",")[0]
    assert finished.says(
        f"error: runs: {reason['where']!r} is refused by leaderboard check: ",
        f"{reason['code']}: {reason['message']}",
        "; score the run again" if reason["code"].endswith("_differ") else "; leave the run out",
    )


@pytest.mark.parametrize("kind", OF_SETTINGS)
def test_settings_are_enough_without_the_data_set(kind: str, data: Path, tmp_path: Path) -> None:
    options, spoil = OF_SETTINGS[kind]
    here = shutil.copytree(data, tmp_path / "data")
    folder = _made(tmp_path / "run", here, **options)
    shutil.rmtree(here)
    for name in ("run.json", "result.json"):
        _edited(folder, name, spoil)
    finished = run("submit", folder, "-o", tmp_path / "submission.json")
    assert finished.says("is refused by leaderboard check", kind.partition(",")[0])
    assert finished.code == 2


def test_a_missing_data_set_is_reported_and_can_be_given(data: Path, tmp_path: Path) -> None:
    here, path = shutil.copytree(data, tmp_path / "here"), tmp_path / "it's.json"
    folder = _made(tmp_path / "run", here)
    moved = here.rename(tmp_path / "moved")
    finished = run("submit", folder, "-o", path)
    assert finished.code == 0
    assert finished.err.startswith(
        f"note: {here} is missing or is not the runs' data set, so only settings were checked"
    )
    assert finished.out.splitlines()[-1].endswith(f"leaderboard check '{tmp_path}/it'\"'\"'s.json'")
    finished = run("submit", folder, "-o", path, "--data", moved)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.splitlines()[-1].endswith(f" --data {moved}")
    _edited(folder, "predictions.jsonl", lambda row: row.update(finish_reason="eos"))
    assert run("submit", folder, "-o", path, "--data", moved).says("finish_reason")
    assert run("submit", folder, "-o", path, "--data", tmp_path / "run").says("data", "sparse_tasks.json")


@pytest.mark.parametrize("options", [{"limit": 1}, {"tasks": ["ruler_niah"]}, {"attention": "unknown"}, QUEST])
def test_what_a_check_accepts_is_accepted(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    assert run("submit", _made(tmp_path / "run", data, **options), "-o", path).code == 0
    assert run("leaderboard", "check", path, "--data", data).code == 0


def test_an_incomplete_run_is_refused(runs: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs[0], tmp_path / "run"))
    lines = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_bytes(b"".join(lines[:-1]))
    finished = run("submit", folder, "-o", tmp_path / "submission.json")
    assert finished.says(f"{folder}: 1 of 8 predictions are missing; complete the run: sparse-tasks evaluate ")
    assert finished.code == 1
    assert not (tmp_path / "submission.json").exists()
