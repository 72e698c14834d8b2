"""The engine ``replay``: outputs of another program, read from a file to be scored."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace

from sparse_tasks.core.errors import BadFileError, DataError, UsageError
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.records import JsonObject, to_builtins
from sparse_tasks.evaluators.engines.engine import ENGINES, Engine, EngineSettings, Output, Request
from sparse_tasks.evaluators.models import Model
from sparse_tasks.evaluators.records import Replayed
from sparse_tasks.evaluators.runs import parse_line


class ReplayEngine(Engine):
    """Reader of lines ``{"id": ..., "text": ...}`` (schema ``replay-1.0``).

    ``finish_reason``, ``input_tokens``, ``output_tokens``, ``thinking_tokens``, ``seconds``,
    ``seconds_to_first_token`` and ``sparsity`` are kept where present; other keys are ignored. The engine argument
    ``model`` names the model that wrote the answers, instead of the file, so that runs of several files can be
    compared.
    """

    name = "replay"
    elsewhere = True
    labelled = True
    samples = False
    takes_ids = False
    begins_answers = True  # irrelevant: the outputs already exist
    compresses_contexts = True  # likewise

    def __init__(self, settings: EngineSettings) -> None:
        for argument, value in settings.arguments.items():
            if argument != "model" or not isinstance(value, str) or not value:
                raise UsageError("engine-arg", f"{argument}={value}", "is unknown; replay takes only model=NAME")
            settings = replace(settings, model=replace(settings.model, name=value))
        super().__init__(settings)
        self._path = to_path(settings.model.source)
        self._places: dict[str, int] | None = None

    @classmethod
    def find(cls, name: str) -> Model:
        try:
            path = to_path(name).expanduser()
            if not path.is_file():
                raise UsageError("model", name, "is not a file; for replay name a JSONL file of outputs")
            return Model(path.name, str(path), sha256=sha256_of(path))
        except (OSError, RuntimeError) as error:  # not readable, a name too long, no home folder
            raise UsageError("model", name, f"cannot be read ({error}); name a JSONL file of outputs") from error

    def context(self) -> int | None:
        """None; reads the file, so that its errors come before the run starts.

        Raises:
            BadFileError: A line is not valid.
        """
        self._lines()
        return None

    def start(self, needed: int) -> None:
        """Read the file."""
        self._lines()

    def _lines(self) -> dict[str, int]:
        """Offset of each output's line; read once."""
        if self._places is None:
            self._places = self._find_places()
        return self._places

    def _find_places(self) -> dict[str, int]:
        places: dict[str, int] = {}
        with self._path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    identifier = self._read(line, number).id
                    if identifier in places:
                        raise BadFileError(f"{self._path}, line {number}: {identifier} occurs twice")
                    places[identifier] = start
                start += len(line)
        return places

    def generate(self, requests: Iterable[Request]) -> Generator[Output, None, None]:
        ids, places = [request.id for request in requests], self._lines()
        if missing := [identifier for identifier in ids if identifier not in places]:
            raise BadFileError(
                f"{self._path} has no output for {len(missing)} of the samples, {missing[0]} first; "
                "add them, or choose others with --task, --length and --limit"
            )
        with self._path.open("rb") as file:
            for identifier in ids:
                file.seek(places[identifier])
                replayed = self._read(file.readline(), None)
                fields: JsonObject = {"finish_reason": None} | to_builtins(replayed)
                yield Output(**fields)

    def version(self) -> str | None:
        return None

    def _read(self, line: bytes, number: int | None) -> Replayed:
        where = str(self._path) if number is None else f"{self._path}, line {number}"
        try:
            return parse_line(line, Replayed, where)
        except DataError as error:
            raise BadFileError(str(error)) from error


ENGINES.register(ReplayEngine.name, ReplayEngine)
