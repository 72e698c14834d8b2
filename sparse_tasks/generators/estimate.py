"""An estimate of generation time: the worker processes make a few samples of each task, all at once.

Processor time is measured, which other programs hardly change; their share of the cores is reported separately.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.fast import Fastokens
from sparse_tasks.generators.encoding import COMPARED
from sparse_tasks.generators.processes import Crew
from sparse_tasks.generators.request import Request, check_workers
from sparse_tasks.generators.run import count_with, load_worker, worker
from sparse_tasks.generators.sampling import check_count, make_sample, shortest_length
from sparse_tasks.generators.task import Task

# Longer samples are not made: from here on, time is proportional to length.
_LONGEST: Final = 2**15
# Seconds for a task at a length, and for all of them; but at least two samples after the first.
_EACH, _ALL = 0.3, 6.0
# Factor between measured and estimated times (benchmarks/estimate.py).
_ROUGHLY: Final = 1.2
# Cores with at least this share free count as free.
_FREE: Final = 0.85


@dataclass(frozen=True)
class Estimate:
    """The time that a data set takes, in seconds.

    Attributes:
        configs: By task and length, without starting processes.
        seconds: Total, on free cores.
        low: Lower end of the likely range.
        high: Upper end of the likely range, if other programs keep their present load.
        free: Share of the cores' time that these processes had, of what they could have had, in (0, 1].
    """

    configs: dict[tuple[str, int], float]
    seconds: float
    low: float
    high: float
    free: float


@dataclass(frozen=True)
class _Pace:
    """Seconds of processor time in one process.

    Attributes:
        first: Of the first sample, which includes the shared set-up.
        later: Of each later one.
        check: Of the check of a file's last sample.
        characters: Of that sample.
    """

    first: float
    later: list[float]
    check: float
    characters: int


@dataclass(frozen=True)
class _Measured:
    """Measurements of a process: its start, each pair of task and length, and the time for these by both clocks."""

    start: float
    paces: list[_Pace]
    processor: float
    wall: float


Pair = tuple[Task, int]


def estimate(
    request: Request, tokenizer: PromptTokenizer, workers: int, encoder: type[Fastokens] | None = None
) -> Estimate:
    """Estimate how long the request takes with this many processes and this ``encoder``.

    Raises:
        UsageError: A sample cannot be made.
    """
    from sparse_tasks.generators.dataset import shards  # imports Parquet, which workers do not need

    start = time.process_time()  # until there are processes; what comes behind it in this one takes them no time
    workers = min(workers, request.samples * len(request.tasks) * len(request.lengths))
    cores = min(workers, check_workers(None))
    configs = [(task, length) for length in request.lengths for task in request.tasks]
    shorts = {(task.name, length): _short(request, tokenizer, task, length) for task, length in configs}
    pairs = {(task.name, shorts[task.name, length]): task for task, length in configs}
    plan = [(task, short) for (_, short), task in pairs.items()]
    if workers == 1:
        measured = [_measure(request, tokenizer.with_encoder(encoder), plan)]
        start = 0.0  # the work runs in this process
    else:
        crew = Crew(workers, load_worker, (request, encoder is not None))
        measured = list(crew.results(_measure_in_process, [plan] * workers, count_with, (encoder,)))
    starts = [one.start for one in measured]
    start += max(*starts, sum(starts) / cores)  # most of it is spent in one process while the others wait
    paces = {pair: [one.paces[k] for one in measured] for k, pair in enumerate(pairs)}
    checked = tokenizer.additive or encoder is not None
    files = [(shard.task.name, shard.length) for shard in shards(request)]

    def seconds(task: str, length: int, share: slice) -> float:
        """Seconds for a task at a length, at a quantile of the later samples."""
        short = shorts[task, length]
        found, ratio = paces[task, short], length / short
        later = sorted(second for pace in found for second in pace.later)
        each = fmean(later[share.start * len(later) // 2 : max(1, share.stop * len(later) // 2)])
        first = max(0.0, fmean(pace.first for pace in found) - each) * min(workers, request.samples)
        longest = COMPARED / fmean(pace.characters for pace in found) if encoder is not None else ratio
        check = fmean(pace.check for pace in found) * min(ratio, max(1.0, longest)) if checked else 0.0
        return (first + request.samples * each * ratio + check * files.count((task, length))) / cores

    slower, faster, all_of_them = slice(1, 2), slice(0, 1), slice(0, 2)
    expected = {pair: seconds(*pair, all_of_them) for pair in shorts}
    free = sum(one.processor for one in measured) / sum(one.wall for one in measured) * workers / cores
    free = 1.0 if free > _FREE else free
    return Estimate(
        expected,
        start + sum(expected.values()),
        (start + sum(seconds(*pair, faster) for pair in shorts)) / _ROUGHLY,
        (start + sum(seconds(*pair, slower) for pair in shorts)) * _ROUGHLY / free,
        free,
    )


def _short(request: Request, tokenizer: PromptTokenizer, task: Task, length: int) -> int:
    """The length to measure: this one, or a shorter one that fits a sample and, if included, its answer budget."""
    short = min(length, max(_LONGEST, 2 * (length - request.target(task, length))))
    return short if shortest_length(request, tokenizer, task, short) <= short else length


def _measure_in_process(plan: list[Pair]) -> _Measured:
    here = worker()
    return _measure(here.request, here.tokenizer, plan)


def _measure(request: Request, tokenizer: PromptTokenizer, plan: list[Pair]) -> _Measured:
    # What loads in a thread does so at the same time.
    start = max(time.thread_time(), time.process_time() - time.thread_time())
    before, began = time.process_time(), time.perf_counter()
    most = min(_EACH, _ALL / len(plan))
    paces = [_pace(request, tokenizer, *pair, most) for pair in plan]
    return _Measured(start, paces, time.process_time() - before, time.perf_counter() - began)


def _pace(request: Request, tokenizer: PromptTokenizer, task: Task, length: int, most: float) -> _Pace:
    """Make samples of a task until ``most`` seconds have passed."""
    first, sample = _timed(request, tokenizer, task, length, 0)
    later: list[float] = []
    while len(later) < 2 or sum(later) < most:
        seconds, sample = _timed(request, tokenizer, task, length, (len(later) + 1) % request.samples)
        later.append(seconds)
    began = time.process_time()
    if tokenizer.additive:
        check_count(request, tokenizer, sample)
    return _Pace(first, later, time.process_time() - began, len(sample.prompt))


def _timed(request: Request, tokenizer: PromptTokenizer, task: Task, length: int, index: int) -> tuple[float, Sample]:
    began = time.process_time()
    sample = make_sample(request, tokenizer, task, length, index)
    return time.process_time() - began, sample
