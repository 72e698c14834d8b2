"""JSON Schemas (draft 2020-12) of everything that is written and read, by name and version.

They are generated from the types of the records (``scripts/schemas``), which check what is read; the schemas are for
other programs.
"""

from __future__ import annotations

import json
from importlib.resources import files

from sparse_tasks.core.records import JsonObject


def names() -> list[str]:
    """Names of the schemas, such as ``sample-1.0``."""
    return sorted(path.name.removesuffix(".json") for path in files(__package__).iterdir() if ".json" in path.name)


def schema(name: str) -> JsonObject:
    """Load a schema; its references are names of other schemas."""
    loaded: JsonObject = json.loads((files(__package__) / f"{name}.json").read_text(encoding="utf-8"))
    return loaded
