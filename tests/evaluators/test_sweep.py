"""Guards sweeps: what is run, in which order and folder, resuming, and stopping engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparse_tasks.attention.attention import Attention
from sparse_tasks.core.errors import EngineError, UsageError
from sparse_tasks.core.errors import kept as kept_by
from sparse_tasks.core.records import to_builtins
from sparse_tasks.evaluators.dataset import Dataset
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine
from sparse_tasks.evaluators.engines.running import Engines
from sparse_tasks.evaluators.predict import Progress, RunRequest, default_folder
from sparse_tasks.evaluators.runs import COMPARISON
from sparse_tasks.evaluators.sweep import Swept, grid, sweep, sweeps
from tests.cli.program import contents
from tests.schemas.validation import problems

Refused = Callable[..., Any]
Sweep = Callable[..., list[Swept]]
QUESTS = [Attention.parse("quest", sparsity=0.5), Attention.parse("quest", sparsity=0.9)]


def labels(attentions: list[Attention]) -> list[str]:
    return [one.label for one in attentions]


def test_a_grid_is_each_method_with_each_sparsity_and_dense_once() -> None:
    """In the order of the options."""
    found = grid(["quest", "dense", "vertical_slash+snapkv"], [0.9, None, 0.5], {})
    assert labels(found) == [
        *("quest-0.9", "quest", "quest-0.5", "dense"),
        *("vertical_slash+snapkv-0.9", "vertical_slash+snapkv", "vertical_slash+snapkv-0.5"),
    ]
    assert found[0] == Attention.parse("quest", sparsity=0.9)
    assert found[3] == Attention.DENSE
    assert grid(["dense"], [None], {}) == grid(["dense"], [0.5, 0.9], {}) == [Attention.DENSE]
    assert grid([], [0.5], {}) == []


def test_arguments_go_to_what_has_the_method_in_it() -> None:
    given = {"quest.page": 8, "vertical_slash.window": 256}
    found = grid(["dense", "quest", "vertical_slash+quest"], [0.5], given)
    assert [one.arguments for one in found] == [{}, {"quest.page": 8}, given]


@pytest.mark.parametrize(
    ("methods", "sparsities", "twice"),
    [
        (["quest", "quest"], [0.5], "quest-0.5"),
        (["dense", "quest", "dense"], [0.5], "dense"),
        (["quest"], [0.5, 0.9, 0.5], "quest-0.5"),
        (["quest"], [None, None], "quest"),
        (["quest"], [0.5, 0.50000001], "quest-0.5"),  # they would share a folder
    ],
)
def test_duplicates_are_named(methods: list[str], sparsities: list[float | None], twice: str, refused: Refused) -> None:
    with refused(UsageError, f"attention: {twice!r} is repeated"):
        grid(methods, sparsities, {})


@pytest.mark.parametrize(
    ("attention", "what", "expected"),
    [
        (Attention.DENSE, None, "runs/demo-needles"),
        (Attention.parse("quest", sparsity=0.9), None, "runs/demo-needles-quest-0.9"),
        (Attention.parse("vertical_slash+quest"), None, "runs/demo-needles-vertical_slash-quest"),
        (Attention.DENSE, "sweep", "runs/demo-needles-sweep"),
        (Attention.parse("quest", sparsity=0.9), "sweep", "runs/demo-needles-sweep"),
    ],
)
def test_a_folder_without_a_name_says_what_computes_attention(
    attention: Attention, what: str | None, expected: str, dataset: Dataset
) -> None:
    data = Dataset("acme/needles", dataset.path, None, dataset.manifest, dataset.sha256)
    request = RunRequest(data, data.select(), "demo", attention=attention)
    assert default_folder(request, what).as_posix() == expected


@pytest.fixture
def able(fake: Any) -> Any:
    """The fake engine runs methods, takes over another's model on request, and answers worse when sparse."""

    class Able(fake):  # type: ignore[misc]
        runs_methods = True
        hands_over = False
        alive: set[int] = set()  # noqa: RUF012
        fails_for: str | None = None
        contexts: list[str] = []  # noqa: RUF012

        def context(self) -> int | None:
            self.contexts.append(self.settings.attention.label)
            limit: int | None = super().context()
            return limit

        def start(self, needed: int) -> None:
            self.alive.add(id(self))
            self.log.append(("start", self.settings.attention.label))
            if self.fails_at_start:
                raise EngineError("the fake does not start")

        def take_over(self, running: Engine, needed: int) -> bool:
            assert id(running) in self.alive
            if not (self.hands_over and self.settings.attention.sparse and running.settings.attention.sparse):
                return False
            self.log.append(("take over", self.settings.attention.label))
            self.alive.remove(id(running))
            self.alive.add(id(self))
            return True

        def generate(self, requests: Any) -> Any:
            assert self.alive == {id(self)}
            label = self.settings.attention.label
            for number, output in enumerate(super().generate(requests)):
                if label == self.fails_for and number == 3:
                    raise EngineError("the fake fell over")
                yield output

        def details(self) -> dict[str, Any]:
            return {}

        def stop(self) -> None:
            self.alive.discard(id(self))
            self.log.append(("stop", self.settings.attention.label))

    Able.alive, Able.contexts = set(), []
    ENGINES._members["fake"] = Able
    return Able


@pytest.fixture
def make(able: Any, dataset: Dataset, model: Path) -> Sweep:
    def run_it(
        folder: Path, attentions: list[Attention], reported: Callable[[str], None] = lambda label: None
    ) -> list[Swept]:
        @contextmanager
        def progress(attention: Attention) -> Iterator[Progress]:
            reported(attention.label)

            class Silent(Progress):
                pass

            yield Silent()

        request = RunRequest(dataset, dataset.select(lengths=[1100], limit=2), str(model), "fake")
        return sweep(request, attentions, folder, progress)

    return run_it


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_bytes().splitlines()]


def files(folder: Path) -> dict[str, bytes | None]:
    """What does not depend on when a run was made."""
    return {name: content for name, content in contents(folder).items() if not name.endswith("run.json")}


@pytest.mark.parametrize("attentions", [QUESTS, [QUESTS[0], Attention.DENSE, QUESTS[1]]])
def test_dense_attention_is_first_and_each_has_a_folder(
    attentions: list[Attention], tmp_path: Path, make: Sweep
) -> None:
    """Whether it was asked for or not."""
    reported: list[str] = []
    swept = make(tmp_path, attentions, reported.append)
    expected = ["dense", "quest-0.5", "quest-0.9"]
    assert reported == [one.attention.label for one in swept] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    for one in swept:
        assert one.folder == tmp_path / one.attention.label
        result = to_builtins(one.result)
        assert result == read(one.folder / "result.json")
        assert result["attention"] == to_builtins(one.attention) == read(one.folder / "run.json")["attention"]
        assert len(lines(one.folder)) == 4


def test_a_model_stays_loaded_from_one_data_set_to_the_next(
    tmp_path: Path, able: Any, dataset: Dataset, model: Path
) -> None:
    able.hands_over = True
    reported: list[tuple[str, str]] = []

    @contextmanager
    def progress(folder: Path, attention: Attention) -> Iterator[Progress]:
        reported.append((folder.name, attention.label))

        class Silent(Progress):
            pass

        yield Silent()

    of = lambda limit: dataset.select(lengths=[1100], limit=limit)  # noqa: E731
    requests = {
        tmp_path / name: RunRequest(dataset, of(limit), str(model), "fake") for name, limit in (("a", 1), ("b", 2))
    }
    swept = sweeps(requests, QUESTS[:1], progress)
    assert reported == [(folder, label) for folder in "ab" for label in ("dense", "quest-0.5")]
    assert {folder.name: [len(lines(one.folder)) for one in runs] for folder, runs in swept.items()} == {
        "a": [2, 2], "b": [4, 4],
    }  # fmt: skip
    assert not able.alive


def test_each_run_is_compared_with_dense_attention(
    tmp_path: Path, make: Sweep, able: Any, gold: dict[str, str]
) -> None:
    generate = able.generate

    def worse(self: Any, requests: Any) -> Any:
        spoilt = "-00000-" if self.settings.attention.sparsity == 0.9 else "of no sample"
        self.texts = {name: "none" if spoilt in name else text for name, text in gold.items()}
        return generate(self, requests)

    able.generate = worse
    dense, half, most = make(tmp_path, QUESTS)
    assert dense.comparison is None
    assert not (tmp_path / "dense" / COMPARISON).exists()
    for one, differences in ((half, [0.0, 0.0]), (most, [-0.5, -0.5])):
        assert one.comparison is not None
        written = read(one.folder / COMPARISON)
        assert written == to_builtins(one.comparison)
        assert problems(written, "comparison-1.0") == []
        assert [row["difference"] for row in written["rows"]] == differences
        assert [row["mean_a"] for row in written["rows"]] == [1.0, 1.0]


@pytest.mark.parametrize("hands_over", [False, True])
def test_an_engine_reuses_the_model_if_possible(hands_over: bool, tmp_path: Path, make: Sweep, able: Any) -> None:
    able.hands_over = hands_over
    make(tmp_path, [*QUESTS, Attention.parse("snapkv", sparsity=0.5)])
    start, over, stop = (lambda label, what=what: (what, label) for what in ("start", "take over", "stop"))
    if hands_over:
        expected = [start("dense"), stop("dense"), start("quest-0.5"), over("quest-0.9"), over("snapkv-0.5"),
                    stop("snapkv-0.5")]  # fmt: skip
    else:
        every = ["dense", "quest-0.5", "quest-0.9", "snapkv-0.5"]
        expected = [what(label) for label in every for what in (start, stop)]
    assert able.log == expected
    assert able.alive == set()


def test_finished_runs_are_not_repeated(tmp_path: Path, make: Sweep, able: Any) -> None:
    make(tmp_path, QUESTS[:1])
    before = contents(tmp_path)
    able.log.clear()
    able.asked.clear()
    first, second = make(tmp_path, QUESTS[:1])
    assert able.log == able.asked == []
    assert contents(tmp_path) == before
    assert first.comparison is None
    assert second.comparison is not None
    make(tmp_path, QUESTS)  # one more
    assert able.log == [("start", "quest-0.9"), ("stop", "quest-0.9")]
    assert len(able.asked) == 4
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before


@pytest.mark.parametrize(("killed", "hands_over"), [("dense", False), ("quest-0.5", True), ("quest-0.9", True)])
def test_a_killed_sweep_resumes_to_the_same_bytes(
    killed: str, hands_over: bool, tmp_path: Path, make: Sweep, able: Any
) -> None:
    """No sample is answered twice by the same attention."""
    able.hands_over = hands_over
    make(tmp_path / "clean", QUESTS)
    able.asked.clear()
    able.fails_for = killed
    with pytest.raises(EngineError, match="the fake fell over") as fell:
        make(tmp_path / "run", QUESTS)
    assert able.alive == set()
    before = ["dense", "quest-0.5", "quest-0.9"].index(killed)
    runs = [f"kept in {tmp_path / 'run'}: {before} of 3 runs, finished"] if before else []
    assert kept_by(fell.value) == [f"kept in {tmp_path / 'run' / killed}: 3 of 4 answers", *runs]
    assert able.log[-1] == ("stop", killed)
    kept = lines(tmp_path / "run" / killed)
    assert len(kept) == 3
    able.fails_for = None
    able.asked.clear()
    make(tmp_path / "run", QUESTS)
    done = ["dense", "quest-0.5", "quest-0.9"].index(killed)
    assert len(able.asked) == 1 + 4 * (2 - done)
    assert {request.id for request in able.asked[:1]}.isdisjoint(row["id"] for row in kept)
    assert files(tmp_path / "run") == files(tmp_path / "clean")


def test_ctrl_c_stops_running_engines(tmp_path: Path, make: Sweep, able: Any) -> None:
    able.hands_over = True

    def reported(label: str) -> None:
        if label == "quest-0.9":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, QUESTS, reported)
    assert able.log[-1] == ("stop", "quest-0.5")
    assert able.alive == set()
    assert len(lines(tmp_path / "quest-0.5")) == 4


def test_an_engine_that_does_not_start_is_stopped(tmp_path: Path, make: Sweep, able: Any, refused: Refused) -> None:
    able.fails_at_start = True
    with refused(EngineError, "does not start"):
        make(tmp_path, QUESTS)
    assert able.log == [("start", "dense"), ("stop", "dense")]


def test_impossible_runs_are_refused_before_any_run(tmp_path: Path, make: Sweep, able: Any, refused: Refused) -> None:
    def context(self: Any) -> int | None:
        if self.settings.attention.method == "snapkv":
            raise UsageError("attention", "snapkv", "does not go with this model")
        return None

    able.context = context
    with refused(UsageError, "snapkv", "does not go with this model"):
        make(tmp_path, [*QUESTS, Attention.parse("snapkv", sparsity=0.5)])
    assert able.log == able.asked == []
    assert contents(tmp_path) == {}


def test_each_method_is_checked_once_before(tmp_path: Path, make: Sweep, able: Any) -> None:
    """Which may take the engine a while; its sparsities make no difference."""
    make(tmp_path, QUESTS)
    assert able.contexts[:2] == ["dense", "quest-0.5"]
    assert able.contexts[2:] == ["dense", "quest-0.5", "quest-0.9"]  # each run looks again


def test_an_engine_that_runs_no_methods_is_refused_with_those_that_do(
    tmp_path: Path, make: Sweep, able: Any, refused: Refused
) -> None:
    able.runs_methods = False
    with refused(UsageError, "attention: 'quest'", "does not run in the engine fake; choose --engine from ", "vllm"):
        make(tmp_path, QUESTS)
    assert contents(tmp_path) == {}


class Noted:
    """Replaces an engine, and records calls."""

    def __init__(self, name: str, log: list[Any], takes_over: bool = False, fails: bool = False) -> None:
        self.name, self.log, self.takes_over, self.fails = name, log, takes_over, fails

    def start(self, needed: int) -> None:
        self.log.append((self.name, "start", needed))
        if self.fails:
            raise EngineError("no")

    def take_over(self, running: Any, needed: int) -> bool:
        self.log.append((self.name, "asked", running.name, needed))
        return self.takes_over

    def stop(self) -> None:
        self.log.append((self.name, "stop"))


def test_one_engine_runs_at_a_time_and_the_last_is_stopped() -> None:
    log: list[Any] = []
    with Engines() as engines:
        engines.start(Noted("a", log), 10)  # type: ignore[arg-type]
        engines.start(Noted("b", log, takes_over=True), 20)  # type: ignore[arg-type]
        engines.start(Noted("c", log), 30)  # type: ignore[arg-type]
    assert log == [
        *[("a", "start", 10), ("b", "asked", "a", 20)],
        *[("c", "asked", "b", 30), ("b", "stop"), ("c", "start", 30), ("c", "stop")],
    ]


def test_an_engine_that_fails_on_the_way_is_stopped_too() -> None:
    log: list[Any] = []
    with Engines() as engines:
        engines.start(Noted("a", log), 10)  # type: ignore[arg-type]
        with pytest.raises(EngineError):
            engines.start(Noted("b", log, fails=True), 20)  # type: ignore[arg-type]
    assert log == [("a", "start", 10), ("b", "asked", "a", 20), ("a", "stop"), ("b", "start", 20), ("b", "stop")]


def test_an_engine_takes_over_nothing_unless_it_says_so(fake: Any, dataset: Dataset, model: Path) -> None:
    settings = RunRequest(dataset, dataset.select(), str(model), "fake").settings()
    assert not fake(settings).take_over(fake(settings), 10)
