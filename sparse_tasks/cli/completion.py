"""Completion of values in the shell."""

from __future__ import annotations

__all__ = [
    "complete_analysis",
    "complete_engine",
    "complete_export",
    "complete_locale_or_setting",
    "complete_method",
    "complete_preset",
    "complete_task",
    "complete_tokenizer",
]


def complete_engine(incomplete: str) -> list[str]:
    """Engines."""
    from sparse_tasks.evaluators.engines.engine import ENGINES

    return [name for name in ENGINES.names() if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """Tasks and groups."""
    from sparse_tasks.generators.task import TASKS

    names = {"all", *(group for task in TASKS for group in task.groups()), *TASKS.names()}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_preset(incomplete: str) -> list[str]:
    """Presets."""
    from sparse_tasks.generators.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def complete_tokenizer(incomplete: str) -> list[str]:
    """Built-in tokenizers."""
    from sparse_tasks.core.tokenizers import BUILT_IN

    return [name for name in BUILT_IN if name.startswith(incomplete)]


def complete_export(incomplete: str) -> list[str]:
    """Formats of others."""
    from sparse_tasks.evaluators.exports import EXPORTS

    return [name for name in EXPORTS.names() if name.startswith(incomplete)]


def complete_analysis(incomplete: str) -> list[str]:
    """Analyses."""
    from sparse_tasks.evaluators.analyses.analysis import ANALYSES

    return [name for name in ANALYSES if name.startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Sparse attention methods."""
    from sparse_tasks.attention.method import METHODS

    return [name for name in METHODS.names() if name.startswith(incomplete)]


def complete_locale_or_setting(incomplete: str) -> list[str]:
    """Parameters as ``task.parameter=``, and behind the sign the values that they choose from."""
    from sparse_tasks.generators.task import TASKS, parameters

    settings = []
    for task in TASKS:
        group = [parameters(other) for other in TASKS if other.group() == task.group()]
        for p in parameters(task):
            if p.name in task.texts:
                continue  # what --corpus and --essays are for
            shared = all(p.name in {other.name for other in others} for others in group)
            owners = [task.group(), task.name] if shared else [task.name]
            values = p.choices() if p.choices else ("true", "false") if p.kind is bool else ("",)
            settings += [f"{owner}.{p.name}={value}" for owner in owners for value in values]
    return sorted({setting for setting in settings if setting.startswith(incomplete)})
