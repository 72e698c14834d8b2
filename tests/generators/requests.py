"""Requests as tests write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sparse_tasks.generators.request import GenerateOptions, Request
from sparse_tasks.generators.request import make_request as make

__all__ = ["make_request"]


def make_request(
    lengths: Iterable[str | int], tasks: Sequence[str] = (), samples: int = 100, **options: Any
) -> Request:
    """The request of these options."""
    return make(GenerateOptions(lengths=lengths, tasks=tasks, samples=samples, **options))
