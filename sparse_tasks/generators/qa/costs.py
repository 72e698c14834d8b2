"""Token counts of a corpus' documents, kept on disk by the hashes of the documents and of the tokenizer.

A damaged file is rewritten; a read-only folder only costs time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import cast

from sparse_tasks.core.errors import OutputError
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.tokenizers import PromptTokenizer
from sparse_tasks.core.tokenizers.loading import cache_folder

_counted: dict[tuple[str, str], Sequence[int]] = {}


def document_costs(sha256: str, documents: Sequence[str], tokenizer: PromptTokenizer) -> Sequence[int]:
    """Tokens of each document as a separate paragraph, or ``NEVER``; ``sha256`` is the hash of all of them."""
    mode = f"{tokenizer.sha256} {'keep' if tokenizer.keeps_control else 'text'}"
    known = _counted.get((sha256, mode))
    if known is not None:
        return known
    key = hashlib.sha256(f"{sha256} {mode} {version('tokenizers')} 2".encode()).hexdigest()
    path = cache_folder() / "costs" / f"{key[:32]}.json"
    costs = _load(path, key, len(documents))
    if costs is None:
        # With Hugging Face's encoder, since the cache outlives the proof of another.
        costs = tokenizer.with_encoder(None).costs([f"{text}\n\n" for text in documents])
        content = {"key": key, "sha256": _hash(costs), "costs": costs}
        with suppress(OutputError):
            write_whole(path, json.dumps(content).encode())
    _counted[sha256, mode] = costs
    return costs


def _load(path: Path, key: str, n: int) -> list[int] | None:
    try:
        content = json.loads(path.read_bytes())
        costs = content["costs"]
        whole = content["key"] == key and len(costs) == n and content["sha256"] == _hash(costs)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return cast(list[int], costs) if whole else None


def _hash(costs: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(costs).encode()).hexdigest()
