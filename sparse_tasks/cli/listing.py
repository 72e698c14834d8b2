"""``sparse-tasks list``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparse_tasks.cli.output import Format, frameless, print_json, print_table


def listing(format: Annotated[Format, typer.Option(help="How to print the list.")] = Format.human) -> None:
    """List the tasks with their axes and parameters, the presets and the built-in tokenizers."""
    from sparse_tasks.core.tokenizers import BUILT_IN
    from sparse_tasks.generators.presets import PRESETS
    from sparse_tasks.generators.task import TASKS, parameters

    tasks = [
        {
            "name": task.name,
            "groups": list(task.groups()),
            "summary": task.summary,
            "dispersion": task.dispersion,
            "scope": task.scope,
            "metric": task.metric,
            "max_new_tokens": task.from_settings({}).budget(),
            "depth": task.steerable,
            "ruler_metric": task.ruler_metric,
            "placeholders": dict(task.placeholders),
            "parameters": [
                {"name": p.name, "default": p.default, "range": p.range, "help": p.help} for p in parameters(task)
            ],
        }
        for task in TASKS
    ]
    presets = {
        name: {
            "summary": preset.summary,
            "settings": preset.settings,
            "max_new_tokens": dict(preset.max_new_tokens),
            "length_includes_output": preset.length_includes_output,
            "completed": preset.completed,
            "begin_answer": preset.begin_answer,
            "question_position": preset.question_position,
            "tasks": None if preset.tasks is None else list(preset.tasks),
        }
        for name, preset in PRESETS.items()
    }
    if format is Format.json:
        print_json({"tasks": tasks, "presets": presets, "tokenizers": BUILT_IN})
        return
    _print(tasks, presets, BUILT_IN)


def _print(tasks: list[dict[str, Any]], presets: dict[str, Any], tokenizers: dict[str, str]) -> None:
    from shutil import get_terminal_size
    from textwrap import fill

    from sparse_tasks.generators.task import TASKS

    def glossary(title: str, meanings: dict[str, str]) -> None:
        table = frameless("", ("",), numeric=False)
        table.show_header = False
        for name, meaning in meanings.items():
            table.add_row(f"  {name}", meaning)
        print(fill(title, get_terminal_size().columns, break_on_hyphens=False))
        print_table(table)

    groups = dict.fromkeys(group for task in tasks for group in task["groups"])
    glossary(f"Tasks (--task; groups: {', '.join(groups)}, all)", {task["name"]: task["summary"] for task in tasks})
    table = frameless("task", ("dispersion", "scope", "depth", "metric"), numeric=False)
    for task in tasks:
        steered = "steered" if task["depth"] else "everywhere"
        table.add_row(task["name"], task["dispersion"], task["scope"], steered, task["metric"])
    print_table(table)
    print("\nParameters (--set)")
    table = frameless("parameter", ("default", "values", "meaning"), numeric=False)
    owners: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        for p in task["parameters"]:
            meaning = (p["name"], str(p["default"]), p["range"], p["help"])
            owners.setdefault((TASKS.get(task["name"]).group(), *meaning), []).append(task["name"])
    for (group, name, *columns), names in owners.items():
        whole = len(names) > 1 and len(names) == sum(task.group() == group for task in TASKS)
        table.add_row("\n".join(f"{owner}.{name}" for owner in ([group] if whole else names)), *columns)
    print_table(table)
    print()
    glossary("Presets (--preset)", {name: preset["summary"] for name, preset in presets.items()})
    print()
    glossary("Tokenizers (--tokenizer; or a folder, a tokenizer.json, a Hub id)", tokenizers)
