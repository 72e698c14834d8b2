"""``sparse-tasks show``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sparse_tasks.cli.output import Format, print_json, warn

_MARGIN = 300


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set folder.")],
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="A task of the data set.", show_default="the only one")
    ] = None,
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Number of the sample, from 0.")] = 0,
    length: Annotated[
        str | None,
        typer.Option("--length", "-l", help="Prompt length, if there are several.", show_default="the shortest"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print the whole prompt.")] = False,
    format: Annotated[Format, typer.Option(help="How to print the sample.")] = Format.human,
) -> None:
    """Show a sample: its prompt, shortened to the highlighted evidence, and its gold answer."""
    from rich.console import Console
    from rich.text import Text

    from sparse_tasks.core.format import visible
    from sparse_tasks.core.manifest import MANIFEST
    from sparse_tasks.generators.excerpt import excerpt
    from sparse_tasks.generators.lookup import find_sample

    found = find_sample(folder, task, index, length)
    row = found.row
    if found.changed:
        check = shlex.join(["sparse-tasks", "validate", str(folder)])
        warn(f"{found.path} differs from the file that {MANIFEST} records; to see what changed, run {check}")
    if format is Format.json:
        print_json(row)
        return
    # Soft wrap keeps the prompt's line breaks.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(f"{row['id']}: {row['input_tokens']:,} tokens of {row['length']:,}, {row['metric']}", style="bold")
    console.print(f"params {visible(row['params'])}\n", style="dim")
    text = Text()
    margin = len(row["prompt"]) if full else _MARGIN
    for kind, words in excerpt(row["prompt"], row["evidence"], margin, most=10**6 if full else 8):
        if kind == "gap":
            text.append(f"\n\n{words}\n\n", style="dim")
        else:
            text.append(visible(words), style="black on yellow" if kind == "evidence" else "")
    console.print(text)
    depths = ", ".join(f"{span['depth']:.3f}" for span in row["evidence"][:16])
    more = f", ... ({len(row['evidence'])} spans)" if len(row["evidence"]) > 16 else ""
    console.print(f"\nevidence at depth {depths}{more}", style="dim")
    console.print("answer", style="bold")
    console.print(Text(visible(row["answer"])))
