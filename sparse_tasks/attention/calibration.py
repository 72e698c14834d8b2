"""Calibrations: measurements of a model for a method, stored in a file."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sparse_tasks.core.errors import BadFileError, UsageError, first_line, install
from sparse_tasks.core.files import write_whole

_LOG: Final = logging.getLogger("sparse_tasks")
_SAMPLE: Final = 4096  # bytes of each tensor in a model's fingerprint
_TEXTS: Final = ("method", "model", "source")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measurements of a model for a method.

    Attributes:
        method: Name of the method.
        version: Of what the method measures.
        model: ``fingerprint`` of the model.
        source: Description of the data.
        tensors: By name; the first dimension is the layers with full attention.
    """

    method: str
    version: int
    model: str
    source: str
    tensors: Mapping[str, Tensor]
    _on: dict[torch.device, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on a device, copied once."""
        if device not in self._on:
            self._on[device] = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return self._on[device]

    def save(self, path: Path) -> None:
        """Write it atomically.

        Raises:
            OutputError: It cannot be written.
        """
        from safetensors.torch import save

        texts = {name: getattr(self, name) for name in _TEXTS} | {"version": str(self.version)}
        write_whole(path, save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, metadata=texts))

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read one.

        Raises:
            UsageError: ``safetensors`` is missing.
            BadFileError: It cannot be read, or is none.
        """
        try:
            from safetensors import safe_open
        except ImportError as error:
            raise UsageError("calibration", str(path), f"needs safetensors; {install('transformers')}") from error
        try:
            with safe_open(path, framework="pt") as file:
                texts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # the reader has its own errors for other files
            raise BadFileError(f"calibration: {path} cannot be read: {first_line(error)}") from error
        if missing := [name for name in (*_TEXTS, "version") if not texts.get(name)]:
            raise BadFileError(f"calibration: {path} does not say its {missing[0]}; sparse-tasks attention calibrate "
                               "writes calibrations")  # fmt: skip
        version = int(texts["version"]) if texts["version"].isdecimal() else -1
        return cls(texts["method"], version, texts["model"], texts["source"], tensors)


@functools.lru_cache(maxsize=16)
def calibrated(path: str, method: str, version: int, model: str, revision: str | None) -> Calibration:
    """Load a calibration for a method and a model, and log once what it was measured on.

    Args:
        path: The file.
        method: Name of the method.
        version: Of what the method measures.
        model: Folder or Hub id.
        revision: Commit of a Hub model.

    Raises:
        UsageError: It is for another method, version or model.
        BadFileError: It cannot be read, or is none.
    """
    found = Calibration.load(Path(path))
    again = f"make one with sparse-tasks attention calibrate {method} --model {model}"
    if found.method != method:
        raise UsageError(f"{method}.calibration", path, f"is for {found.method}; {again}")
    if found.version != version:
        raise UsageError(f"{method}.calibration", path, f"has version {found.version}, not {version}; {again}")
    if found.model != (own := fingerprint(model, revision)):
        raise UsageError(
            f"{method}.calibration", path, f"was made for the model {found.model[:12]}, not {own[:12]}; {again}"
        )
    _LOG.warning("%s: calibrated on %s", method, found.source)
    return found


@functools.lru_cache(maxsize=16)
def warn_uncalibrated(method: str, instead: str) -> None:
    """Log once that a method runs without a calibration, and what is used instead."""
    _LOG.warning("%s: not calibrated; %s (sparse-tasks attention calibrate makes a calibration)", method, instead)


def source_of(text: Any) -> tuple[str, str | None]:
    """Folder or Hub id of a model, and its commit, from its config.

    Raises:
        UsageError: The config does not say.
    """
    name = getattr(text, "_name_or_path", "")
    if not name:
        raise UsageError("model", name, "is not available as files, which identify the model of a calibration")
    return name, getattr(text, "_commit_hash", None)


def fingerprint(model: str, revision: str | None = None) -> str:
    """SHA-256 of a sample of a model's weights, enough to tell models apart.

    It covers the header of each weights file, with the names and shapes of tensors, and the first 4 KiB of each tensor.

    Args:
        model: Folder or Hub id, with local files.
        revision: Commit of a Hub model.

    Raises:
        UsageError: There are no such files, or they contain something else.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise UsageError("model", model, f"is not available: {first_line(error)}") from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError("model", model, "has no .safetensors, which identify the model of a calibration")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = file.read(min(size, path.stat().st_size))
            first = file.tell()
            try:
                places = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError("model", str(path), f"is not a .safetensors file: {first_line(error)}") from error
            digest.update(header)
            for begin, end in places:
                file.seek(first + begin)
                digest.update(file.read(min(_SAMPLE, end - begin)))
    return digest.hexdigest()
