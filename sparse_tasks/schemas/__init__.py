"""JSON Schemas (draft 2020-12) of everything that is written and read, by name and version."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema

__all__ = ["problems", "schema"]


@cache
def schema(name: str) -> dict[str, Any]:
    """A schema such as ``sample-1.0``."""
    loaded: dict[str, Any] = json.loads((files(__package__) / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def problems(value: object, name: str) -> list[str]:
    """What is wrong with ``value`` by the schema ``name``: a line each, with the path to the place."""
    return [
        f"{error.json_path.removeprefix('$').lstrip('.') or 'value'}: {_short(error.message)}"
        for error in _validator(name).iter_errors(value)
    ]


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    loaded = schema(name)
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:120] + " … " + message[-70:]
