"""Makes a data set folder complete: over processes, shard by shard, from wherever an earlier run stopped."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_tasks.core.errors import keeping
from sparse_tasks.core.files import hold
from sparse_tasks.core.records import Manifest
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.generators.corpora import mount
from sparse_tasks.generators.processes import in_processes
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.sampling import check_count, check_lengths, make_sample
from sparse_tasks.generators.task import Task

if TYPE_CHECKING:
    from sparse_tasks.generators.dataset import Shard

Key = tuple[Task, int, int]
Progress = Callable[[Sample], None]
"""Called for every sample as it is finished, in order."""


def generate_folder(
    request: Request,
    tokenizer: PromptTokenizer,
    path: Path,
    workers: int = 1,
    overwrite: bool = False,
    started: Callable[[list[Shard]], None] = lambda missing: None,
    progress: Progress = lambda sample: None,
) -> Manifest:
    """Make the folder ``path`` hold the request, and return its manifest.

    Args:
        workers: Processes that make samples; 1 is this one.
        overwrite: Replace a data set of another configuration.
        started: Told which shards are missing, before the first is made.

    Raises:
        UsageError: A length is too short, or the folder holds something else.
        OutputError: Files cannot be written; finished shards stay.
        DataError: A file's first prompt has another number of tokens than were added up.
    """
    check_lengths(request, tokenizer)
    # Workers and requests that fail need no Parquet.
    from sparse_tasks.generators.card import card
    from sparse_tasks.generators.dataset import DatasetFolder
    from sparse_tasks.generators.table import shard_bytes

    with hold(path):
        folder = DatasetFolder(path, request, tokenizer)
        folder.open(overwrite)
        missing = folder.missing
        started(missing)
        keys = [(shard.task, shard.length, index) for shard in missing for index in range(shard.first, shard.last)]
        samples = generate_samples(request, tokenizer, keys, workers)
        with keeping(path, folder.kept), closing(samples):
            for shard in missing:
                rows: list[Sample] = []
                for sample in islice(samples, shard.last - shard.first):
                    if not rows and tokenizer.additive:
                        check_count(request, tokenizer, sample)
                    rows.append(sample)
                    progress(sample)
                folder.add(shard, shard_bytes(rows))
        return folder.finish(card(folder))


def generate_samples(
    request: Request, tokenizer: PromptTokenizer, keys: list[Key], workers: int
) -> Generator[Sample, None, None]:
    """The samples with these keys, in order, made by so many processes."""
    if workers > 1 and len(keys) > 1:
        yield from in_processes(_make, keys, min(workers, len(keys)), start_worker, (request,))
        return
    for task, length, index in keys:
        yield make_sample(request, tokenizer, task, length, index)


@dataclass
class Worker:
    """State of a worker process between samples."""

    request: Request
    tokenizer: PromptTokenizer


_worker: Worker | None = None


def start_worker(request: Request) -> None:
    """Make this process one that makes samples of a request."""
    global _worker
    mount(request.corpora)
    _worker = Worker(
        request, load_tokenizer(request.tokenizer, request.chat_template, keeps_control=request.keeps_control)
    )


def worker() -> Worker:
    """The state of this process.

    Raises:
        RuntimeError: It was not started.
    """
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker


def _make(key: Key) -> Sample:
    here = worker()
    return make_sample(here.request, here.tokenizer, *key)
