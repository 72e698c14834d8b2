"""Requests: tasks, lengths and everything else that samples depend on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparse_tasks.core.errors import UsageError, nearest
from sparse_tasks.core.length import parse_length
from sparse_tasks.generators.corpora import CORPORA, Corpus, mount, read_notices
from sparse_tasks.generators.depth import Depth, parse_depth
from sparse_tasks.generators.presets import PRESETS
from sparse_tasks.generators.task import TASKS, Task, parameters, task_order
from sparse_tasks.generators.wording import Template, check_templates

POSITIONS = ("both", "after")
CONTROL_TOKENS = ("text", "keep")
DEFAULT = ("story", "ruler_niah", "ruler_vt", "ruler_cwe")
"""Tasks where none is named: those of The Sparse Frontier that need no corpus, and ``story_aggregation``."""
_MOST_SAMPLES = 1_000_000
_MOST_NEW_TOKENS = 1_000_000
_MOST_WORKERS = 1024


@dataclass(frozen=True)
class Request:
    """A data set to be made, built by ``make_request`` from the user's options.

    Attributes:
        tasks: The tasks with their parameters.
        depths: Depth of the evidence, for each task.
        lengths: Targets in tokens.
        samples: Samples of each task at each length.
        seed: Any integer from 0.
        tokenizer: Source of the tokenizer (see ``load_tokenizer``).
        chat_template: ``auto``, ``none`` or a file.
        budgets: Answer budget in tokens, for each task.
        length_includes_output: Whether the answer budget is subtracted from the length (RULER's reading).
        question_position: ``both`` or ``after``.
        completed: Whether questions are asked as completions and scored with RULER's metrics, where a task supports
            that.
        begin_answer: Whether prompts end inside the answer.
        corpora: The corpora that tasks quote.
        templates: The user's wording or None, for each task.
        control_tokens: Whether control tokens spelt in prompts are ``text``, or kept as tokens (``keep``).
        notices: Decisions to tell the user about.
    """

    tasks: tuple[Task, ...]
    depths: tuple[Depth, ...]
    lengths: tuple[int, ...]
    samples: int
    seed: int
    tokenizer: str
    chat_template: str
    budgets: tuple[int, ...]
    length_includes_output: bool
    question_position: str
    completed: bool = False
    begin_answer: bool = False
    corpora: tuple[Corpus, ...] = ()
    templates: tuple[Template | None, ...] = ()
    control_tokens: str = "text"
    notices: tuple[str, ...] = field(default=(), compare=False)

    @property
    def keeps_control(self) -> bool:
        """Whether control tokens spelt in prompts are tokens."""
        return self.control_tokens == "keep"

    def new_tokens(self, task: Task) -> int:
        """The answer budget of a task."""
        return self.budgets[self.tasks.index(task)]

    def template(self, task: Task) -> Template | None:
        """The user's wording of a task."""
        return self.templates[self.tasks.index(task)] if self.templates else None

    def target(self, task: Task, length: int) -> int:
        """Maximum tokens of the rendered prompt."""
        return length - self.new_tokens(task) if self.length_includes_output else length

    def depth(self, task: Task) -> Depth:
        """Depth of a task's evidence."""
        return self.depths[self.tasks.index(task)]

    @property
    def tokens(self) -> int:
        """Approximate tokens of all prompts."""
        return self.samples * sum(self.target(task, length) for task in self.tasks for length in self.lengths)

    def describe(self) -> dict[str, Any]:
        """Everything but the tokenizer, as plain data."""
        return {
            "tasks": {
                task.name: {
                    "version": task.version,
                    "parameters": task.settings(),
                    "depth": str(depth),
                    "max_new_tokens": self.new_tokens(task),
                    **({} if (template := self.template(task)) is None else {"template": template.describe()}),
                }
                for task, depth in zip(self.tasks, self.depths, strict=True)
            },
            "lengths": list(self.lengths),
            "samples": self.samples,
            "seed": self.seed,
            "length_includes_output": self.length_includes_output,
            "question_position": self.question_position,
            **({"completed": True} if self.completed else {}),
            **({"begin_answer": True} if self.begin_answer else {}),
            **({"control_tokens": "keep"} if self.keeps_control else {}),
        }


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of a request as the user writes them.

    Attributes:
        lengths: Such as ``64k`` or 65536.
        tasks: Names of tasks or groups (``story``, ``ruler``, ``qa``, ``reason``, ``copy``, ``code``, ``all``);
            none means ``DEFAULT``.
        samples: Samples of each task at each length.
        seed: Seed of the data set.
        tokenizer: Source of the tokenizer (see ``load_tokenizer``).
        chat_template: ``auto``, ``none`` or a file.
        max_new_tokens: Answer budget in tokens; None: the tasks' own.
        length_includes_output: Whether the answer budget is subtracted from the length.
        preset: A named bundle of parameters.
        settings: Values by ``task.parameter`` or ``group.parameter``, on top of the preset's.
        depth: ``uniform``, a number from 0 to 1, or a range such as ``0.2-0.4``.
        question_position: ``both`` or ``after``; None: the preset's.
        corpora: The available corpora, by name (``find_corpora``).
        allow_repeats: Whether texts may repeat within a sample if a corpus is too small for a length.
        templates: The user's wording by task (``read_templates``).
        control_tokens: ``text`` or ``keep`` (see ``Request``).
    """

    lengths: Iterable[str | int]
    tasks: Sequence[str] = ()
    samples: int = 100
    seed: int = 42
    tokenizer: str = "qwen2.5"
    chat_template: str = "auto"
    max_new_tokens: int | None = None
    length_includes_output: bool = False
    preset: str = "paper"
    settings: Mapping[str, object] = field(default_factory=dict)
    depth: str = "uniform"
    question_position: str | None = None
    corpora: Mapping[str, Corpus] = field(default_factory=dict)
    allow_repeats: bool = False
    templates: Mapping[str, Template] = field(default_factory=dict)
    control_tokens: str = "text"


def make_request(options: GenerateOptions) -> Request:
    """Check the user's options and build a request.

    Raises:
        UsageError: An option is unknown or out of range.
    """
    samples, seed, corpora, templates = options.samples, options.seed, options.corpora, options.templates
    max_new_tokens, preset, depth = options.max_new_tokens, options.preset, options.depth
    check_ranges(samples, seed, [] if max_new_tokens is None else [max_new_tokens])
    if preset not in PRESETS:
        raise UsageError("preset", preset, nearest(preset, PRESETS))
    position = PRESETS[preset].question_position if options.question_position is None else options.question_position
    if position not in POSITIONS:
        raise UsageError("question-position", position, nearest(position, POSITIONS))
    if options.control_tokens not in CONTROL_TOKENS:
        remedy = nearest(options.control_tokens, CONTROL_TOKENS)
        raise UsageError("control-tokens", options.control_tokens, remedy)
    parsed = tuple(sorted({parse_length(length) for length in options.lengths}))
    if not parsed:
        raise UsageError("length", "", "is missing; name at least one, such as 64k")
    requested = parse_depth(depth)
    begin = PRESETS[preset]
    mount(corpora.values())
    chosen, named, notices = _select(options.tasks or begin.tasks or (), corpora)
    configured = _configure(chosen, begin.settings, options.settings, corpora, options.allow_repeats)
    check_templates(templates, [task.name for task in configured], begin.completed)
    opened = [name for name, template in templates.items() if template.answer_prefix is not None]
    if begin.begin_answer and opened:
        remedy = f"does not go with the preset {preset}, which begins answers itself; leave it out"
        raise UsageError("template", f"{opened[0]}.answer_prefix", remedy)
    notices += [
        f"the template of {task.name} has a preview, which stands nowhere with --question-position after"
        for task in configured
        if position == "after" and task.name in templates and templates[task.name].preview is not None
    ]
    used = {corpus for task in configured for name, corpus in task.texts.items() if task.settings()[name]}
    if unused := sorted(set(corpora) - used):
        raise UsageError("corpus", unused[0], "is not used by any of the tasks to generate; leave it out")
    notices += read_notices(corpora[name] for name in sorted(used) if name in corpora)
    depths = []
    for task in configured:
        steered = requested if task.steerable else Depth()
        if steered != requested:
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
        tokenizer=options.tokenizer,
        chat_template=options.chat_template,
        budgets=tuple(max_new_tokens or begin.max_new_tokens.get(task.name, task.budget()) for task in configured),
        length_includes_output=options.length_includes_output or begin.length_includes_output,
        question_position=position,
        completed=begin.completed,
        begin_answer=begin.begin_answer,
        corpora=tuple(corpora[name] for name in sorted(used) if name in corpora),
        templates=tuple(templates.get(task.name) for task in configured) if templates else (),
        control_tokens=options.control_tokens,
        notices=tuple(notices),
    )


def check_ranges(samples: int, seed: int, budgets: Iterable[int]) -> None:
    """Check the ranges of sample counts, answer budgets and a seed.

    Raises:
        UsageError: One is out of range.
    """
    if not 1 <= samples <= _MOST_SAMPLES:
        raise UsageError("samples", samples, f"is out of range; choose from 1 to {_MOST_SAMPLES}")
    if not 0 <= seed < 2**63:
        raise UsageError("seed", seed, "is out of range; choose from 0 to 2**63 - 1")
    for budget in budgets:
        if not 1 <= budget <= _MOST_NEW_TOKENS:
            raise UsageError("max-new-tokens", budget, f"is out of range; choose from 1 to {_MOST_NEW_TOKENS}")


def check_workers(workers: int | None) -> int:
    """The number of processes; None means one per core available to this process.

    Raises:
        UsageError: It is out of range.
    """
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= workers <= _MOST_WORKERS:
        raise UsageError("workers", workers, f"is out of range; choose from 1 to {_MOST_WORKERS}")
    return workers


def _groups() -> dict[str, list[type[Task]]]:
    groups: dict[str, list[type[Task]]] = {"all": list(TASKS)}
    for task in TASKS:
        for group in task.groups():
            groups.setdefault(group, []).append(task)
    return groups


def _select(names: Sequence[str], corpora: Mapping[str, Corpus]) -> tuple[list[type[Task]], set[str], list[str]]:
    """The chosen tasks in the registry's order, those named individually, and notices.

    A group stands for its tasks whose corpus is available.
    """
    # Groups need all tasks to be loaded, names of tasks do not.
    groups = {} if names and all("_" in name and name in TASKS for name in names) else _groups()
    chosen: set[str] = set()
    lacking: dict[str, list[str]] = {}
    notices = []
    for name in names or DEFAULT:
        if name not in groups:
            if name not in TASKS:
                raise UsageError("task", name, nearest(name, [*groups, *TASKS.names()]))
            if (corpus := _lacks(TASKS.get(name), corpora)) is not None:
                raise UsageError("task", name, f"needs the corpus {corpus}; {CORPORA.get(corpus).supply}")
            chosen.add(name)
            continue
        made = [task for task in groups[name] if _lacks(task, corpora) is None]
        for task in groups[name]:
            if (corpus := _lacks(task, corpora)) is not None:
                lacking.setdefault(corpus, []).append(task.name)
        others = [task for task in made if not task.stand_in]
        if name != "all" and others:
            made = others
        elif name != "all" and made and len(groups[name]) > len(made):
            notices.append(f"no corpus was given for {name}; {', '.join(task.name for task in made)} is used instead")
        chosen.update(task.name for task in made)
    for corpus, tasks in lacking.items():
        left = ", ".join(dict.fromkeys(tasks))
        notices.append(f"left out for want of the corpus {corpus}: {left}; {CORPORA.get(corpus).supply}")
    if not chosen:
        raise UsageError("task", ", ".join(names), f"cannot be made without a corpus: {'; '.join(notices)}")
    return [TASKS.get(name) for name in sorted(chosen, key=task_order)], set(names) - set(groups), notices


def _lacks(task: type[Task], corpora: Mapping[str, Corpus]) -> str | None:
    """The missing corpus of a task, if any."""
    corpus = task.texts.get("corpus")
    return None if corpus in corpora else corpus


def _configure(
    tasks: Sequence[type[Task]],
    preset: Mapping[str, str],
    settings: Mapping[str, object],
    corpora: Mapping[str, Corpus],
    allow_repeats: bool,
) -> list[Task]:
    """The tasks with their parameters: a task's own settings win over its group's, the user's over the preset's."""
    for path in settings:
        _check_path(path, settings[path], tasks)
    configured = []
    for task in tasks:
        values: dict[str, object] = {
            name: corpora[corpus].sha256 for name, corpus in task.texts.items() if corpus in corpora
        }
        if allow_repeats and any(parameter.name == "repeats" for parameter in parameters(task)):
            values["repeats"] = True
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
        raise UsageError("set", path, f"sets a parameter of {owner}, which is not one of the tasks to generate")
    common = set.intersection(*({p.name for p in parameters(task)} for task in owners))
    if name not in common:
        raise UsageError("set", path, f"sets no parameter of {owner}: {name!r} {nearest(name, common)}")
