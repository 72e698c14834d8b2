"""A small data set, the right answers to it, and an engine with given answers."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sparse_tasks.core.errors import EngineError, SparseTasksError
from sparse_tasks.core.tokenizers import load_tokenizer
from sparse_tasks.evaluators.dataset import Dataset, open_dataset
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, Output, Request
from tests.cli.program import run
from tests.evaluators.tiny_llama import tiny_llama

Refused = Callable[..., AbstractContextManager[None]]
_load_once = functools.cache(load_tokenizer)  # most of what a small run costs


@pytest.fixture(scope="session")
def model(tokenizer_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkpoint, with a tokenizer that is loaded fast."""
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(tokenizer_folders["byte_level"], folder)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def llama(tokenizer_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint: a Llama of two small layers with random weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return tiny_llama(folder, tokenizer_folders["byte_level"], hidden_size=32, intermediate_size=64, positions=8192)


@pytest.fixture(scope="session")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks at two lengths, 4 samples each, two of them a file; read-only."""
    folder = tmp_path_factory.mktemp("evaluators") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_tasks.generators.dataset._SHARD_TOKENS", 3000)
        arguments = ["-l", "1100", "-l", "1500", "-t", "ruler_niah", "-t", "ruler_vt", "-n", "4", "-w", "1"]
        assert run("generate", *arguments, "--tokenizer", model, "-o", folder).code == 0
    return folder


@pytest.fixture(scope="session")
def dataset(data: Path) -> Dataset:
    return open_dataset(str(data))


@pytest.fixture(scope="session")
def rows(dataset: Dataset) -> list[dict[str, Any]]:
    """All samples, in the data set's order."""
    return list(dataset.rows(dataset.select()))


@pytest.fixture(scope="session")
def gold(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What a perfect model writes, by id."""
    return {row["id"]: f"<answer>{row['answer']}</answer>" for row in rows}


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """The data set, to be spoilt."""
    return Path(shutil.copytree(data, tmp_path / "copy"))


@pytest.fixture
def outputs(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of outputs for the engine ``replay``."""

    def write(texts: dict[str, str], name: str = "outputs.jsonl", **fields: Any) -> Path:
        path = tmp_path / name
        lines = [json.dumps({"id": identifier, "text": text, **fields}) for identifier, text in texts.items()]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def refused() -> Refused:
    """Expects an error of a kind, of one line that holds all the words."""

    @contextmanager
    def expect(kind: type[SparseTasksError], *words: object) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        text = str(caught.value)
        assert len(text.splitlines()) == 1, text
        missing = [str(word) for word in words if str(word) not in text]
        assert not missing, f"{missing} not in {text}"

    return expect


@pytest.fixture
def fake(gold: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine called ``fake``: a class of the test's own, whose attributes say how it behaves."""

    class Fake(Engine):
        name = "fake"
        texts: ClassVar[dict[str, str]] = dict(gold)
        fields: ClassVar[dict[str, Any]] = {"finish_reason": "stop", "output_tokens": 7}
        backwards = False
        limit: int | None = None
        fails_at_start = False
        fails_after: int | None = None
        ends_after: int | None = None
        extra_tokens = 0
        renames: ClassVar[dict[str, str]] = {}
        log: ClassVar[list[Any]] = []
        asked: ClassVar[list[Request]] = []

        def context(self) -> int | None:
            return self.limit

        def start(self, needed: int) -> None:
            self.log.append(("start", needed))
            if self.fails_at_start:
                raise EngineError("the fake does not start")

        def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
            taken = list(requests)[::-1] if self.backwards else requests
            for number, request in enumerate(taken):
                if number == self.fails_after:
                    raise EngineError("the fake fell over")
                if number == self.ends_after:
                    return
                self.asked.append(request)
                tokens = len(request.ids) + self.extra_tokens if request.ids else None
                identifier = self.renames.get(request.id, request.id)
                yield Output(identifier, self.texts[request.id], **({"input_tokens": tokens} | self.fields))

        def version(self) -> str | None:
            return "1.2.3"

        def details(self) -> dict[str, Any]:
            return {"starts": self.log.count("stop")}

        def stop(self) -> None:
            self.log.append("stop")

    Fake.log, Fake.asked = [], []
    ENGINES.names()  # the others come first
    monkeypatch.setattr("sparse_tasks.evaluators.predict.load_tokenizer", _load_once)
    monkeypatch.setitem(ENGINES._members, Fake.name, Fake)
    return Fake
