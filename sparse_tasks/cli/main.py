"""The program ``sparse-tasks``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sparse_tasks import __version__
from sparse_tasks.cli import generate, listing, show, validate
from sparse_tasks.core.errors import SparseTasksError

__all__ = ["app", "main"]

app = typer.Typer(
    name="sparse-tasks",
    help="Long-context tasks of exact length, to see what sparse attention costs a model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Long-context tasks of exact length, to see what sparse attention costs a model."""
    if version:
        typer.echo(f"sparse-tasks {__version__}")
        raise typer.Exit


app.command("generate")(generate.generate)
app.command("validate")(validate.validate)
app.command("show")(show.show)
app.command("list")(listing.listing)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        app()
    except SparseTasksError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
