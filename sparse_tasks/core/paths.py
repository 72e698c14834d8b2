"""Paths shown as they were given: pathlib drops the "./" of "./data", which its user then looks for in vain."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # Python 3.11 knows no other base

# A word of a command line, behind the name of an option where that is part of it.
_HERE: Final = re.compile(r"(?:-\w|--[\w-]+=)?(\./.+)", re.DOTALL)


class GivenPath(_Path):
    """A path that was given with "./" before it, and is shown so, as are those made of it; equal to one without."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.startswith(("./", "/")) or text == "." or self.is_absolute() else f"./{text}"

    def __eq__(self, other: object) -> bool:
        return Path(*self.parts) == (Path(*other.parts) if isinstance(other, GivenPath) else other)

    def __hash__(self) -> int:
        return hash(Path(*self.parts))

    def relative_to(self, *other: Any, **options: Any) -> Path:  # type: ignore[override]
        """The path from another one, which is shown as it is."""
        return Path(*super().relative_to(*other, **options).parts)


def as_given(value: object, words: Sequence[str]) -> Any:
    """A path at or under one that a command line has with "./", or each of a list, as it has it; else the value."""
    if isinstance(value, list):
        return [as_given(each, words) for each in value]
    if not isinstance(value, Path):
        return value
    given = [GivenPath(word[1]) for word in map(_HERE.fullmatch, words) if word]
    return GivenPath(value) if any(map(value.is_relative_to, given)) else value


def to_path(path: str | os.PathLike[str]) -> Path:
    """A path as a ``Path`` that is shown as it was given."""
    if isinstance(path, Path):
        return path
    text = os.fspath(path)
    return GivenPath(text) if text.startswith("./") else Path(text)
