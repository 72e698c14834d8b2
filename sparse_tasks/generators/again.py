"""Regenerating data sets from their manifests, of which nothing is trusted.

A sample depends on its key alone, so a description and a tokenizer are enough to regenerate a data set. Nothing in a
description is executed, and no path or address in it is followed: the tokenizer is a local one with the recorded hash,
the chat template is the tokenizer's own, and users' templates are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from msgspec import UNSET

from sparse_tasks.core.errors import BadFileError, UsageError
from sparse_tasks.core.hub import is_hub_id, split_hub_id
from sparse_tasks.core.length import parse_length
from sparse_tasks.core.records import Description, ManifestRequest, ManifestTask, TokenizerRecord, to_builtins
from sparse_tasks.core.tokenizers import BUILT_IN, PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.loading import cache_folder
from sparse_tasks.generators.corpora import Corpus, mount
from sparse_tasks.generators.depth import parse_depth
from sparse_tasks.generators.request import Request, check_ranges
from sparse_tasks.generators.sampling import sample_id
from sparse_tasks.generators.task import TASKS, Task

MOST_TOKENS: Final = 2**28
"""Tokens of the data sets that are generated again for one check: from five minutes to an hour of one core."""

_SHORTEST: Final = 2**12  # a sample costs at least this many tokens
_DEMO: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"  # if the demo model was fetched, not converted


@dataclass(frozen=True)
class Means:
    """What is available here for regenerating data sets.

    Attributes:
        tokenizers: Sources of tokenizers (see ``load_tokenizer``), besides those in the caches.
        corpora: Source texts of samples, by name.
        workers: Number of processes that make samples.
    """

    tokenizers: tuple[str, ...] = ()
    corpora: Mapping[str, Corpus] = field(default_factory=dict)
    workers: int = 1


@dataclass(frozen=True)
class Recipe:
    """A checked description, with everything needed to make its samples.

    Attributes:
        request: The request, as for ``generate``.
        tokenizer: The tokenizer, with its name in the description.
        tokens: Cost of the samples, in tokens.
    """

    request: Request
    tokenizer: PromptTokenizer
    tokens: int

    def id(self, task: str, length: int, index: int) -> str | None:
        """The id of a sample; None if there is no such sample."""
        of = next((of for of in self.request.tasks if of.name == task), None)
        if of is None or length not in self.request.lengths or not 0 <= index < self.request.samples:
            return None
        return sample_id(self.request, self.tokenizer, of, length, index)


def recipe(description: Description, means: Means) -> Recipe:
    """Check a description and prepare to make its samples; takes at most a second.

    Raises:
        UsageError: It is out of range, has other versions, or needs something that is missing here.
        BadFileError: One of the given tokenizers cannot be read.
    """
    asked = description.request
    tokens = _cost(asked)
    tasks = tuple(_task(name, recorded) for name, recorded in asked.tasks.items())
    corpora = _corpora(description, tasks, means)
    source, tokenizer = _tokenizer(description, means)
    request = Request(
        tasks=tasks,
        depths=tuple(parse_depth(recorded.depth) for recorded in asked.tasks.values()),
        lengths=tuple(asked.lengths),
        samples=asked.samples,
        seed=asked.seed,
        tokenizer=source,
        chat_template="none" if tokenizer.template is None else "auto",
        budgets=tuple(recorded.max_new_tokens for recorded in asked.tasks.values()),
        length_includes_output=asked.length_includes_output,
        question_position=asked.question_position,
        completed=asked.completed is True,
        begin_answer=asked.begin_answer is True,
        corpora=corpora,
        control_tokens="keep" if asked.control_tokens == "keep" else "text",
    )
    if (made := request.describe()) != (recorded := to_builtins(asked)):
        raise UsageError("request", _difference(recorded, made), "is not what generate writes")
    return Recipe(request, tokenizer, tokens)


def _cost(asked: ManifestRequest) -> int:
    check_ranges(asked.samples, asked.seed, [recorded.max_new_tokens for recorded in asked.tasks.values()])
    lengths = [parse_length(length) for length in asked.lengths]
    tokens = len(asked.tasks) * asked.samples * sum(max(length, _SHORTEST) for length in lengths)
    if tokens > MOST_TOKENS:
        raise UsageError("samples", asked.samples, f"of {len(asked.tasks)} tasks at {len(lengths)} lengths are some "
                         f"{tokens:,} tokens, and no more than {MOST_TOKENS:,} are generated again")  # fmt: skip
    return tokens


def _task(name: str, recorded: ManifestTask) -> Task:
    if name not in TASKS:
        raise UsageError("task", name, "is not installed here")
    if recorded.template is not UNSET:
        raise UsageError("task", name, "has the user's own wording (--template), which is not accepted from others")
    kind = TASKS.get(name)
    try:
        task = kind.from_settings(recorded.parameters)
    except UsageError as error:
        raise (error if kind.version == recorded.version else _stale(name, recorded, kind.version)) from error
    if task.version != recorded.version:
        raise _stale(name, recorded, task.version)
    return task


def _stale(name: str, recorded: ManifestTask, installed: int) -> UsageError:
    what = f"was generated by version {recorded.version} of it, and installed is version {installed}"
    return UsageError("task", name, what)


def _corpora(description: Description, tasks: tuple[Task, ...], means: Means) -> tuple[Corpus, ...]:
    """The corpora that the tasks quote, made available to them."""
    recorded = {} if description.corpora is UNSET else {corpus.name: corpus.sha256 for corpus in description.corpora}
    needed = {name: sha256 for task in tasks for part, name in task.texts.items() if (sha256 := task.settings()[part])}
    if needed != recorded:
        raise UsageError("corpora", ", ".join(recorded), f"are not those of the tasks: {', '.join(needed) or 'none'}")
    for name, sha256 in needed.items():
        if name not in means.corpora:
            raise UsageError("corpus", name, f"is needed; say where it is with --corpus {name}=FILE")
        if means.corpora[name].sha256 != sha256:
            raise UsageError("corpus", name, f"differs from the data set's (SHA-256 {sha256[:16]}…)")
    corpora = tuple(means.corpora[name] for name in sorted(needed))
    mount(corpora)
    return corpora


def _tokenizer(description: Description, means: Means) -> tuple[str, PromptTokenizer]:
    """The tokenizer with the recorded hash, and its source."""
    recorded, template = description.tokenizer, description.chat_template
    keeps = description.request.control_tokens == "keep"
    for source in (*means.tokenizers, *_sources(recorded)):
        try:
            found = _loaded(source, "none" if template is None else "auto", keeps)
        except UsageError as error:
            if source in means.tokenizers:  # not the description's fault
                raise BadFileError(str(error)) from error
            continue
        if found.sha256 != recorded.sha256:
            continue
        own = found.template and (found.template.source, found.template.special_tokens, found.template.sha256)
        if template is not None and own != (template.source, template.special_tokens, template.sha256):
            remedy = "is under another chat template than its own, which is not taken from strangers"
            raise UsageError("tokenizer", recorded.name, remedy)
        found = found.with_template(found.template)
        found.name = recorded.name
        return source, found
    raise UsageError("tokenizer", recorded.name, f"(SHA-256 {recorded.sha256[:16]}…) is not on this machine; say where "
                     "it is with --tokenizer")  # fmt: skip


@lru_cache(maxsize=16)
def _loaded(source: str, chat_template: str, keeps_control: bool) -> PromptTokenizer:
    """A tokenizer, read once: a submission may describe many data sets."""
    return load_tokenizer(source, chat_template, keeps_control=keeps_control)


def _sources(recorded: TokenizerRecord) -> Iterator[str]:
    """Local tokenizers that may be the recorded one; nothing is downloaded."""
    if recorded.name in BUILT_IN:
        yield recorded.name
        return
    for file in sorted(cache_folder().glob("models/*/tokenizer.json")):  # demo and probe
        yield str(file.parent)
    for name in (recorded.name, _DEMO):
        if (folder := _in_cache(name)) is not None:
            yield folder


def _in_cache(name: str) -> str | None:
    """Folder of the Hub's cache with a tokenizer."""
    repository, revision = split_hub_id(name)
    if not is_hub_id(name) or (revision is not None and not re.fullmatch(r"\w[\w-]*(\.[\w-]+)*", revision, re.ASCII)):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, "tokenizer.json", revision=revision)
    except ValueError:  # not a valid repository name
        return None
    return str(Path(found).parent) if isinstance(found, str) else None


def _difference(recorded: object, made: object, place: str = "") -> str:
    """The first place where two plain values differ."""
    if isinstance(recorded, dict) and isinstance(made, dict):
        for name in (*recorded, *made):
            if recorded.get(name) != made.get(name):
                return _difference(recorded.get(name), made.get(name), f"{place}.{name}".strip("."))
    return f"{place}={recorded!r}"
