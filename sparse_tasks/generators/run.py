"""Makes a data set folder complete: over processes, shard by shard, from wherever an earlier run stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_tasks.core.errors import SparseTasksError, keeping
from sparse_tasks.core.manifest import MANIFEST
from sparse_tasks.core.records import Manifest
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.stores import Store, store_at
from sparse_tasks.core.tokenizers import PromptTokenizer, load_tokenizer
from sparse_tasks.core.tokenizers.fast import EncoderError, Fastokens
from sparse_tasks.generators.corpora import mount
from sparse_tasks.generators.encoding import FAST, Notice, by_both, choose, pays, with_fallback
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.sampling import check_count, check_lengths, make_sample
from sparse_tasks.generators.task import Task

if TYPE_CHECKING:
    from sparse_tasks.core.cluster import Cluster
    from sparse_tasks.generators.dataset import Shard
    from sparse_tasks.generators.processes import Crew

Key = tuple[Task, int, int]
"""Task, length, index."""
Work = tuple[Key, bool]
"""A sample to be made, and whether Hugging Face's encoder encodes it, too, and its count is checked."""
Progress = Callable[["Shard", int, int], None]
"""Called as samples of a shard are finished, with their number and their tokens."""

# Maximum tokens of a sample that is made only for what it loads.
_SHORT = 4096


def generate_folder(
    request: Request,
    tokenizer: PromptTokenizer,
    path: Path | str,
    workers: int = 1,
    overwrite: bool = False,
    started: Callable[[list[Shard]], None] = lambda missing: None,
    progress: Progress = lambda shard, samples, tokens: None,
    encoder: str = "auto",
    notice: Notice = warnings.warn,
    on: str | None = None,
) -> Manifest:
    """Make the folder ``path`` hold the request, and return its manifest.

    Args:
        path: A folder, or an address that fsspec knows (``s3://bucket/data``).
        workers: Processes that make samples; 1 is this one.
        overwrite: Replace a data set that was made with other options.
        started: Told which shards are missing, before the first is made, and again if an encoder turns out to be wrong.
        progress: Told what is finished.
        encoder: Which encoder counts: one of ``ENCODERS``. The samples are the same.
        notice: Told what a user should know.
        on: Address of a Ray cluster that makes the samples (see ``connected``), in the place of processes.

    Raises:
        UsageError: A length is too short, the folder holds something else, there is no such encoder, or a cluster does
            not answer or is not fit for it.
        OutputError: Files cannot be written; finished shards stay.
        DataError: A prompt has another number of tokens than were added up.
    """
    store = store_at(path)
    with ExitStack() as stack:
        crew = stack.enter_context(_crew(request, workers if on is None else 1, store, encoder))
        check_lengths(request, tokenizer)
        # Workers and requests that fail need no Parquet.
        from sparse_tasks.generators.card import card
        from sparse_tasks.generators.dataset import DatasetFolder

        cluster = stack.enter_context(_cluster(on))
        stack.enter_context(store.held())
        job = None
        if cluster is not None:
            from sparse_tasks.generators.spread import Job, check, make_shards

            check(cluster, job := Job.of(request, tokenizer, store.name))
        folder = DatasetFolder(store, request, tokenizer)
        folder.open(overwrite)

        def complete(fast: type[Fastokens] | None) -> None:
            missing = folder.missing
            started(missing)
            if cluster is not None and job is not None:
                with closing(make_shards(cluster, replace(job, encoder=fast), missing)) as made:
                    for shard, finished in folder.recorded(made, missing):
                        progress(shard, finished.entry["rows"], finished.entry["tokens"])
                return
            work = [one for shard in missing for one in work_of(shard)]
            label = None if fast is None else fast.label()
            in_order = _in_order(request, tokenizer, work, workers, fast, crew)
            # A thread writes, since processes wait while nobody takes their samples.
            with ThreadPoolExecutor(1) as writer, closing(in_order):
                written: Future[None] | None = None
                for shard in missing:
                    samples: list[Sample] = []
                    for sample in islice(in_order, shard.last - shard.first):
                        samples.append(sample)
                        progress(shard, 1, sample.input_tokens)
                    if written is not None:
                        written.result()
                    written = writer.submit(folder.add, shard, samples, label)
                if written is not None:
                    written.result()

        with keeping(store.name, folder.kept):
            fast = choose(tokenizer, request.tokens if folder.missing else 0, encoder, notice)
            with_fallback(tokenizer, fast, complete, notice, folder.discard)
        return folder.finish(card(folder))


@contextmanager
def _crew(request: Request, workers: int, store: Store, encoder: str) -> Iterator[Crew | None]:
    """Processes that load what they need while it is found out what is missing; None where one will do."""
    workers = min(workers, request.samples * len(request.tasks) * len(request.lengths))
    if workers == 1 or store.has(MANIFEST):
        yield None
        return
    from sparse_tasks.generators.processes import Crew

    with closing(Crew(workers, load_worker, (request, pays(request.tokens, encoder)))) as crew:
        yield crew


@contextmanager
def _cluster(address: str | None) -> Iterator[Cluster | None]:
    if address is None:
        yield None
        return
    from sparse_tasks.core.cluster import connected
    from sparse_tasks.generators.spread import PACKAGES

    with connected(address, PACKAGES) as cluster:
        yield cluster


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
    yield from _in_order(request, tokenizer, [(key, key in both) for key in keys], workers, encoder)


def work_of(shard: Shard) -> list[Work]:
    """What is to be done for a shard."""
    both = set(by_both(shard.first, shard.last))
    return [((shard.task, shard.length, index), index in both) for index in range(shard.first, shard.last)]


def _in_order(
    request: Request,
    tokenizer: PromptTokenizer,
    work: list[Work],
    workers: int,
    encoder: type[Fastokens] | None,
    crew: Crew | None = None,
) -> Generator[Sample, None, None]:
    if workers > 1 and len(work) > 1:
        if crew is None or not crew.waits:
            from sparse_tasks.generators.processes import Crew

            crew = Crew(min(workers, len(work)), load_worker, (request, encoder is not None))
        yield from crew.results(_make_in_process, work, count_with, (encoder,))
        return
    here = Worker(request, tokenizer.with_encoder(encoder))
    for one in work:
        yield make(here, *one)


@dataclass
class Worker:
    """State of a worker process between samples."""

    request: Request
    tokenizer: PromptTokenizer


_worker: Worker | None = None


def _tokenizer(request: Request) -> PromptTokenizer:
    mount(request.corpora)
    return load_tokenizer(request.tokenizer, request.chat_template, keeps_control=request.keeps_control)


def _work_with(here: Worker) -> None:
    global _worker
    _worker = here


def start_worker(request: Request, encoder: type[Fastokens] | None = None) -> None:
    """Make this process one that makes samples of a request; ``encoder`` counts."""
    loaded = _tokenizer(request)
    _ = loaded.backend  # for all processes that are forks of this one
    _work_with(Worker(request, loaded.with_encoder(encoder)))


def load_worker(request: Request, fast: bool) -> None:
    """Start this process before it is known which encoder counts; ``fast`` says which one it is likely to be."""
    loaded = _tokenizer(request)
    with ThreadPoolExecutor(1) as loader:
        likely = loader.submit(loaded.with_encoder, FAST if fast else None)
        # Forks then have the words, grammars and patterns that samples need.
        for task in request.tasks:
            with suppress(SparseTasksError):  # it comes again where it matters
                make_sample(request, loaded, task, min(_SHORT, *request.lengths), 0)
    with suppress(EncoderError):  # which is not proven then
        loaded = likely.result()
    _work_with(Worker(request, loaded))


def count_with(encoder: type[Fastokens] | None) -> None:
    """Let an encoder count in this process."""
    here = worker()
    if encoder is None or not isinstance(here.tokenizer.encoder, encoder):
        here.tokenizer = here.tokenizer.with_encoder(encoder)


def worker() -> Worker:
    """The state of this process.

    Raises:
        RuntimeError: It was not started.
    """
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker


def _make_in_process(work: Work) -> Sample:
    return make(worker(), *work)


def make(here: Worker, key: Key, both: bool) -> Sample:
    """A sample, whose count is right where ``both`` encoders count.

    Raises:
        DataError: It is not.
        EncoderError: It is not, and it was an encoder's.
    """
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
