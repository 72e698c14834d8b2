"""Names on the Hugging Face Hub, and errors of downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sparse_tasks.core.errors import UsageError, first_line


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``ORG/NAME`` or ``ORG/NAME@revision``, and is not a relative path."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name, re.ASCII) is not None and not name.startswith(".")


def split_hub_id(name: str) -> tuple[str, str | None]:
    """Repository and revision; None without a revision."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


@contextmanager
def fetching(field: str, name: str) -> Iterator[None]:
    """Turn errors of ``huggingface_hub`` into a one-line error about ``name``.

    Raises:
        UsageError: It could not be fetched. A file missing from the repository raises the library's own
            ``EntryNotFoundError``.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise UsageError(field, name, "is not in the cache and the Hub cannot be reached") from error
    except EntryNotFoundError:
        raise
    except (HfHubHTTPError, OSError, ValueError) as error:  # ValueError: not a valid repository name
        raise UsageError(field, name, f"could not be fetched from the Hub: {first_line(error)}") from error
