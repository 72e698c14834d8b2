"""Worker of vLLM whose tables ``soak.py`` counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from sparse_tasks.attention.vllm.worker import SparseWorker


class SoakWorker(SparseWorker):
    """The one of sparse attention."""

    def soak_tables(self) -> dict[str, int]:
        """Entries of every table that the session, its layers and its counts hold, by class and name."""
        found: Counter[str] = Counter()
        for name, size in tables(self._sparse, set()):
            found[name] += size
        return dict(found)


def tables(owner: Any, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Names and sizes of the mappings and sets of an object of this package, and of those that it refers to."""
    if id(owner) in seen:
        return
    seen.add(id(owner))
    if isinstance(owner, Mapping):
        owner = list(owner.values())
    if isinstance(owner, Sequence) and not isinstance(owner, str):
        for one in owner:
            yield from tables(one, seen)
    elif type(owner).__module__.startswith("sparse_tasks."):
        for name, value in getattr(owner, "__dict__", {}).items():
            if name == "modules":  # vLLM's own
                continue
            if isinstance(value, Mapping | Set) or hasattr(value, "valuerefs") or hasattr(value, "keyrefs"):
                yield f"{type(owner).__name__}.{name}", len(value)
            yield from tables(value, seen)
