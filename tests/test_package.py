"""The public names of the package."""

from __future__ import annotations

import pytest

import sparse_tasks


def test_every_public_name_is_there_and_listed() -> None:
    names = ["compare", "evaluate", "generate", "list_methods", "list_tasks", "load_run"]
    assert sparse_tasks.__all__ == ["__version__", *names]
    for name in sparse_tasks.__all__:
        assert getattr(sparse_tasks, name) is not None
        assert name in dir(sparse_tasks)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        sparse_tasks.prune  # noqa: B018


def test_lists_have_built_in_names() -> None:
    assert {"story_multihop", "ruler_vt", "qa_squad"} <= set(sparse_tasks.list_tasks())
    assert {"vertical_slash", "quest", "snapkv"} <= set(sparse_tasks.list_methods())
