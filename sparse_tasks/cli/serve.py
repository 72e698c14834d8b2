"""``sparse-tasks serve``."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from sparse_tasks.cli.completion import complete_method
from sparse_tasks.cli.running import FreeBlocks, NoSelfTest, Set, method_arguments


def serve(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model: a folder, a Hub id, demo, probe or probe-steps.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="VLLM", help="Options of vLLM's server, as in --port 8000.", show_default=False),
    ] = None,
    attention: Annotated[
        str,
        typer.Option(
            "--attention",
            "-a",
            metavar="NAMES",
            help="One or more methods, from which requests choose; the first is the default.",
            autocompletion=complete_method,
        ),
    ] = "dense",
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            metavar="S",
            help="Target sparsity, in [0, 1), for requests that name none.",
            show_default="the method's own budget",
        ),
    ] = None,
    set_: Set = None,
    no_self_test: NoSelfTest = False,
    free_blocks: FreeBlocks = False,
) -> None:
    """Serve a model under sparse attention with vLLM's server; responses report the measured sparsity.

    Example: sparse-tasks serve demo --attention quest,snapkv --sparsity 0.9 --port 8000
    """
    from sparse_tasks.evaluators.serving import serve_command

    names = [name.strip() for name in attention.split(",")]
    arguments = method_arguments(set_ or [])
    command = serve_command(
        model, names, sparsity, arguments, options or [], free_blocks=free_blocks, self_test=not no_self_test
    )
    print(shlex.join(command), file=sys.stderr, flush=True)
    os.execv(command[0], command)  # noqa: S606 - without a shell
