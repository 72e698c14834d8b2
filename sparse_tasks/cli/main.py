"""The program ``sparse-tasks``."""

from __future__ import annotations

import functools
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from sparse_tasks import __version__
from sparse_tasks.cli import (
    analyze,
    attention,
    check,
    compare,
    evaluate,
    explain,
    export,
    generate,
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
from sparse_tasks.core.errors import DataError, SparseTasksError, UsageError, kept, without_passwords
from sparse_tasks.core.files import WRITTEN
from sparse_tasks.core.format import visible
from sparse_tasks.core.parents import go_on_in_child, stopped_by_signals
from sparse_tasks.core.paths import as_given
from sparse_tasks.core.shortages import ABORTS, OF_PROCESS, check_limits, out_of_memory, shortage
from sparse_tasks.core.streams import own_standard_error


class _Command(TyperCommand):
    """A command whose help shows no type for options without a value, and which checks memory limits."""

    def invoke(self, ctx: Any) -> Any:
        if check_limits() and (ended := go_on_in_child()) is not None:
            if ended not in ABORTS:
                os._exit(ended if ended >= 0 else 128 - ended)  # the child has printed everything
            what, remedy = out_of_memory()
            message = f"{what}: a library broke off ({signal.Signals(-ended).name}); {remedy}"
            raise SparseTasksError(f"{message}; finished files and answers are kept; resume with: {_command()}")
        return super().invoke(ctx)

    def get_params(self, ctx: Any) -> list[Any]:
        return _bare_flags(super().get_params(ctx))


class _Group(TyperGroup):
    """Commands under one name, with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _bare_flags(super().get_params(ctx))


def _bare_flags(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def _with_paths_as_given(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def call(**arguments: Any) -> Any:
        return command(**{name: as_given(value, sys.argv[1:]) for name, value in arguments.items()})

    return call


app = typer.Typer(
    name="sparse-tasks",
    cls=_Group,
    help="Long-context tasks of exact length, to measure what sparse attention costs a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_STOPPED: dict[object, str] = {130: "interrupted", 143: "stopped by SIGTERM", 129: "stopped by SIGHUP"}


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"sparse-tasks {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Long-context tasks of exact length, to measure what sparse attention costs a language model."""


app.command("generate")(generate.generate)
app.command("validate")(validate.validate)
app.command("show")(show.show)
app.command("list")(listing.listing)
app.command("evaluate")(evaluate.evaluate)
app.command("serve", context_settings={"ignore_unknown_options": True})(serve.serve)
app.command("predict", hidden=True)(evaluate.predict)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("analyze")(analyze.analyze)
app.command("explain")(explain.explain)
app.command("check")(check.check)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("publish")(publish.publish)
app.command("submit")(submit.submit)
app.add_typer(leaderboard.app, name="leaderboard", cls=_Group)
app.add_typer(attention.app, name="attention", cls=_Group)
for commands in (app, leaderboard.app, attention.app):
    for command in commands.registered_commands:
        command.cls = _Command
        if command.callback is not None:
            command.callback = _with_paths_as_given(command.callback)


def _program(arguments: list[str]) -> typer.Typer:
    """The program with only the named command, since Typer takes long to build all of them."""
    named = copy(app)
    for kind in ("registered_commands", "registered_groups"):
        setattr(named, kind, [one for one in getattr(app, kind) if [one.name] == arguments[:1]])
    return named if named.registered_commands or named.registered_groups else app


@stopped_by_signals()
def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 bad input, 128 + N stopped by signal N (130: Ctrl-C)."""
    WRITTEN.clear()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that cannot show every character
    own_standard_error()
    try:
        try:
            _program(sys.argv[1:])()
        finally:
            sys.stdout.flush()
    except SparseTasksError as error:
        helps = f"; {lack.remedy}" if (lack := shortage(error)) else ""
        # Bad input leaves nothing to resume.
        ended = "" if isinstance(error, UsageError | DataError) else _kept(error)
        _leave(error.exit_code, "error: " + visible(" ".join(str(error).splitlines())) + helps + ended)
    except SystemExit as leaving:
        # Typer turns Ctrl-C into this code silently.
        stopped = _STOPPED.get(leaving.code)
        again = f"; nothing was kept; start again: {_command()}"
        _leave(leaving.code, None if stopped is None else stopped + (_kept(leaving) or again))
    except OSError as error:
        if error.filename is None and error.errno not in OF_PROCESS:
            # Errors in a data set's files have their own type; this is about standard output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            gone = isinstance(error, BrokenPipeError)
            _leave(1, None if gone else f"error: cannot print: {error.strerror or error}")
        lack, file = shortage(error), f"{error.filename}: " if error.filename else ""
        _leave(1, f"error: {file}{f'{lack.what}; {lack.remedy}' if lack else error.strerror}{_kept(error)}")
    except Exception as error:
        if (lack := shortage(error)) is None:
            raise
        _leave(1, f"error: {lack.what}; {lack.remedy}{_kept(error)}")


def _kept(error: BaseException) -> str:
    """What a command ended by this error or signal has kept, and the command that resumes it; "" for nothing."""
    if notes := kept(error):
        return "; ".join(["", *notes, f"resume with: {_command()}"])
    if written := {path.absolute() for path in WRITTEN if not path.name.startswith(".") and path.exists()}:
        folder = Path(os.path.commonpath([path.parent for path in written]))
        shown = folder.relative_to(here) if folder.is_relative_to(here := Path.cwd()) else folder
        files = f"{len(written):,} file{'s' * (len(written) != 1)}"
        return f"; kept in {as_given(shown, sys.argv[1:])}: {files}; start again: {_command()}"
    return ""


def _command() -> str:
    return shlex.join(["sparse-tasks", *without_passwords(sys.argv[1:])])


def _leave(code: str | int | None, message: str | None) -> NoReturn:
    if message is not None:
        print(message, file=sys.stderr)
    sys.exit(code)
