"""Download of corpora from the Hugging Face Hub, with the commit that they come from."""

from __future__ import annotations

import re
from pathlib import Path

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.files import sha256_of
from sparse_tasks.core.hub import fetching, split_hub_id
from sparse_tasks.generators.corpora import Kind

_DATA = re.compile(r".*\.(?:parquet|jsonl?(?:\.gz)?)")
_METADATA = re.compile(r"(?:.*/)?(?:dataset_infos|dataset_dict|state|config)\.json|\..*")
# The splits, the preferred one first; training data comes last.
_SPLITS = (r"(?:.*[/_.-])?(?:validation|valid|dev)\b.*", r"(?:.*[/_.-])?test\b.*", r".*")


def fetch(kind: Kind, address: str) -> tuple[tuple[Path, ...], str, str]:
    """Files of a corpus, their repository, and their commit; ``address`` is ``ORG/NAME`` or ``ORG/NAME@revision``."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, revision = split_hub_id(address)
    known = kind.hub is not None and split_hub_id(kind.hub)[0] == repository
    names = kind.files
    try:
        with fetching("corpus", address):
            names = kind.files if known else _files(kind, address)
            paths = tuple(
                Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision)) for name in names
            )
    except EntryNotFoundError as error:
        raise UsageError("corpus", address, f"does not have all of {', '.join(names)}") from error
    if address == kind.hub:
        for path, expected in zip(paths, kind.hashes, strict=False):
            if (actual := sha256_of(path)) != expected:
                remedy = f"gave other bytes of {path.name} than those that are known (SHA-256 {actual[:16]}…)"
                raise UsageError("corpus", address, f"{remedy}; empty the cache of the Hub and try again")
    return paths, repository, _commit(paths[0], address)


def _files(kind: Kind, address: str) -> tuple[str, ...]:
    """Files of one split of an unknown repository."""
    from huggingface_hub import HfApi

    repository, revision = split_hub_id(address)
    names = [sibling.rfilename for sibling in HfApi().dataset_info(repository, revision=revision).siblings or []]
    files = sorted(name for name in names if _DATA.fullmatch(name) and not _METADATA.fullmatch(name))
    for split in _SPLITS:
        if chosen := [name for name in files if re.fullmatch(split, name)]:
            if len({name.rpartition("/")[0] for name in chosen}) == 1:
                return tuple(chosen)
            break
    what = f"has several: {', '.join(files[:8])}" if files else "has no Parquet or JSON files"
    raise UsageError("corpus", address, f"{what}; download the one that is meant and name it with {kind.name}=FILE")


def _commit(path: Path, address: str) -> str:
    """Commit of a file in the Hub's cache, which is part of its path."""
    for folder, name in zip(path.parts, path.parts[1:], strict=False):
        if folder == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", name):
            return name
    raise UsageError("corpus", address, f"is not in a snapshot of the Hub's cache: {path}")
