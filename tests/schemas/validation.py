"""Validation by the published schemas, with a library."""

from __future__ import annotations

from functools import cache

import jsonschema
from referencing import Registry, Resource

from sparse_tasks.schemas import names, schema

__all__ = ["problems"]


def problems(value: object, name: str) -> list[str]:
    """Errors of ``value`` by the schema ``name``: a line each, with the path to the place."""
    return [f"{error.json_path}: {error.message[:200]}" for error in validator(name).iter_errors(value)]


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    resources = [(name, Resource.from_contents(schema(name))) for name in names()]
    return jsonschema.Draft202012Validator(schema(name), registry=Registry().with_resources(resources))
