"""Paths are printed as they were given, and what is printed to be pasted can be pasted, whatever a folder is called."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.program import run

# Folders that code in quotes does not survive.
NAMES = ["plain", "two words", "it's", 'a "quote"', 'it\'s "both"', "back\\slash", "$HOME `id`", "zażółć"]


@pytest.fixture
def here(data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a data set of a name, outputs for it and a run into the working folder."""
    monkeypatch.chdir(tmp_path)

    def put(name: str) -> None:
        shutil.copytree(data, name)
        shutil.copy(gold, "gold.jsonl")
        evaluated = run("evaluate", name, "--engine", "replay", "-m", "gold.jsonl", "-o", f"{name} run")
        assert evaluated.code == 0, evaluated.err

    return put


@pytest.mark.parametrize("name", NAMES)
def test_python_and_commands_that_are_printed_name_the_folder(name: str, here: Callable[[str], None]) -> None:
    here(name)
    arguments = ["-l", "3k", "-l", "4k", "-t", "story_multihop", "-t", "ruler_niah", "-n", "2", "-w", "1", "-o", name]
    *_, imports, code = run("generate", *arguments).out.splitlines()
    assert imports == "from datasets import load_dataset"
    call = ast.parse(code).body[0].value  # type: ignore[attr-defined]
    assert [ast.literal_eval(argument) for argument in call.args] == [name, "story_multihop_3k"]
    assert {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} == {"split": "test"}

    unscored = run("evaluate", name, "--engine", "replay", "-m", "gold.jsonl", "--no-score", "-o", f"{name} later")
    assert _command(unscored.out, "next: ") == ["sparse-tasks", "score", f"{name} later"]
    submitted = run("submit", f"{name} run", "-o", f"{name}.json")
    check = _command(submitted.out, "Check it as a keeper would: ")
    assert check == ["sparse-tasks", "leaderboard", "check", f"{name}.json", "--data", name]
    assert run(*check[1:]).code == 0

    run_folder = Path(f"{name} run")
    (run_folder / "scores.parquet").unlink()
    assert _command(run("compare", run_folder, run_folder).err, "; run ") == ["sparse-tasks", "score", f"{name} run"]
    lines = (run_folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (run_folder / "predictions.jsonl").write_bytes(b"".join(lines[1:]))
    complete = _command(run("score", run_folder).err, "complete the run: ")
    assert complete[:3] == ["sparse-tasks", "evaluate", name]


def _command(text: str, before: str) -> list[str]:
    """The command that a line ends in."""
    (line,) = [line for line in text.splitlines() if before in line]
    return shlex.split(line.rpartition(before)[2])


def _commands() -> dict[str, tuple[str, ...]]:
    """A command line each for what reads or writes a path, well and not."""
    replay = ("--engine", "replay", "-m", "gold.jsonl")
    generate = ("generate", "-l", "3k", "-t", "ruler_niah", "-n", "1", "-w", "1")
    lines: list[tuple[str, ...]] = [
        (*generate, "-o", "new"),
        (*generate, "-o", "data"),
        (*generate, "-o", "data run"),
        (*generate, "-o", "gold.jsonl"),
        (*generate, "-o", "new", "--essays", "none.txt"),
        (*generate, "-o", "new", "--tokenizer", "none/tokenizer.json"),
        (*generate, "-o", "new", "--template", "none.toml"),
        ("validate", "data", "-w", "1"),
        ("validate", "damaged", "-w", "1"),
        ("validate", "none"),
        ("show", "data", "ruler_niah", "0"),
        ("show", "damaged", "ruler_niah", "0"),
        ("publish", "data", "org/data", "--dry-run", "-w", "1"),
        ("evaluate", "data", *replay, "-o", "new"),
        ("evaluate", "data", *replay, "-o", "data run"),
        ("evaluate", "data", *replay, "-o", "data"),
        ("evaluate", "damaged", *replay, "-o", "new"),
        ("evaluate", "data", "--engine", "replay", "-m", "none.jsonl", "-o", "new"),
        ("score", "data run"),
        ("score", "none"),
        ("compare", "data run", "damaged run"),
        ("compare", "data run", "damaged"),
        ("analyze", "data run", "data run"),
        ("analyze", ".", "data run"),
        ("analyze", "data run", "-o", "new"),
        ("report", "data run", "-o", "new.html"),
        ("report", "data run", "-o", "gold.jsonl"),
        ("report", "damaged run", "-o", "new.html"),
        ("export", "data run", "--to", "lm_eval", "-o", "new"),
        ("export", "data", "--to", "lm_eval_task", "-o", "new"),
        ("export", "damaged run", "--to", "lm_eval", "-o", "new"),
        ("submit", "data run", "-o", "new.json"),
        ("submit", "data run", "-o", "gold.jsonl"),
        ("leaderboard", "check", "gold.jsonl", "--data", "data"),
        ("leaderboard", "check", "none.json", "--data", "data"),
        ("leaderboard", "build", "accepted", "-o", "new"),
        ("leaderboard", "build", "accepted", "-o", "data"),
        ("leaderboard", "build", "accepted", "-o", "gold.jsonl"),
        ("leaderboard", "build", "accepted", "-o", "gold.jsonl/below"),
        ("leaderboard", "build", "none", "-o", "new"),
    ]
    return {" ".join(line): line for line in lines}


def _damage(name: str) -> None:
    """Put what is damaged beside a data set and its run."""
    shutil.copytree(name, "damaged")
    for path in Path("damaged").glob("*/*.parquet"):
        path.write_bytes(b"damaged")
    shutil.copytree(f"{name} run", "damaged run")
    Path("damaged run", "result.json").write_text("{")
    Path("accepted").mkdir()


FILES = ("data", "damaged", "new", "gold.jsonl", "none", "accepted")


@pytest.mark.parametrize("line", _commands())
def test_paths_stay_relative_and_keep_their_dot(
    line: str, here: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    here("out/data")
    shutil.move("gold.jsonl", "out")
    shutil.rmtree("out/data run")
    replay = ("--engine", "replay", "-m", "./out/gold.jsonl")
    assert run("evaluate", "./out/data", *replay, "-o", "./out/data run").code == 0
    monkeypatch.chdir("out")
    _damage("data")
    monkeypatch.chdir(tmp_path)
    finished = run(*(f"./out/{word}" if word.startswith(FILES) else word for word in _commands()[line]))
    assert "Traceback" not in finished.err
    said = finished.out + finished.err
    assert str(tmp_path) not in said
    assert not re.search(r"(?<!\./)\bout/", said), said
    for written in Path("out").rglob("*"):
        if written.is_file() and written.parts[1].startswith("new"):
            assert str(tmp_path) not in written.read_bytes().decode("latin-1"), written


def test_files_say_nothing_of_the_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("./dotted", "plain"):
        assert run("generate", "-l", "3k", "-t", "ruler_niah", "-n", "1", "-w", "1", "-o", folder).code == 0
    assert Path("dotted/sparse_tasks.json").read_bytes() == Path("plain/sparse_tasks.json").read_bytes()


# Files that a user names, where what stands in them cannot be read.
READ = {
    "corpus": "generate -l 3k -t qa_squad -n 1 -w 1 -o new --corpus qa_squad=FILE",
    "essays": "generate -l 3k -t ruler_niah_single_2 -n 1 -w 1 -o new --essays FILE",
    "template": "generate -l 3k -t ruler_niah -n 1 -w 1 -o new --template FILE",
    "outputs": "evaluate data --engine replay -o new -m FILE",
    "reference": "check quest --reference FILE",
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_that_cannot_be_read_is_named_as_it_was_given(
    kind: str, absolute: bool, here: Callable[[str], None], tmp_path: Path
) -> None:
    here("data")
    Path("folder").mkdir()
    for name in ("bad.json", "bad.jsonl"):
        Path("folder", name).write_bytes(b"\xff{")
    given = str(Path(tmp_path if absolute else "", "folder", "bad.jsonl" if kind == "outputs" else "bad.json"))
    finished = run(*[word.replace("FILE", given) for word in READ[kind].split()])
    assert finished.code == 2
    assert given in finished.err
    assert absolute or str(tmp_path) not in finished.err


def test_an_absolute_path_stays_one(here: Callable[[str], None], tmp_path: Path) -> None:
    here("data")
    assert str(tmp_path / "data") in run("validate", tmp_path / "data", "-w", "1").out
    assert json.loads(Path("data run/run.json").read_bytes())["dataset"]["name"] == "data"
