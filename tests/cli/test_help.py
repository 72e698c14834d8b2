"""Help reads well, and names every option whole."""

from __future__ import annotations

import inspect
import itertools
import re

import pytest

import sparse_tasks
from sparse_tasks.cli import (
    analyze,
    attention,
    calibrating,
    check,
    compare,
    evaluate,
    explain,
    export,
    generate,
    inspecting,
    leaderboard,
    listing,
    publish,
    report,
    score,
    serve,
    show,
    submit,
    validate,
)
from sparse_tasks.cli.main import _program, app
from sparse_tasks.generators.estimate import Estimate
from tests.cli.program import run

COMMANDS = {
    "generate": generate.generate,
    "validate": validate.validate,
    "show": show.show,
    "list": listing.listing,
    "evaluate": evaluate.evaluate,
    "serve": serve.serve,
    "predict": evaluate.predict,
    "score": score.score,
    "compare": compare.compare,
    "analyze": analyze.analyze,
    "explain": explain.explain,
    "check": check.check,
    "report": report.report,
    "export": export.export,
    "publish": publish.publish,
    "submit": submit.submit,
    "leaderboard check": leaderboard.check,
    "leaderboard build": leaderboard.build,
    "attention list": attention.listing,
    "attention show": attention.show,
    "attention bench": attention.bench,
    "attention inspect": inspecting.inspect,
    "attention calibrate": calibrating.calibrate,
}


def options(command: str) -> set[str]:
    """The options as the signature declares them, without hidden ones."""
    names = set()
    for parameter in inspect.signature(COMMANDS[command], eval_str=True).parameters.values():
        declared = parameter.annotation.__metadata__[0]
        if type(declared).__name__ == "OptionInfo" and not declared.hidden:
            names |= set(declared.param_decls) or {"--" + parameter.name.strip("_").replace("_", "-")}
    return names


def test_all_commands_are_registered() -> None:
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    named = [command.name for command in app.registered_commands]
    named += [f"{name} {command.name}" for name, group in groups.items() for command in group.registered_commands]
    assert named == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option_in_full(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("160", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        finished = run(*command.split(), "-h")
        assert (finished.code, finished.err) == (0, "")
        assert options(command) | {"--help"} <= set(finished.out.split())
        assert "…" not in finished.out
        assert max(map(len, finished.out.splitlines())) <= int(columns)
    # Of the narrow one: every option is explained.
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", finished.out).split())
    for parameter in inspect.signature(COMMANDS[command], eval_str=True).parameters.values():
        declared = parameter.annotation.__metadata__[0]
        if getattr(declared, "hidden", False):
            continue
        assert declared.help
        assert declared.help.endswith(".")
        for word in declared.help.split():
            assert word in shown
    # A line of the docstring that is wrapped by hand leaves a stump when the terminal wraps it again.
    head = finished.out.partition("╭")[0].strip().splitlines()
    for line, following in itertools.pairwise(head):
        if line.strip() and following.strip():
            first_word = following.split()[0]
            assert len(line.rstrip()) + 1 + len(first_word) > 79, (line, following)


def test_start_without_arguments_shows_the_help() -> None:
    bare = run()
    assert bare.code in (0, 2)
    for shown in (bare.out, run("--help").out):
        # ``predict`` is a hidden alias.
        assert all(re.search(rf"│ {command.split()[0]} ", shown) for command in COMMANDS if command != "predict")
        assert "--install-completion" in shown
        assert "Traceback" not in shown


def test_version_is_printed() -> None:
    finished = run("--version")
    assert (finished.code, finished.out, finished.err) == (0, f"sparse-tasks {sparse_tasks.__version__}\n", "")


def test_example_in_the_help_works(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"Example: sparse-tasks (generate .*?)\s*\n", run("generate", "--help").out)
    assert example
    # What processes would measure, of which test_generate.py asks.
    monkeypatch.setattr(
        "sparse_tasks.generators.estimate.estimate",
        lambda request, *_: Estimate(
            {(task.name, n): 1.0 for task in request.tasks for n in request.lengths}, 1, 1, 1, 1
        ),
    )
    finished = run(*example[1].split(), "--dry-run", "--format", "json")
    assert finished.code == 0
    assert finished.json()["total"]["samples"] == 80


@pytest.mark.parametrize("name", ["list", "predict", "attention"])
def test_a_named_command_builds_no_other(name: str) -> None:
    alone = _program([name, "--help"])
    assert [one.name for one in (*alone.registered_commands, *alone.registered_groups)] == [name]


@pytest.mark.parametrize("arguments", [[], ["--version"], ["-h", "list"], ["lists"]])
def test_all_commands_are_built_without_a_name(arguments: list[str]) -> None:
    assert _program(arguments) is app
