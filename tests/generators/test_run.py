"""Runs give the same bytes over any number of processes, one at a time in a folder, and leave no process behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sparse_tasks.core.errors import DataError, OutputError, SparseTasksError, UsageError
from sparse_tasks.core.files import LOCK
from sparse_tasks.core.manifest import MANIFEST
from sparse_tasks.core.sample import Sample
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.fast import Fastokens
from sparse_tasks.generators import dataset, run
from sparse_tasks.generators.dataset import shards
from sparse_tasks.generators.processes import Crew, in_processes
from sparse_tasks.generators.run import count_with, generate_folder, generate_samples, load_worker, worker
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.table import read_rows
from tests.cli.program import contents, wait_for
from tests.cli.work import remember, threads, work
from tests.generators.requests import make_request

REQUEST = make_request(["2k", "2600"], ["ruler_niah", "story_multihop"], samples=3)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_SHARD_TOKENS", 5_000)


def processes(items: list[int], workers: int = 2) -> Iterator[tuple[int, str]]:
    return in_processes(work, items, workers, remember, (7,))


@pytest.fixture
def no_process_left() -> Iterator[None]:
    before = set(active_children())
    yield
    wait_for(lambda: not set(active_children()) - before, seconds=10)


@pytest.mark.usefixtures("no_process_left")
def test_results_come_in_order_and_ctrl_c_is_not_for_workers() -> None:
    assert list(processes(list(range(20)), 3)) == [(number, "7") for number in range(20)]


@pytest.mark.usefixtures("no_process_left")
def test_error_of_a_worker_arrives_as_it_was_and_ends_the_others() -> None:
    results = processes([1, 999, 1000, 1000])
    assert next(results) == (1, "7")
    with pytest.raises(DataError, match=r"this one cannot be done"):
        next(results)


@pytest.mark.usefixtures("no_process_left")
def test_worker_that_dies_is_reported() -> None:
    with pytest.raises(SparseTasksError, match=r"a worker process ended with exit code 1"):
        list(processes([1, -1, 2]))


@pytest.mark.usefixtures("no_process_left")
def test_worker_that_is_killed_while_it_writes_is_reported() -> None:
    results = processes([1, 500, 500, 500])
    before = set(active_children())
    next(results)
    # Nobody reads now, and a pipe holds less than one result.
    time.sleep(0.5)
    for process in set(active_children()) - before:
        process.kill()
    with pytest.raises(SparseTasksError, match=r"a worker process was killed \(SIGKILL\), .* take fewer --workers"):
        list(results)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forks of one on Linux alone")
@pytest.mark.usefixtures("no_process_left")
@pytest.mark.parametrize("killed", ["fork", "first"])
def test_forks_end_with_the_first_process_and_it_with_them(killed: str) -> None:
    before = set(active_children())
    results = processes([1, 1, 1, 1000, 1000, 1000], 3)
    next(results)
    (first,) = {process.pid for process in set(active_children()) - before}
    forks = [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
    assert len(forks) == 2
    os.kill(forks[1] if killed == "fork" else first or 0, signal.SIGKILL)
    with pytest.raises(SparseTasksError, match=r"a worker process was killed \(SIGKILL\)"):
        list(results)
    wait_for(lambda: not [pid for pid in forks if Path(f"/proc/{pid}").exists()], seconds=10)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forks of one on Linux alone")
@pytest.mark.usefixtures("no_process_left")
def test_what_workers_load_leaves_no_thread_behind() -> None:
    crew = Crew(2, load_worker, (REQUEST, True))
    assert list(crew.results(work, [15, 16], threads, ())) == [(15, "1"), (16, "1")]


@pytest.mark.parametrize("fast", [True, False])
def test_workers_load_the_encoder_that_is_likely_and_count_with_the_one_that_is_chosen(fast: bool) -> None:
    load_worker(REQUEST, fast)
    assert isinstance(worker().tokenizer.encoder, Fastokens if fast else type(None))
    loaded = worker().tokenizer
    count_with(Fastokens)
    assert isinstance(worker().tokenizer.encoder, Fastokens)
    assert (worker().tokenizer is loaded) == fast  # it is not loaded twice
    count_with(None)
    assert worker().tokenizer.encoder is None


@pytest.mark.usefixtures("no_process_left")
def test_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(DataError, match=r"no such number"):
        list(in_processes(work, [1, 2], 2, remember, (-1,)))


@pytest.mark.usefixtures("no_process_left")
def test_nobody_waits_for_work_that_is_not_wanted_any_more() -> None:
    results = processes([1, 1000, 1000, 1000])
    next(results)
    results.close()  # type: ignore[attr-defined]


def test_samples_do_not_depend_on_the_order_of_making(qwen: PromptTokenizer) -> None:
    keys = [(task, length, i) for length in REQUEST.lengths for task in REQUEST.tasks for i in (2, 0)]
    one = list(generate_samples(REQUEST, qwen, keys, 1))
    assert [(sample.task, sample.length, sample.index) for sample in one] == [(k[0].name, k[1], k[2]) for k in keys]
    assert list(generate_samples(REQUEST, qwen, keys[::-1], 1)) == one[::-1]


def test_folders_do_not_depend_on_the_number_of_processes(qwen: PromptTokenizer, tmp_path: Path) -> None:
    for workers in (1, 2):
        generate_folder(REQUEST, qwen, tmp_path / str(workers), workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_progress_reports_every_sample_in_order(qwen: PromptTokenizer, tmp_path: Path) -> None:
    reported: list[tuple[dataset.Shard, int, int]] = []
    missing: list[dataset.Shard] = []
    manifest = generate_folder(
        REQUEST, qwen, tmp_path, started=missing.extend, progress=lambda *finished: reported.append(finished)
    )
    assert missing == list(shards(REQUEST))
    each = [(shard, row["input_tokens"]) for shard in missing for row in read_rows(tmp_path / shard.path)]
    assert reported == [(shard, 1, tokens) for shard, tokens in each]
    assert sum(tokens for _, _, tokens in reported) == sum(file.tokens for file in manifest.files.values())


def test_folder_has_one_writer_at_a_time(qwen: PromptTokenizer, tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK), pytest.raises(OutputError, match=f"another run is writing to {tmp_path}"):
        generate_folder(REQUEST, qwen, tmp_path)
    # The lock that was there belongs to the other run.
    assert set(contents(tmp_path)) <= {LOCK}
    generate_folder(REQUEST, qwen, tmp_path)
    assert LOCK not in contents(tmp_path)


def test_failure_in_the_middle_keeps_what_is_finished(
    qwen: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_folder(REQUEST, qwen, tmp_path / "clean")
    made: list[tuple[Any, ...]] = []

    def fail(*key: Any) -> Sample:
        made.append(key)
        if len(made) == 5:
            raise DataError("the oracle disagrees")
        return make_sample(*key)

    monkeypatch.setattr(run, "make_sample", fail)
    with pytest.raises(DataError, match=r"the oracle disagrees"):
        generate_folder(REQUEST, qwen, tmp_path / "data")
    assert LOCK not in contents(tmp_path / "data")
    assert MANIFEST not in contents(tmp_path / "data")
    finished = [shard for shard in shards(REQUEST) if (tmp_path / "data" / shard.path).exists()]
    assert finished == list(shards(REQUEST))[: len(finished)]
    assert len(finished) == 2
    generate_folder(REQUEST, qwen, tmp_path / "data")
    assert contents(tmp_path / "data") == contents(tmp_path / "clean")


@pytest.mark.parametrize("refuse", [{"lengths": ["100"]}, {"lengths": ["4k", "100"]}])
def test_length_that_is_too_short_writes_nothing(
    qwen: PromptTokenizer, tmp_path: Path, refuse: dict[str, Callable[..., Any]]
) -> None:
    with pytest.raises(UsageError, match=r"the smallest that works is"):
        generate_folder(make_request(tasks=["ruler_vt"], **refuse), qwen, tmp_path / "data")  # type: ignore[arg-type]
    assert contents(tmp_path) == {}


def test_one_prompt_of_every_file_is_encoded_whole(
    qwen: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = PromptTokenizer.encode
    monkeypatch.setattr(
        PromptTokenizer, "encode", lambda self, text, prompt: encoded.append(prompt) or encode(self, text, prompt)
    )
    last: list[tuple[str, str]] = []
    for shard in shards(REQUEST):
        (sample,) = generate_samples(REQUEST, qwen, [(shard.task, shard.length, shard.last - 1)], 1)
        last.append((shard.path, sample.prompt))
    encoded.clear()
    generate_folder(REQUEST, qwen, tmp_path / "data")
    assert [path for path, prompt in last if prompt not in encoded] == []


def test_counts_that_do_not_add_up_after_all_are_an_error(
    qwen: PromptTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = PromptTokenizer.total
    monkeypatch.setattr(PromptTokenizer, "total", lambda self, paragraphs: total(self, paragraphs) - 1)
    with pytest.raises(DataError, match=r"^\w+-2048-00001-\w+ has 2,0\d\d tokens, but 2,0\d\d were added up"):
        generate_folder(REQUEST, qwen, tmp_path / "data")
