"""What commands say: of runs that are not whole, in narrow terminals, and of paths and commands to paste."""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sparse_tasks.attention.attention import Attention
from sparse_tasks.cli.main import app
from sparse_tasks.cli.output import frameless, print_table
from sparse_tasks.cli.progress import Bar
from sparse_tasks.evaluators.exports import EXPORTS
from sparse_tasks.evaluators.runs import incomplete, read_settings
from tests.cli.program import Finished, contents, run
from tests.evaluators.example_runs import made_run

# --- runs that are not whole -----------------------------------------------------------------------------------------

# 8 samples: two tasks at two lengths.
MISSING = 3
WORDS = f"{MISSING} of 8 predictions are missing"


@pytest.fixture(scope="module")
def whole(data: Path, gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense and a sparse run, scored; read-only."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    for name, attention in (("dense", ["-a", "dense"]), ("quest", ["-a", "quest", "-s", "0.5"])):
        assert run("evaluate", data, "--engine", "replay", "-m", gold, "-o", runs / name, *attention).code == 0
    return runs


def _killed(folder: Path) -> None:
    """As a kill leaves a run: half a line at the end, and no score."""
    path = folder / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-MISSING]) + lines[-MISSING][:40])
    (folder / "scores.parquet").unlink()
    (folder / "result.json").unlink()


def _lost(folder: Path) -> None:
    """Scored, and then without some of its predictions."""
    path = folder / "predictions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[MISSING:]))


@pytest.fixture(params=[_killed, _lost])
def runs(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """Copies of both runs, of which the sparse one is not whole."""
    copied = Path(shutil.copytree(whole, tmp_path / "runs"))
    damage: Callable[[Path], None] = request.param
    damage(copied / "quest")
    return copied


def _readers(runs: Path, output: Path) -> dict[str, list[object]]:
    """Every command that reads runs."""
    return {
        "compare": ["compare", runs / "dense", runs / "quest"],
        "compare, turned": ["compare", runs / "quest", runs / "dense"],
        "analyze": ["analyze", runs, "-o", output],
        "analyze, json": ["analyze", runs, "--format", "json"],
        "compare, json": ["compare", runs / "dense", runs / "quest", "--format", "json"],
        "report": ["report", runs, "-o", output / "report.html"],
        **{name: ["export", runs / "quest", "--to", name, "-o", output] for name in EXPORTS.names()},
    }


READERS = list(_readers(Path(), Path()))


@pytest.mark.parametrize("reader", READERS)
def test_it_is_refused_with_the_number_and_the_command_that_completes_it(
    reader: str, runs: Path, tmp_path: Path, data: Path
) -> None:
    before = contents(runs)
    finished = run(*_readers(runs, tmp_path / "out")[reader])
    assert finished.code == 1
    assert finished.says(str(runs / "quest"), WORDS, f"complete the run: sparse-tasks evaluate {data} ", "--partial")
    assert contents(runs) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_partial_takes_what_is_there_and_marks_every_output(reader: str, runs: Path, tmp_path: Path) -> None:
    before = contents(runs)
    finished = run(*_readers(runs, tmp_path / "out")[reader], "--partial")
    assert finished.code == 0, finished.err
    assert contents(runs) == before
    if "json" in reader:
        reported = finished.json()
        assert reported.get("missing_b") == MISSING or [WORDS in one for one in reported["partial"]] == [True]
    else:
        assert WORDS in finished.out + finished.err
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert bool(written) == (reader not in ("compare", "compare, turned", "compare, json", "analyze, json"))
    for path in written:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            assert text.splitlines()[0].endswith(",partial")
            assert all(line.endswith(",True") for line in text.splitlines()[1:])
        elif path.suffix == ".html":
            assert WORDS in text
        else:
            # Each line of samples too, and each entry of a list.
            units = text.splitlines() if path.suffix == ".jsonl" else text.split("- dataset:")[path.suffix == ".yaml" :]
            assert all("missing_predictions" in unit for unit in units)


@pytest.mark.parametrize("reader", READERS)
def test_a_whole_run_is_never_marked(reader: str, whole: Path, tmp_path: Path) -> None:
    plain = run(*_readers(whole, tmp_path / "out")[reader])
    assert plain.code == 0, plain.err
    first = contents(tmp_path) if (tmp_path / "out").exists() else {}
    again = run(*_readers(whole, tmp_path / "out")[reader], "--partial")
    assert (again.code, again.out, again.err) == (0, plain.out, plain.err)
    assert (contents(tmp_path) if first else {}) == first
    assert not any(b"missing_predictions" in content or b"PARTIAL" in content for content in first.values() if content)


def test_no_output_is_invented(runs: Path, tmp_path: Path) -> None:
    """An empty output that scores 1.0 stood for each missing prediction."""
    there = {
        json.loads(line)["id"]: json.loads(line)["text"]
        for line in (runs / "quest" / "predictions.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    }
    assert run("export", runs / "quest", "--to", "lm_eval", "-o", tmp_path / "out", "--partial").code == 0
    samples = [
        json.loads(line)
        for path in (tmp_path / "out").rglob("samples_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert {sample["doc"]["id"]: sample["resps"][0][0] for sample in samples} == there
    assert len(samples) == 8 - MISSING


def test_partial_pairs_are_those_that_both_answered(runs: Path) -> None:
    reported = run("compare", runs / "dense", runs / "quest", "--partial", "--format", "json").json()
    assert (reported["left_out_a"], reported["left_out_b"], reported["missing_b"]) == (MISSING, 0, MISSING)
    assert "missing_a" not in reported
    assert sum(row["n"] for row in reported["rows"]) == 8 - MISSING
    assert all(row["difference"] == 0 for row in reported["rows"])


def test_score_names_evaluate_and_evaluate_completes_it(runs: Path, data: Path, gold: Path, whole: Path) -> None:
    finished = run("score", runs / "quest")
    assert finished.code == 1
    assert finished.says(WORDS, f"complete the run: sparse-tasks evaluate {data} ")
    arguments = ["-o", runs / "quest", "-a", "quest", "-s", "0.5"]
    assert run("evaluate", data, "--engine", "replay", "-m", gold, *arguments).code == 0
    assert run("compare", runs / "dense", runs / "quest").code == 0
    assert contents(runs)["quest/result.json"] == contents(whole)["quest/result.json"]


@pytest.mark.parametrize("written", [["-o", "{}"], ["-o{}"], ["--output", "{}"], ["--output={}"], []])
def test_the_command_completes_the_run_where_it_is_now(
    written: list[str], data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = [word.format("first") for word in written]
    assert run("evaluate", data, "--engine", "replay", "-m", gold, *output, "-a", "quest", "-s", "0.5").code == 0
    first = Path("first") if written else next(Path("runs").iterdir())
    moved = Path(shutil.copytree(first, tmp_path / "moved here"))
    before = contents(first)
    _killed(moved)
    command = shlex.split(run("score", "moved here").err.rpartition("complete the run: ")[2])
    assert command[-2:] == ["-o", "moved here"]
    assert run(*command[1:]).code == 0
    assert contents(moved) == before == contents(first)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("evaluate D -m M -a dense,quest -s 0.5,0.9 --set quest.page=32 -o sweep --seed 3",
         "evaluate D -m M --seed 3 --attention quest --sparsity 0.9 --set quest.page=32 -o moved"),
        ("evaluate D -aquest --sparsity=0,0.9 -m M",
         "evaluate D -m M --attention quest --sparsity 0.9 --set quest.page=32 -o moved"),
        ("predict D -m M -o old", "predict D -m M -o moved"),
        ("explain D -m M -o old", "explain D -m M -o old"),
    ],
)  # fmt: skip
def test_a_run_of_a_sweep_is_completed_by_itself(command: str, expected: str, whole: Path) -> None:
    attention = Attention(method="quest", sparsity=0.9, arguments={"quest.page": 32})
    settings = replace(read_settings(whole / "quest"), command_line=command.split(), attention=attention)
    assert incomplete(Path("moved"), 1, 2, settings).endswith(f"complete the run: sparse-tasks {expected}")


def test_a_run_without_any_prediction_has_nothing_to_take(runs: Path) -> None:
    (runs / "quest" / "predictions.jsonl").unlink()
    finished = run("compare", runs / "dense", runs / "quest", "--partial")
    assert finished.code == 1
    assert finished.says("8 of 8 predictions are missing", "complete the run", "there is nothing to use")


def test_unscored_answers_are_distinguished_from_missing_ones(whole: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(whole, tmp_path / "runs"))
    (copied / "quest" / "result.json").unlink()
    finished: Finished = run("analyze", copied)
    assert finished.says(str(copied / "quest"), "holds no result.json", "score")


@pytest.mark.parametrize("reader", READERS)
def test_scores_of_other_predictions_are_not_taken(reader: str, whole: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(whole, tmp_path / "runs"))
    path = copied / "quest" / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("-00001", "-00009"), encoding="utf-8")
    finished = run(*_readers(copied, tmp_path / "out")[reader])
    assert finished.code == 1
    assert finished.says(str(copied / "quest"), "do not match its predictions", "run sparse-tasks score")


# --- how far a command is, without a terminal -----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "validate", "evaluate", "sweep of one", "hurried"])
def test_without_a_terminal_lines_tell_how_far_it_is(
    command: str, data: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = ["generate", "-l", "3k", "-t", "ruler_niah", "-n", "4", "-w", "1", "-o", tmp_path / "new"]
    evaluate = ["evaluate", data, "--engine", "replay", "-m", gold, "-o", tmp_path / "run"]
    stage, arguments, of = {
        "generate": ("generating", generate, 4),
        "validate": ("validating", ["validate", data, "-w", "1"], None),
        "evaluate": ("answering", evaluate, 8),
        "sweep of one": ("answering", [*evaluate, "-a", "quest", "-s", "0.5"], 8),
        "hurried": ("generating", generate, None),
    }[command]
    if command != "hurried":
        monkeypatch.setattr("sparse_tasks.cli.progress._SHORTEST", 0.0)
        monkeypatch.setattr("sparse_tasks.cli.progress._LONGEST", 0.0)
    finished = run(*arguments)
    assert finished.code == 0, finished.err
    lines = [line for line in finished.err.splitlines() if line.startswith(f"{stage}: ")]
    if command == "hurried":  # it ends before the first is due
        assert finished.err == ""
    elif of is None:
        assert [line.split()[1] for line in lines] == ["2", "4", "6", "8"]  # a file each
    else:
        assert [line.split()[1] for line in lines] == [f"{n}/{of}" for n in range(1, of + 1)]
        reported = rf"{stage}: {{}}/{of} samples \({{:.0%}}\)(, [\d,]+ tok/s)?"
        assert re.fullmatch(reported.format(1, 1 / of), lines[0])
        assert re.fullmatch(reported.format(2, 2 / of) + r", [\d.]+ (s|min|h) left", lines[1])
        assert lines[-1].endswith("0.0 s left")
    assert "\r" not in finished.err
    assert "\x1b" not in finished.err


def test_the_time_left_leaves_out_that_of_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two workers start for 9.5 s, then samples take half a second.
    clock = itertools.chain([0.0, 0.0], itertools.count(9.5, 0.5))
    monkeypatch.setattr("sparse_tasks.cli.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    bar = Bar("reading")
    bar.stage("generating", 241)
    for _ in range(22):
        bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "generating: 2/241 samples (1%)",
        "generating: 22/241 samples (9%), 1.8 min left",
    ]


# --- narrow terminals: from 40 columns on, no number or name is cut --------------------------------------------------

SCORES = {
    ("ruler_niah_multiquery", 1024): [1.0, 0.5, 1.0],
    ("ruler_niah_multivalue", 1024): [1.0, 0.0, 1.0],
}


def _words(text: str) -> set[str]:
    return set(re.sub(r"[─\s]+", " ", text).split())


@pytest.fixture
def scored_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made_run(Path("runs/dense"), SCORES)
    made_run(Path("runs/quest"), SCORES, attention="quest", sparsity=0.5)
    return Path("runs")


@pytest.mark.parametrize("columns", ["40", "60", "80"])
@pytest.mark.parametrize("command", ["compare", "list", "attention list", "attention list --verbose"])
def test_a_narrow_terminal_shows_every_word_of_a_wide_one(
    command: str, columns: str, scored_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*command.split(), *([scored_runs / "dense", scored_runs / "quest"] if command == "compare" else [])]
    monkeypatch.setenv("COLUMNS", "300")
    wide = run(*arguments)
    monkeypatch.setenv("COLUMNS", columns)
    narrow = run(*arguments)
    assert (wide.code, narrow.code) == (0, 0)
    assert "…" not in narrow.out
    # A stacked row begins with its name, which needs no heading.
    assert _words(wide.out) - {"parameter", "name", "task"} <= _words(narrow.out)


@given(
    columns=st.integers(40, 120),
    rows=st.lists(
        st.tuples(st.text("abc_", min_size=1, max_size=30), *[st.floats(0, 1e6).map(lambda x: f"{x:,.3f}")] * 6),
        min_size=1,
        max_size=3,
    ),
)
def test_no_table_cuts_a_number_or_a_name(columns: int, rows: list[tuple[str, ...]]) -> None:
    table = frameless("task", ("length", "n", "score", "95% interval", "unparsed", "cut off"))
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        print_table(table, width=columns)
    assert {cell for row in rows for cell in row} <= _words(out.getvalue())
    assert max(map(len, out.getvalue().splitlines())) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_bar_has_percentage_and_time_left_first(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    bar = Bar("reading")
    bar.stage("counting tokens", 1000)
    bar.advance(250, tokens=1_000_000)
    with bar.console.capture() as captured:
        bar.console.print(bar._progress.make_tasks_table(bar._progress.tasks))
    line = captured.get().rstrip("\n")
    assert re.match(r" *25% (-|\d):(--|\d\d):(--|\d\d) counting tokens", line)
    assert "…" not in line
    assert len(line) <= columns
    assert ("250/1,000 samples" in line) == (columns >= 60)
    assert ("tok/s" in line) == (columns >= 80)


def _every_command() -> list[list[str]]:
    groups = [([], app), *(([str(group.name)], group.typer_instance) for group in app.registered_groups)]
    found = [[*name, str(command.name)] for name, typer in groups if typer for command in typer.registered_commands]
    return [[], *found]


@pytest.mark.parametrize("command", _every_command(), ids=" ".join)
def test_help_shows_no_type_of_what_takes_no_value(command: list[str]) -> None:
    finished = run(*command, "--help")
    assert finished.code == 0
    assert "bool" not in finished.out.lower()


# --- paths as they were given, and commands that can be pasted -------------------------------------------------------

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
    check = _command(submitted.out, "Check it as a leaderboard would: ")
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


@pytest.fixture(scope="module")
def spoilt(data: Path, gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and its run, both whole and damaged."""
    folder = tmp_path_factory.mktemp("spoilt")
    out = folder / "out"
    shutil.copytree(data, out / "data")
    shutil.copy(gold, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        replay = ("--engine", "replay", "-m", "./out/gold.jsonl")
        assert run("evaluate", "./out/data", *replay, "-o", "./out/data run").code == 0
    shutil.copytree(out / "data", out / "damaged")
    for path in out.glob("damaged/*/*.parquet"):
        path.write_bytes(b"damaged")
    shutil.copytree(out / "data run", out / "damaged run")
    (out / "damaged run" / "result.json").write_text("{")
    (out / "accepted").mkdir()
    return folder


FILES = ("data", "damaged", "new", "gold.jsonl", "none", "accepted")


@pytest.mark.parametrize("line", _commands())
def test_paths_stay_relative_and_keep_their_dot(
    line: str, spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(spoilt, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    finished = run(*(f"./out/{word}" if word.startswith(FILES) else word for word in _commands()[line]))
    assert "Traceback" not in finished.err
    said = finished.out + finished.err
    assert not any(str(place) in said for place in (tmp_path, spoilt)), said
    assert not re.search(r"(?<!\./)\bout/", said), said
    for written in Path("out").rglob("*"):
        if written.is_file() and written.parts[1].startswith("new"):
            content = written.read_bytes().decode("latin-1")
            assert not any(str(place) in content for place in (tmp_path, spoilt)), written


def test_files_say_nothing_of_the_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("./dotted", "plain"):
        assert run("generate", "-l", "3k", "-t", "ruler_niah", "-n", "1", "-w", "1", "-o", folder).code == 0
    assert Path("dotted/sparse_tasks.json").read_bytes() == Path("plain/sparse_tasks.json").read_bytes()


# Files named by the user that cannot be read.
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
