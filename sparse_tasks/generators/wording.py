"""Templates: the user's wording around a context, from a TOML file with a table for each task.

A template gives the wording that opens the context and asks the question, with placeholders for what differs between
samples. Oracles read the task's own wording: ``Template.read_back`` extracts the placeholders' values from a finished
prompt and restates the question in the task's own wording.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter

from sparse_tasks.core.errors import BadFileError, DataError, UsageError, nearest
from sparse_tasks.generators.task import TASKS, Completion, Task

_MOST_BYTES = 2**20
_REQUIRED = ("intro", "question")
# Placeholder of every task for the answer's format, in tags.
_FORMAT = "format"


@dataclass(frozen=True)
class Template:
    """Wording of a task's prompts, with placeholders in braces.

    Attributes:
        intro: Opens the context.
        question: After the context.
        preview: Before the context, if the question is on both sides; None: the task's own.
        answer_prefix: Opens the answer; None: as without a template.
    """

    intro: str
    question: str
    preview: str | None = None
    answer_prefix: str | None = None

    def fill(self, own: Completion, texts: Mapping[str, str]) -> Completion:
        """The frame of a prompt: this wording where given, else that of ``own``."""
        return Completion(
            preview=own.preview if self.preview is None else self.preview.format_map(texts),
            intro=self.intro.format_map(texts),
            question=self.question.format_map(texts),
            prefix=own.prefix if self.answer_prefix is None else self.answer_prefix.format_map(texts),
        )

    def read_back(self, task: Task, prompt: str) -> str:
        """The prompt with its question in the task's own wording.

        Raises:
            DataError: The prompt was not made with this template.
        """
        seen: set[str] = set()
        pattern = _pattern(self.question, r"[^\n]+?", seen)
        if self.answer_prefix is None:
            pattern += r"(?=\n|\Z)"
        else:
            pattern += _pattern(self.answer_prefix, r"[^\n]+?", seen) + r"\Z"
        opened = re.search(_pattern(self.intro, r"[\s\S]+?", set()), prompt)
        # The last match: a preview may state the question, too.
        *_, question = [None, *re.finditer(pattern, prompt)]
        if opened is None or question is None or question.start() < opened.end():
            raise DataError(f"{task.name}: the prompt cannot be read by its template")
        own = task.complete({name: text for name, text in question.groupdict().items() if name in task.needed})
        return (own.intro or "") + prompt[opened.end() : question.start()] + own.question

    def describe(self) -> dict[str, str]:
        """Its parts, as plain data."""
        return {field.name: text for field in fields(self) if (text := getattr(self, field.name)) is not None}


def _pattern(text: str, placeholder: str, seen: set[str]) -> str:
    """A regular expression for a filled part of a template; ``seen`` are the groups that already exist."""
    pattern = ""
    for literal, name, _, _ in Formatter().parse(text):
        pattern += re.escape(literal)
        if name is not None:
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{placeholder})"
            seen.add(name)
    return pattern


def read_templates(path: Path) -> dict[str, Template]:
    """The templates of a file, by task.

    Raises:
        BadFileError: It is not TOML in UTF-8.
        UsageError: A table, field or placeholder is unknown, or one is missing.
    """
    tables = _tables(path)
    if not tables:
        raise BadFileError(f"template: {path} is empty; it has a table for each task, such as [ruler_vt]")
    return {name: parse_template(name, table, str(path)) for name, table in tables.items()}


def parse_template(name: str, table: object, file: str) -> Template:
    """The template of one task, as written in a file.

    Raises:
        UsageError: Something in it is unknown or missing.
    """
    if not isinstance(table, dict):
        raise UsageError("template", f"{file}: {name}", f"is not a table; write [{name}] and its fields below it")
    takers = [task.name for task in TASKS if task.placeholders]
    if name not in takers:
        remedy = "takes no template" if name in TASKS else f"names no task: {nearest(name, takers)}"
        raise UsageError("template", f"{file}: [{name}]", remedy)
    task, known = TASKS.get(name), [field.name for field in fields(Template)]
    parts: dict[str, str] = {}
    for part, text in table.items():
        where = f"{file}: [{name}] {part}"
        if part not in known:
            raise UsageError("template", where, nearest(part, known))
        if not isinstance(text, str) or not text.strip():
            raise UsageError("template", where, "is not text; write words between quotes")
        _check_placeholders(where, text, [*task.placeholders, _FORMAT])
        parts[part] = _placed(part, text)
    for part in _REQUIRED:
        if part not in parts:
            raise UsageError("template", f"{file}: [{name}]", f"has no {part}; it needs {' and '.join(_REQUIRED)}")
    for needed in task.needed:
        if needed not in _names(parts["question"]):
            raise UsageError(
                "template", f"{file}: [{name}] question", f"lacks {{{needed}}}, without which it asks for nothing"
            )
    return Template(**parts)


def check_templates(templates: Mapping[str, Template], tasks: list[str], completed: bool) -> None:
    """Check that templates are usable.

    Raises:
        UsageError: One belongs to no requested task, or does not say how to answer.
    """
    if templates and not set(templates) & set(tasks):
        raise UsageError("template", ", ".join(templates), f"is for none of the tasks to generate: {', '.join(tasks)}")
    for name, template in templates.items():
        if not completed and _FORMAT not in _names(template.question) and "<answer>" not in template.question:
            raise UsageError(
                "template",
                f"[{name}] question",
                "does not say how to answer; add {format}, or take --preset ruler, which scores answers without tags",
            )


def _tables(path: Path) -> dict[str, object]:
    try:
        if path.is_dir():
            raise BadFileError(f"template: {path} is a folder; name the file itself")
        if path.stat().st_size > _MOST_BYTES:
            raise BadFileError(f"template: {path} has more than {_MOST_BYTES:,} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise BadFileError(f"template: {path} cannot be read: {error.strerror or error}") from error
    try:
        return tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFileError(f"template: {path}, line {line}: byte {content[error.start]:#04x} is not UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        last = content.rstrip().count(b"\n") + 1
        where = str(error).replace("at end of document", f"at the end, line {last}")
        raise BadFileError(f"template: {path} is not TOML: {where}") from error


def _check_placeholders(where: str, text: str, known: list[str]) -> None:
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise UsageError("template", where, f"has an extra brace; write {{{{ for a brace ({error})") from error
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not re.fullmatch(r"\w+", name):
            raise UsageError("template", where, f"has {{{name}…}}, which is not a placeholder; write {{NAME}}")
        if name not in known:
            raise UsageError("template", where, f"has the placeholder {{{name}}}, which {nearest(name, known)}")


def _names(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _placed(part: str, text: str) -> str:
    """With a newline between what precedes the context and the context, and none before the question."""
    if part in ("preview", "intro"):
        return text.lstrip() if text.endswith("\n") else text.lstrip() + "\n"
    return text.strip() if part == "question" else text
