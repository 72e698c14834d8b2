"""Paths shown as the user gave them: pathlib drops the "./" of "./data"."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # the only base that works in Python 3.11

# A word of the command line, after the option's name if that is part of it.
_HERE: Final = re.compile(r"(?:-\w|--[\w-]+=)?(\./.+)", re.DOTALL)


class GivenPath(_Path):
    """A path given with a leading "./", which it and paths derived from it keep when shown; equal to one without."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.startswith(("./", "/")) or text == "." or self.is_absolute() else f"./{text}"

    def __eq__(self, other: object) -> bool:
        return Path(*self.parts) == (Path(*other.parts) if isinstance(other, GivenPath) else other)

    def __hash__(self) -> int:
        return hash(Path(*self.parts))

    def relative_to(self, *other: Any, **options: Any) -> Path:  # type: ignore[override]
        """The relative path, shown without "./"."""
        return Path(*super().relative_to(*other, **options).parts)


def as_given(value: object, words: Sequence[str]) -> Any:
    """A path, or each of a list, with the "./" that the command line gave it or a folder above it; else the value."""
    if isinstance(value, list):
        return [as_given(each, words) for each in value]
    if not isinstance(value, Path):
        return value
    given = [GivenPath(word[1]) for word in map(_HERE.fullmatch, words) if word]
    return GivenPath(value) if any(map(value.is_relative_to, given)) else value


def to_path(path: str | os.PathLike[str]) -> Path:
    """A ``Path`` that is shown as it was given."""
    if isinstance(path, Path):
        return path
    text = os.fspath(path)
    return GivenPath(text) if text.startswith("./") else Path(text)
