"""Triton's interpreter, faster: it takes most of the time of the tests that run kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

__all__ = ["quick_interpreter"]


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Within a kernel the interpreter's language is put in place once, and not at each call of a function again."""
    if find_spec("triton") is None:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    put_in_place = getattr(interpreter, "_patch_lang", None)
    nothing_to_undo = getattr(interpreter, "_LangPatchScope", None)

    def put_in_place_once(fn: Any) -> Any:
        languages = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        if any(tl.core.is_builtin(language.load) for language in languages):
            return put_in_place(fn)
        return nothing_to_undo()

    with pytest.MonkeyPatch.context() as patch:
        if put_in_place is not None and nothing_to_undo is not None:  # it is no public interface
            patch.setattr(interpreter, "_patch_lang", put_in_place_once)
        yield
