"""A data set folder ends with the same bytes however often its run was stopped, wherever it was stopped."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_tasks.core.errors import OutputError, SparseTasksError, UsageError
from sparse_tasks.core.files import LOCK
from sparse_tasks.core.manifest import MANIFEST, PROGRESS
from sparse_tasks.core.stores import Folder
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.generators import dataset, run
from sparse_tasks.generators.dataset import CARD, DatasetFolder, shards
from sparse_tasks.generators.request import Request
from sparse_tasks.generators.run import generate_folder
from sparse_tasks.generators.sampling import make_sample
from sparse_tasks.generators.table import read_rows, samples_sha256
from sparse_tasks.schemas import schema
from tests.cli.program import contents
from tests.generators.requests import make_request
from tests.schemas.validation import problems

# Two samples a file, so that a small data set has several files, the last of them with one sample.
REQUESTS = {
    "a": make_request(["2k"], ["ruler_niah"], samples=5),
    "b": make_request(["2k", "2500"], ["ruler_niah"], samples=3, seed=7),
    "c": make_request(["2500"], ["ruler_niah", "story_multihop"], samples=3, settings={"ruler_niah.queries": 2}),
}
STRANGERS = {"notes.txt": b"mine", "2048/mine.parquet": b"mine too", "2048": None, "mine": None, "mine/a": b"a"}


class Killed(BaseException):
    """The process was killed: later disk operations do not happen."""


class Disk:
    """Counts what is done to the disk, and from some step on fails."""

    CREATE = ("mkdir", "replace", "fsync", "chmod")
    DELETE = ("unlink", "rmdir")

    def __init__(self, failing_from: int | None, error: Callable[[], BaseException]) -> None:
        self.steps = 0
        self._failing_from = failing_from
        self._error = error

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Disk]:
        killed = isinstance(self._error(), Killed)
        with pytest.MonkeyPatch.context() as patch:
            for name in (*self.CREATE, *self.DELETE):
                # A full disk still allows deleting files.
                patch.setattr(os, name, self._wrapped(getattr(os, name), fails=killed or name in self.CREATE))
            patch.setattr(tempfile, "mkstemp", self._wrapped(tempfile.mkstemp, fails=True))
            yield self

    def _wrapped(self, function: Callable[..., Any], fails: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def step(*arguments: Any, **options: Any) -> Any:
            self.steps += 1
            if fails and self._failing_from is not None and self.steps > self._failing_from:
                raise self._error()
            return function(*arguments, **options)

        return step


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Small files, samples made once, and no waiting for the disk: power cuts are not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_SHARD_TOKENS", 5_000)
        patch.setattr(run, "make_sample", functools.cache(make_sample))
        patch.setattr(run, "check_lengths", lambda request, tokenizer: None)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def make(qwen: PromptTokenizer) -> Callable[..., dict[str, Any]]:
    def make(path: Path, name: str = "a", **options: Any) -> dict[str, Any]:
        return generate_folder(REQUESTS[name], qwen, path, **options)

    return make


@pytest.fixture(scope="module")
def clean(make: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The undisturbed result of each request."""
    root = tmp_path_factory.mktemp("clean")
    for name in REQUESTS:
        make(root / name, name)
    return {name: root / name for name in REQUESTS}


def kill(make: Callable[..., Any], path: Path, name: str, after: int | None) -> int:
    """Run until this many disk operations were done; returns their number."""
    with Disk(after, Killed)() as disk, contextlib.suppress(Killed):
        make(path, name, overwrite=True)
    return disk.steps


def whole(path: Path, clean: dict[str, Path]) -> bool:
    """Whether everything under a final name is what one of the requests makes, whole."""
    made = [contents(folder) for folder in clean.values()]
    for name, content in contents(path).items():
        if content is not None and not Path(name).name.startswith(".sparse_tasks") and name not in STRANGERS:
            assert content in [files.get(name) for files in made], name
    return True


def test_every_sample_is_in_one_file() -> None:
    for request in REQUESTS.values():
        found = [
            (shard.task.name, shard.length, i) for shard in shards(request) for i in range(shard.first, shard.last)
        ]
        wanted = [
            (task.name, length, i)
            for length in request.lengths
            for task in request.tasks
            for i in range(request.samples)
        ]
        assert sorted(found) == sorted(wanted)
        assert len({shard.path for shard in shards(request)}) == len(list(shards(request)))


def test_long_samples_stand_alone_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_SHARD_TOKENS", 2**22)
    rows = {
        length: {shard.last - shard.first for shard in shards(make_request([length], ["ruler_vt"], samples=128))}
        for length in (2**15, 2**16, 2**20, 2**21)
    }
    assert rows == {2**15: {128}, 2**16: {64}, 2**20: {4}, 2**21: {2}}


def test_file_names_match_the_schema_and_hold_the_split() -> None:
    pattern = schema("manifest-1.0")["properties"]["files"]["propertyNames"]["pattern"]
    for request in REQUESTS.values():
        for shard in shards(request):
            assert re.search(pattern, shard.path)
            assert "-test-" in shard.path
            assert shard.path.startswith(f"{shard.length}/{shard.task.name}-")


def test_folder_holds_what_was_asked_and_nothing_else(clean: dict[str, Path]) -> None:
    for name, request in REQUESTS.items():
        files = [shard.path for shard in shards(request)]
        folders = {str(Path(file).parent) for file in files}
        assert set(contents(clean[name])) == {*files, *folders, CARD, MANIFEST}
        for shard in shards(request):
            rows = read_rows(clean[name] / shard.path)
            assert [row["index"] for row in rows] == list(range(shard.first, shard.last))
            assert {(row["task"], row["length"], row["seed"]) for row in rows} == {
                (shard.task.name, shard.length, request.seed)
            }


def test_manifest_matches_the_schema_and_the_files(clean: dict[str, Path]) -> None:
    for folder in clean.values():
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        assert problems(manifest, "manifest-1.0") == []
        for name, entry in manifest["files"].items():
            rows = read_rows(folder / name)
            assert entry["rows"] == len(rows)
            assert entry["tokens"] == sum(row["input_tokens"] for row in rows)
            assert entry["bytes"] == (folder / name).stat().st_size


def test_files_can_be_read_by_others(make: Callable[..., Any], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        make(tmp_path / "data")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*") if path.is_file()} == {0o644}


def test_second_run_changes_nothing(make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path) -> None:
    first = make(tmp_path / "data")
    missing: list[int] = []
    assert make(tmp_path / "data", started=lambda shards: missing.append(len(shards))) == first
    assert missing == [0]
    assert contents(tmp_path / "data") == contents(clean["a"])


def test_resumed_run_opens_each_finished_file_once_and_reads_little_of_it(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a data set of thousands of files resumes in seconds."""
    folder = shutil.copytree(clean["b"], tmp_path / "data")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.parquet"))
    hurt(folder / files[-1], "cut")
    opened: Counter[str] = Counter()
    opens = Folder.open
    monkeypatch.setattr(Folder, "open", lambda self, path: opened.update([path]) or opens(self, path))
    hashed: list[object] = []
    monkeypatch.setattr(dataset, "samples_sha256", lambda rows: hashed.append(1) or samples_sha256(rows))
    make(folder, "b")
    found = {path: times for path, times in opened.items() if path in files}
    assert found == {files[0]: 2, **dict.fromkeys(files[1:], 1)}  # the card shows a sample of the first
    assert len(hashed) == 1  # of the one that was made again
    assert contents(folder) == contents(clean["b"])


def test_record_of_each_file_is_written_at_once_and_small(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written again with every file, so it must not cost more than the file does."""
    sizes: list[int] = []
    write = Folder.write

    def counting(self: Folder, path: str, content: bytes) -> None:
        if path == PROGRESS:
            sizes.append(len(content))
        write(self, path, content)

    monkeypatch.setattr(Folder, "write", counting)
    make(tmp_path / "data", "b")
    assert len(sizes) == 5  # one ahead of the four files
    assert max(after - before for before, after in pairwise(sizes)) < 330


def test_killed_at_any_step_resumes_to_the_same_bytes(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path
) -> None:
    steps = kill(make, tmp_path / "all", "a", None)
    assert steps > 30
    for after in range(steps):
        path = tmp_path / str(after)
        assert kill(make, path, "a", after) > after
        assert not path.exists() or whole(path, clean)
        make(path, "a")
        assert contents(path) == contents(clean["a"])


@pytest.mark.slow
def test_killed_overwriting_at_any_step_resumes_to_the_same_bytes(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(clean["a"], tmp_path / "all")
    for after in range(kill(make, tmp_path / "all", "b", None)):
        path, then = tmp_path / str(after), "bac"[after % 3]
        shutil.copytree(clean["a"], path)
        kill(make, path, "b", after)
        assert whole(path, clean)
        make(path, then, overwrite=True)
        assert contents(path) == contents(clean[then])


ACTIONS = st.tuples(
    st.sampled_from(sorted(REQUESTS)),
    st.none() | st.integers(0, 80),
    st.sampled_from(["leave", "flip", "cut", "remove"]),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(actions=st.lists(ACTIONS, max_size=4), last=st.sampled_from(sorted(REQUESTS)))
def test_the_result_does_not_depend_on_earlier_runs(
    make: Callable[..., Any], clean: dict[str, Path], actions: list[tuple[str, int | None, str]], last: str
) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "data"
        for number, (name, after, damage) in enumerate(actions):
            kill(make, path, name, after)
            if number == 0 and (path / PROGRESS).exists() | (path / MANIFEST).exists():
                # Foreign files in our folder are kept and ignored.
                for stranger, content in STRANGERS.items():
                    (path / stranger).parent.mkdir(exist_ok=True)
                    if content is not None:
                        (path / stranger).parent.mkdir(exist_ok=True)
                        (path / stranger).write_bytes(content)
            files = sorted(path.glob("*/*-test-*.parquet"))
            if files and damage != "leave":
                hurt(files[len(files) // 2], damage)
        make(path, last, overwrite=True)
        found = contents(path)
        strangers = {name: content for name, content in STRANGERS.items() if (path / "notes.txt").exists()}
        assert found == strangers | contents(clean[last])


def hurt(file: Path, damage: str) -> None:
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_shard_is_made_again_and_no_other(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path, damage: str, number: int
) -> None:
    path = tmp_path / "data"
    shutil.copytree(clean["a"], path)
    file = sorted(path.glob("*/*.parquet"))[number]
    hurt(file, damage)
    missing: list[str] = []
    make(path, started=lambda shards: missing.extend(shard.path for shard in shards))
    assert missing == [file.relative_to(path).as_posix()]
    assert contents(path) == contents(clean["a"])


def test_full_disk_at_any_step_is_reported_and_the_next_run_resumes(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path
) -> None:
    for after in range(kill(make, tmp_path / "all", "a", None)):
        path = tmp_path / str(after)
        disk = Disk(after, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        reported = None
        with disk(), contextlib.suppress(OutputError):
            try:
                make(path)
            except OutputError as error:
                reported = str(error)
                raise
        if reported is None:
            assert contents(path) == contents(clean["a"])  # only deleting was left to do
        else:
            assert re.search(f"cannot write {re.escape(str(path))}.*: No space left on device", reported)
        if path.exists():
            assert whole(path, clean)
            # No partial file is left, hidden or not.
            assert not [name for name in contents(path) if ".sparse_tasks-" in name]
            assert LOCK not in contents(path)
        finished = [name for name in contents(path) if name.endswith(".parquet")] if path.exists() else []
        kept: list[str] = []
        make(path, started=lambda shards, kept=kept: kept.extend(s.path for s in shards))
        assert not set(kept) & set(finished)
        assert contents(path) == contents(clean["a"])


def test_folder_with_other_files_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"holds other files \(thesis.tex\)"):
            make(tmp_path / "data", overwrite=overwrite)
        assert contents(tmp_path / "data") == {"thesis.tex": b"mine"}


def test_overwriting_needs_the_option(make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "data"
    shutil.copytree(clean["a"], path)
    with pytest.raises(UsageError, match=r"made with other options.*--overwrite"):
        make(path, "b")
    assert contents(path) == contents(clean["a"])


def test_unfinished_folder_of_another_configuration_is_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "data"
    kill(make, path, "a", 30)
    before = contents(path)
    with pytest.raises(UsageError, match=r"made with other options"):
        make(path, "b")
    assert contents(path) == before | {LOCK: b""} or contents(path) == {k: v for k, v in before.items() if k != LOCK}


@pytest.mark.parametrize("entry", [None, 3, "x", [], {}, {"sha256": None}, {"sha256": "0" * 64}])
def test_record_that_lies_about_a_file_is_not_believed(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path, entry: object
) -> None:
    path = tmp_path / "data"
    shutil.copytree(clean["a"], path)
    manifest = json.loads((path / MANIFEST).read_bytes())
    name = next(iter(manifest["files"]))
    manifest["files"][name] = entry
    (path / MANIFEST).write_text(json.dumps(manifest))
    make(path)
    assert contents(path) == contents(clean["a"])


def test_a_folder_of_an_older_version_keeps_its_files_and_gains_their_samples_hashes(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(clean["a"], tmp_path / "older")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for entry in manifest["files"].values():
        del entry["samples_sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    monkeypatch.setattr(run, "make_sample", lambda *key: pytest.fail("a sample was made again"))
    make(folder)
    assert contents(folder) == contents(clean["a"])


@pytest.mark.parametrize("field", ["bytes", "rows", "tokens"])
def test_wrong_number_in_the_record_does_not_survive(
    make: Callable[..., Any], clean: dict[str, Path], tmp_path: Path, field: str
) -> None:
    path = tmp_path / "data"
    shutil.copytree(clean["a"], path)
    manifest = json.loads((path / MANIFEST).read_bytes())
    next(iter(manifest["files"].values()))[field] += 1
    (path / MANIFEST).write_text(json.dumps(manifest))
    make(path)
    assert contents(path) == contents(clean["a"])


def test_record_cannot_reach_outside_the_folder(make: Callable[..., Any], tmp_path: Path) -> None:
    path, outside = tmp_path / "data", tmp_path / "2048" / "outside.parquet"
    make(path)
    outside.parent.mkdir()
    outside.write_text("mine")
    inside = path / "2048" / "mine.parquet"
    inside.write_text("mine")
    manifest = json.loads((path / MANIFEST).read_bytes())
    for name in ("../2048/outside.parquet", str(outside), ".."):
        manifest["files"][name] = {"sha256": "0" * 64}
    (path / MANIFEST).write_text(json.dumps(manifest))
    make(path, "b", overwrite=True)
    assert outside.read_text() == inside.read_text() == "mine"


def test_fingerprint_stands_for_everything_a_sample_depends_on(qwen: PromptTokenizer, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"lengths": ["4k"], "tasks": ["story_multihop"], "samples": 2}
    others: list[dict[str, Any]] = [
        {"lengths": ["4k", "5k"]},
        {"tasks": ["story_multihop", "ruler_vt"]},
        {"samples": 3},
        {"seed": 1},
        {"max_new_tokens": 99},
        {"length_includes_output": True},
        {"settings": {"story_multihop.hops": 2}},
        {"depth": "0.5"},
        {"question_position": "after"},
    ]

    def fingerprint(request: Request, tokenizer: PromptTokenizer = qwen) -> str:
        return DatasetFolder(tmp_path, request, tokenizer).fingerprint

    found = [fingerprint(make_request(**plain))] + [fingerprint(make_request(**plain | other)) for other in others]
    found.append(fingerprint(make_request(**plain), qwen.with_template(None)))
    assert len(set(found)) == len(others) + 2


def test_order_in_which_things_are_named_does_not_matter(qwen: PromptTokenizer, tmp_path: Path) -> None:
    one = make_request(["5000", "4k"], ["ruler_vt", "story"], samples=2)
    other = make_request(["4096", 5000, "4K"], ["story_filtering", "story", "ruler_vt"], samples=2)
    assert DatasetFolder(tmp_path, one, qwen).fingerprint == DatasetFolder(tmp_path, other, qwen).fingerprint


def test_errors_of_the_folder_are_one_line(make: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SparseTasksError) as error:
            make(path)
        assert "\n" not in str(error.value)
