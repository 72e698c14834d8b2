"""``sparse-tasks list``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparse_tasks.cli.output import Format, print_json

__all__ = ["listing"]


def listing(format: Annotated[Format, typer.Option(help="How to print the list.")] = Format.human) -> None:
    """List the tasks with their axes and parameters, the presets and the built-in tokenizers."""
    from sparse_tasks.core.tokenizers import BUILT_IN
    from sparse_tasks.generators.presets import PRESETS
    from sparse_tasks.generators.task import TASKS, parameters

    tasks = [
        {
            "name": task.name,
            "group": task.group(),
            "summary": task.summary,
            "dispersion": task.dispersion,
            "scope": task.scope,
            "metric": task.metric,
            "max_new_tokens": task.max_new_tokens,
            "depth": task.steerable,
            "parameters": [
                {"name": p.name, "default": p.default, "range": p.range, "help": p.help} for p in parameters(task)
            ],
        }
        for task in TASKS
    ]
    presets = {name: {"summary": preset.summary, "settings": preset.settings} for name, preset in PRESETS.items()}
    if format is Format.json:
        print_json({"tasks": tasks, "presets": presets, "tokenizers": BUILT_IN})
        return
    _print(tasks, presets, BUILT_IN)


def _print(tasks: list[dict[str, Any]], presets: dict[str, Any], tokenizers: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("task", "asks for", "dispersion", "scope", "metric", "depth", title="Tasks", title_justify="left")
    for task in tasks:
        steered = "steered" if task["depth"] else "everywhere"
        table.add_row(task["name"], task["summary"], task["dispersion"], task["scope"], task["metric"], steered)
    console.print(table)
    table = Table("parameter", "default", "values", "meaning", title="Parameters (--set)", title_justify="left")
    for task in tasks:
        for p in task["parameters"]:
            table.add_row(f"{task['name']}.{p['name']}", str(p["default"]), p["range"], p["help"])
        table.add_section()
    console.print(table)
    for title, rows in (
        ("Presets (--preset)", {name: preset["summary"] for name, preset in presets.items()}),
        ("Tokenizers (--tokenizer; or a folder, a tokenizer.json, a Hub id)", tokenizers),
    ):
        console.print(f"\n{title}")
        for name, meaning in rows.items():
            console.print(f"  {name:10} {meaning}")
