"""The model that is evaluated: its source, and the hashes that identify it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.hub import fetching, is_hub_id, split_hub_id
from sparse_tasks.core.shape import Shape
from sparse_tasks.evaluators.costs import read_shape
from sparse_tasks.evaluators.counted import count_shape

DEMO: Final = "demo"
PROBE: Final = "probe"
PROBES: Final = (PROBE, "probe-steps")
BUILT_IN: Final = "demo, probe or probe-steps"


@dataclass(frozen=True, slots=True)
class Model:
    """Model with its source and hashes.

    Attributes:
        name: As the user gave it.
        source: What an engine loads: a folder, a Hub id, a server's name for it, a file of outputs.
        revision: Commit of a Hub model; None elsewhere.
        config_sha256: Hash of its ``config.json``; None without such a file here.
        sha256: Hash of a file of outputs; None elsewhere.
        shape: The sizes in its ``config.json``; None if unknown.
    """

    name: str
    source: str
    revision: str | None = None
    config_sha256: str | None = None
    sha256: str | None = None
    shape: Shape | None = None

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer is, as ``load_tokenizer`` takes it."""
        return self.source if self.revision is None else f"{self.source}@{self.revision}"


def find_model(name: str) -> Model:
    """A model in a folder, on the Hub (``ORG/NAME`` or ``ORG/NAME@revision``), ``demo`` or one of ``PROBES``.

    Raises:
        UsageError: The model does not exist.
    """
    if name == DEMO:
        from sparse_tasks.evaluators.demo import demo_model

        return _in_folder(name, demo_model())
    if name in PROBES:
        from sparse_tasks.evaluators.probe import probe_model

        return _in_folder(name, probe_model(name))
    try:
        folder = Path(name).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, no home folder
        raise UsageError(
            "model", name, f"is not a path ({error}); name a folder, a Hub id (ORG/NAME), {BUILT_IN}"
        ) from error
    if is_folder:
        if not (folder / "config.json").is_file():
            raise UsageError("model", name, "holds no config.json; name a folder of a Hugging Face checkpoint")
        return _in_folder(name, folder)
    if not is_hub_id(name):
        raise UsageError("model", name, f"is not a folder; name a folder, a Hub id (ORG/NAME), {BUILT_IN}")
    return _on_hub(name)


def _in_folder(name: str, folder: Path) -> Model:
    config = folder / "config.json"
    return Model(name, str(folder), config_sha256=sha256_of(config), shape=_shape(config))


def _shape(config: Path) -> Shape | None:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        return read_shape(content) or count_shape(content)
    except (OSError, ValueError, RecursionError):
        return None  # the engine reports what is wrong


def _on_hub(name: str) -> Model:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, revision = split_hub_id(name)
    try:
        with fetching("model", name):
            config = Path(hf_hub_download(repository, "config.json", revision=revision))
    except EntryNotFoundError as error:
        raise UsageError("model", name, "holds no config.json; name a Hugging Face checkpoint") from error
    # The cache has files in .../snapshots/<commit>/config.json.
    return Model(name, repository, config.parent.name, sha256_of(config), shape=_shape(config))
