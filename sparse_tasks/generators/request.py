"""What to generate: tasks, lengths and everything else that a sample depends on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_tasks.core.errors import UsageError, nearest
from sparse_tasks.core.length import parse_length
from sparse_tasks.generators.depth import Depth, parse_depth
from sparse_tasks.generators.presets import PRESETS
from sparse_tasks.generators.task import TASKS, Task, parameters

__all__ = ["POSITIONS", "Request", "check_workers", "make_request"]

POSITIONS = ("both", "after")
_MOST_SAMPLES = 1_000_000
_MOST_NEW_TOKENS = 1_000_000
_MOST_WORKERS = 1024


@dataclass(frozen=True)
class Request:
    """A data set to be made. ``make_request`` builds one from what users write.

    Attributes:
        tasks: The tasks with their parameters.
        depths: For each task where its evidence stands.
        lengths: Targets in tokens.
        samples: Samples of each task at each length.
        seed: Any integer from 0.
        tokenizer: Source of the tokenizer (see ``load_tokenizer``).
        chat_template: ``auto``, ``none`` or a file.
        max_new_tokens: Answer budget in tokens; None takes each task's own.
        length_includes_output: Whether the answer budget is taken off the length (RULER's reading).
        question_position: ``both`` or ``after``.
        notices: What was decided in the user's place.
    """

    tasks: tuple[Task, ...]
    depths: tuple[Depth, ...]
    lengths: tuple[int, ...]
    samples: int
    seed: int
    tokenizer: str
    chat_template: str
    max_new_tokens: int | None
    length_includes_output: bool
    question_position: str
    notices: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def new_tokens(self, task: Task) -> int:
        """The answer budget of a task."""
        return task.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens

    def target(self, task: Task, length: int) -> int:
        """Tokens of the rendered prompt at most."""
        return length - self.new_tokens(task) if self.length_includes_output else length

    def depth(self, task: Task) -> Depth:
        """Where the evidence of a task stands."""
        return self.depths[self.tasks.index(task)]

    def describe(self) -> dict[str, Any]:
        """Everything but the tokenizer, as plain data."""
        return {
            "tasks": {
                task.name: {
                    "version": task.version,
                    "parameters": task.settings(),
                    "depth": str(depth),
                    "max_new_tokens": self.new_tokens(task),
                }
                for task, depth in zip(self.tasks, self.depths, strict=True)
            },
            "lengths": list(self.lengths),
            "samples": self.samples,
            "seed": self.seed,
            "length_includes_output": self.length_includes_output,
            "question_position": self.question_position,
        }


def make_request(
    lengths: Iterable[str | int],
    tasks: Sequence[str] = (),
    samples: int = 100,
    seed: int = 42,
    tokenizer: str = "qwen2.5",
    chat_template: str = "auto",
    max_new_tokens: int | None = None,
    length_includes_output: bool = False,
    preset: str = "paper",
    settings: Mapping[str, object] | None = None,
    depth: str = "uniform",
    question_position: str = "both",
) -> Request:
    """Check what a user wrote, all of it, and make a request of it.

    Args:
        lengths: Such as ``64k`` or 65536.
        tasks: Names of tasks or groups (``story``, ``ruler``, ``all``); none means all.
        settings: Values by ``task.parameter`` or ``group.parameter``, on top of the preset's.

    Raises:
        UsageError: Something is unknown or out of range.
    """
    if not 1 <= samples <= _MOST_SAMPLES:
        raise UsageError("samples", samples, f"is out of range; choose from 1 to {_MOST_SAMPLES}")
    if not 0 <= seed < 2**63:
        raise UsageError("seed", seed, "is out of range; choose from 0 to 2**63 - 1")
    if max_new_tokens is not None and not 1 <= max_new_tokens <= _MOST_NEW_TOKENS:
        raise UsageError("max-new-tokens", max_new_tokens, f"is out of range; choose from 1 to {_MOST_NEW_TOKENS}")
    if question_position not in POSITIONS:
        raise UsageError("question-position", question_position, nearest(question_position, POSITIONS))
    if preset not in PRESETS:
        raise UsageError("preset", preset, nearest(preset, PRESETS))
    parsed = tuple(sorted({parse_length(length) for length in lengths}))
    if not parsed:
        raise UsageError("length", "", "is missing; name at least one, such as 64k")
    wanted = parse_depth(depth)
    chosen, named = _select(tasks)
    configured = _configure(chosen, PRESETS[preset].settings, settings or {})
    depths, notices = [], []
    for task in configured:
        steered = wanted if task.steerable else Depth()
        if steered != wanted:
            if task.name in named:
                raise UsageError(
                    "depth", depth, f"cannot steer {task.name}, whose evidence is everywhere; leave it out"
                )
            notices.append(f"--depth does not steer {task.name}: its evidence is everywhere")
        depths.append(steered)
    return Request(
        tasks=tuple(configured),
        depths=tuple(depths),
        lengths=parsed,
        samples=samples,
        seed=seed,
        tokenizer=tokenizer,
        chat_template=chat_template,
        max_new_tokens=max_new_tokens,
        length_includes_output=length_includes_output,
        question_position=question_position,
        notices=tuple(notices),
    )


def check_workers(workers: int | None) -> int:
    """The number of processes meant; None means as many as this process may use cores.

    Raises:
        UsageError: It is out of range.
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= workers <= _MOST_WORKERS:
        raise UsageError("workers", workers, f"is out of range; choose from 1 to {_MOST_WORKERS}")
    return workers


def _groups() -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"all": TASKS.names()}
    for task in TASKS:
        groups.setdefault(task.group(), []).append(task.name)
    return groups


def _select(names: Sequence[str]) -> tuple[list[type[Task]], set[str]]:
    """The tasks meant, in the registry's order, and those among them that were named one by one."""
    groups = _groups()
    meant: set[str] = set()
    for name in names or ["all"]:
        if name not in groups and name not in TASKS:
            raise UsageError("task", name, nearest(name, [*groups, *TASKS.names()]))
        meant.update(groups.get(name, [name]))
    return [TASKS.get(name) for name in TASKS.names() if name in meant], set(names) - set(groups)


def _configure(tasks: Sequence[type[Task]], preset: Mapping[str, str], settings: Mapping[str, object]) -> list[Task]:
    """The tasks with their parameters: a task's own settings win over its group's, the user's over the preset's."""
    for path in settings:
        _check_path(path, settings[path], tasks)
    configured = []
    for task in tasks:
        values: dict[str, object] = {}
        for source in (preset, settings):
            for owner in (task.group(), task.name):
                for path, value in source.items():
                    of, _, name = path.partition(".")
                    if of == owner:
                        values[name] = value
        configured.append(task.from_settings(values))
    return configured


def _check_path(path: str, value: object, tasks: Sequence[type[Task]]) -> None:
    owner, dot, name = path.partition(".")
    if not dot:
        raise UsageError(
            "set", f"{path}={value}", "names no task; write TASK.PARAMETER=VALUE, as in story_multihop.hops=3"
        )
    owners = [task for task in TASKS if owner in (task.name, task.group())]
    if not owners:
        known = [*TASKS.names(), *{task.group() for task in TASKS}]
        raise UsageError("set", path, f"names no task or group: {owner!r} {nearest(owner, known)}")
    if not any(task in tasks for task in owners):
        raise UsageError("set", path, f"sets a parameter of {owner}, which is not among the tasks to generate")
    common = set.intersection(*({p.name for p in parameters(task)} for task in owners))
    if name not in common:
        raise UsageError("set", path, f"sets no parameter of {owner}: {name!r} {nearest(name, common)}")
