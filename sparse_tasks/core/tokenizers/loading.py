"""Tokenizers by built-in name, folder, ``tokenizer.json`` or Hub id."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sparse_tasks.core.errors import UsageError, nearest
from sparse_tasks.core.hub import fetching, is_hub_id, split_hub_id
from sparse_tasks.core.paths import to_path
from sparse_tasks.core.records import JsonObject
from sparse_tasks.core.tokenizers.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from sparse_tasks.core.tokenizers.template import ChatTemplate

BUILT_IN = {"qwen2.5": "Qwen2.5's vocabulary (151,643 tokens) and chat template; needs no network"}

_CONVERTING = Lock()

Find = Callable[[str], Path | None]


def load_tokenizer(
    source: str = "qwen2.5", chat_template: str = "auto", *, keeps_control: bool = False
) -> PromptTokenizer:
    """A tokenizer with its chat template.

    Args:
        source: A built-in name, a folder with a ``tokenizer.json``, such a file, or a Hub id
            (``ORG/NAME`` or ``ORG/NAME@revision``).
        chat_template: ``auto`` takes the tokenizer's own, if it has one; ``none`` leaves the prompt bare; else a file
            with a Jinja template.
        keeps_control: Whether control tokens spelt in a prompt are tokens; else they are encoded as text.

    Raises:
        UsageError: There is no such tokenizer or template, or it cannot be read.
    """
    from tokenizers import Tokenizer

    from sparse_tasks.core.tokenizers import qwen25
    from sparse_tasks.core.tokenizers.special import special_tokens

    if source in BUILT_IN:
        template = _template(chat_template, qwen25.CHAT_TEMPLATE, {})
        sha256 = qwen25.source_sha256()
        return PromptTokenizer(source, _qwen25, sha256, template, True, keeps_control, excerpt=qwen25.build_for)
    try:
        path = to_path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, no home folder
        raise UsageError("tokenizer", source, f"is not a path: {error}") from error
    if is_file:
        find: Find = lambda name: path if name == "tokenizer.json" else None  # noqa: E731
    elif is_folder:
        find = lambda name: path / name if (path / name).is_file() else None  # noqa: E731
    elif is_hub_id(source):
        find = _hub(source)
    else:
        raise UsageError(
            "tokenizer", source, f"{nearest(source, BUILT_IN)}; or name a folder, a tokenizer.json or a Hub id"
        )
    serialised = find("tokenizer.json")
    if serialised is None:
        raise UsageError(
            "tokenizer", source, "holds no tokenizer.json; save it with transformers' save_pretrained to get one"
        )
    try:
        content = serialised.read_bytes()
        backend = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise UsageError("tokenizer", source, f"is not a tokenizer.json that tokenizers can read: {error}") from error
    if getattr(backend.model, "dropout", None):
        raise UsageError(
            "tokenizer", source, "drops merges at random (BPE dropout), so its counts are not reproducible"
        )
    config = _read("tokenizer_config.json", find, source)
    try:
        special, added = special_tokens(config, lambda name: _read(name, find, source), backend)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError("tokenizer", source, f"has special tokens that cannot be read: {error}") from error
    before = repr(sorted(backend.get_added_tokens_decoder().items()))
    backend.add_tokens(added)
    if (after := repr(sorted(backend.get_added_tokens_decoder().items()))) != before:
        content += after.encode()
    backend.encode_special_tokens = bool(config.get("split_special_tokens"))
    template = _template(chat_template, _own_template(config, find, source), special)
    name = path.resolve().name if is_file or is_folder else source
    return PromptTokenizer(name, backend, hashlib.sha256(content).hexdigest(), template, None, keeps_control)


def cache_folder() -> Path:
    """The folder of cached conversions: ``$SPARSE_TASKS_CACHE``, else ``sparse-tasks`` in the user's cache folder."""
    if chosen := os.environ.get("SPARSE_TASKS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse-tasks"


def _qwen25() -> str:
    """The ``tokenizer.json``, converted on first use and cached."""
    with _CONVERTING:  # one thread converts
        return _converted()


def _converted() -> str:
    """The cached conversion, or a new one. A cache that is damaged or read-only is not used."""
    from sparse_tasks.core.tokenizers import qwen25

    made_of = hashlib.sha256(f"{qwen25.source_sha256()} {version('tokenizers')} 1".encode()).hexdigest()[:16]
    cached = cache_folder() / f"qwen2.5-{made_of}.json"
    expected = cached.with_suffix(".sha256")
    try:
        content = cached.read_bytes()
        if hashlib.sha256(content).hexdigest() == expected.read_text(encoding="utf-8"):
            return content.decode()
    except (OSError, UnicodeDecodeError):
        pass  # missing or unreadable: convert
    text = qwen25.build().to_str()
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        _write(cached, text)
        _write(expected, hashlib.sha256(text.encode()).hexdigest())
    except OSError:
        pass  # a read-only cache costs two seconds per run
    return text


def _write(path: Path, text: str) -> None:
    handle, unfinished = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError:
        os.unlink(unfinished)
        raise


def _template(choice: str, own: object, special: dict[str, str]) -> ChatTemplate | None:
    if choice == "none":
        return None
    from sparse_tasks.core.tokenizers.template import ChatTemplate

    if choice == "auto":
        if own is None:
            return None
        if not isinstance(own, str):
            raise UsageError("chat-template", choice, "finds several templates and no default; name a file, or none")
        return ChatTemplate(own, special)
    try:
        return ChatTemplate(Path(choice).expanduser().read_text(encoding="utf-8"), special)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("chat-template", choice, f"is neither auto nor none nor a readable file: {error}") from error


def _own_template(config: JsonObject, find: Find, source: str) -> object:
    """The chat template of a tokenizer, from the newest location that has one."""
    if path := find("chat_template.jinja"):
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("tokenizer", source, f"has an unreadable chat_template.jinja: {error}") from error
    template = config.get("chat_template")
    if template is None:  # older location for multimodal models
        template = _read("chat_template.json", find, source).get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", template)
    return template


def _read(name: str, find: Find, source: str) -> JsonObject:
    """A JSON file of the tokenizer; empty if missing."""
    if (path := find(name)) is None:
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UsageError("tokenizer", source, f"has an unreadable {name}: {error}") from error


def _hub(source: str) -> Find:
    repository, revision = split_hub_id(source)

    def find(name: str) -> Path | None:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        # Offline, a file the repository lacks cannot be told from one that was never fetched.
        optional = constants.HF_HUB_OFFLINE and name != "tokenizer.json"
        try:
            with fetching("tokenizer", source):
                return Path(hf_hub_download(repository, name, revision=revision))
        except EntryNotFoundError:
            return None
        except UsageError as error:
            if optional and isinstance(error.__cause__, EntryNotFoundError):
                return None
            raise

    return find
