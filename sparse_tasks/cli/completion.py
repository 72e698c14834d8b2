"""Completion of values in the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

from sparse_tasks.core.registry import Registry


def _names_of(module: str, *variables: str) -> Callable[[str], list[str]]:
    """A completion of the names in registries, which are imported when the shell asks."""

    def complete(incomplete: str) -> list[str]:
        registries: list[Registry[object] | Iterable[str]] = [
            getattr(import_module(module), name) for name in variables
        ]
        names = [name for one in registries for name in (one.names() if isinstance(one, Registry) else one)]
        return [name for name in names if name.startswith(incomplete)]

    return complete


complete_engine = _names_of("sparse_tasks.evaluators.engines.engine", "ENGINES")
complete_method = _names_of("sparse_tasks.attention.method", "METHODS")
complete_preset = _names_of("sparse_tasks.generators.presets", "PRESETS")
complete_tokenizer = _names_of("sparse_tasks.core.tokenizers", "BUILT_IN")
complete_export = _names_of("sparse_tasks.evaluators.exports", "EXPORTS", "DATA_EXPORTS")
complete_analysis = _names_of("sparse_tasks.evaluators.analyses.analysis", "ANALYSES")


def complete_task(incomplete: str) -> list[str]:
    """Tasks and groups."""
    from sparse_tasks.generators.task import TASKS

    names = {"all", *(group for task in TASKS for group in task.groups()), *TASKS.names()}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_locale_or_setting(incomplete: str) -> list[str]:
    """Parameters as ``task.parameter=``, followed by their choices."""
    from sparse_tasks.generators.task import TASKS, parameters

    settings = []
    for task in TASKS:
        group = [parameters(other) for other in TASKS if other.group() == task.group()]
        for p in parameters(task):
            if p.name in task.texts:
                continue  # set by --corpus and --essays
            shared = all(p.name in {other.name for other in others} for others in group)
            owners = [task.group(), task.name] if shared else [task.name]
            values = p.choices() if p.choices else ("true", "false") if p.kind is bool else ("",)
            settings += [f"{owner}.{p.name}={value}" for owner in owners for value in values]
    return sorted({setting for setting in settings if setting.startswith(incomplete)})
