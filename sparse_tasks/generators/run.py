"""Makes a data set folder complete: over processes, shard by shard, from wherever an earlier run stopped."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_tasks.core.errors import SparseTasksError, keeping
from sparse_tasks.core.files import hold
from sparse_tasks.core.records import Manifest
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.fast import EncoderError, Fastokens
from sparse_tasks.generators.corpora import mount
from sparse_tasks.generators.encoding import Notice, by_both, choose, with_fallback
from sparse_tasks.generators.processes import in_processes
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.sampling import check_count, check_lengths, make_sample
from sparse_tasks.generators.task import Task

if TYPE_CHECKING:
    from sparse_tasks.generators.dataset import Shard

Key = tuple[Task, int, int]
"""Task, length, index."""
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
    encoder: str = "auto",
    notice: Notice = warnings.warn,
) -> Manifest:
    """Make the folder ``path`` hold the request, and return its manifest.

    Args:
        workers: Processes that make samples; 1 is this one.
        overwrite: Replace a data set of another configuration.
        started: Told which shards are missing, before the first is made, and again if an encoder turns out to be wrong.
        encoder: Which encoder counts: one of ``ENCODERS``. The samples are the same.
        notice: Told what a user should know.

    Raises:
        UsageError: A length is too short, the folder holds something else, or there is no such encoder.
        OutputError: Files cannot be written; finished shards stay.
        DataError: A prompt has another number of tokens than were added up.
    """
    check_lengths(request, tokenizer)
    # Workers and requests that fail need no Parquet.
    from sparse_tasks.generators.card import card
    from sparse_tasks.generators.dataset import DatasetFolder

    with hold(path):
        folder = DatasetFolder(path, request, tokenizer)
        folder.open(overwrite)

        def complete(fast: type[Fastokens] | None) -> None:
            missing = folder.missing
            started(missing)
            keys = [(shard.task, shard.length, index) for shard in missing for index in range(shard.first, shard.last)]
            both = {
                (shard.task, shard.length, index) for shard in missing for index in by_both(shard.first, shard.last)
            }
            with closing(generate_samples(request, tokenizer, keys, workers, fast, both)) as samples:
                for shard in missing:
                    rows: list[Sample] = []
                    for sample in islice(samples, shard.last - shard.first):
                        rows.append(sample)
                        progress(sample)
                    folder.add(shard, rows, None if fast is None else fast.label())

        with keeping(path, folder.kept):
            fast = choose(tokenizer, request.tokens if folder.missing else 0, encoder, notice)
            with_fallback(tokenizer, fast, complete, notice, folder.discard)
        return folder.finish(card(folder))


def generate_samples(
    request: Request,
    tokenizer: PromptTokenizer,
    keys: list[Key],
    workers: int,
    encoder: type[Fastokens] | None = None,
    both: Collection[Key] = (),
) -> Generator[Sample, None, None]:
    """The samples with these keys, in order, made by so many processes.

    Args:
        encoder: Counts, in the place of Hugging Face's.
        both: Keys of samples that Hugging Face's encodes, too, and whose counts are checked.
    """
    work = [(key, key in both) for key in keys]
    if workers > 1 and len(keys) > 1:
        yield from in_processes(_make_in_process, work, min(workers, len(keys)), start_worker, (request, encoder))
        return
    here = Worker(request, tokenizer.with_encoder(encoder))
    for one in work:
        yield _make(here, *one)


@dataclass
class Worker:
    """State of a worker process between samples."""

    request: Request
    tokenizer: PromptTokenizer


_worker: Worker | None = None


def start_worker(request: Request, encoder: type[Fastokens] | None = None) -> None:
    """Make this process one that makes samples of a request; ``encoder`` counts."""
    global _worker
    mount(request.corpora)
    loaded = load_tokenizer(request.tokenizer, request.chat_template, keeps_control=request.keeps_control)
    _worker = Worker(request, loaded.with_encoder(encoder))


def worker() -> Worker:
    """The state of this process.

    Raises:
        RuntimeError: It was not started.
    """
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker


def _make_in_process(work: tuple[Key, bool]) -> Sample:
    return _make(worker(), *work)


def _make(here: Worker, key: Key, both: bool) -> Sample:
    with _uncollected():
        sample = _made(here.request, here.tokenizer, *key)
    if both and (here.tokenizer.additive or here.tokenizer.encoder is not None):
        check_count(here.request, here.tokenizer, sample)
    return sample


def _made(request: Request, tokenizer: PromptTokenizer, task: Task, length: int, index: int) -> Sample:
    try:
        return make_sample(request, tokenizer, task, length, index)
    except SparseTasksError as error:
        if tokenizer.encoder is None:
            raise
        # Counts that are wrong may be such that nothing fits.
        made = make_sample(request, tokenizer.with_encoder(None), task, length, index)
        raise EncoderError(f"{made.id} cannot be made by its counts: {error}") from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Leave out the search for cycles: a sample is made of many objects, and next to none of them are in cycles."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
