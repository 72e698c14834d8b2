"""Registries: loaded once and late, no name twice, open to other packages."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from sparse_tasks.core import registry as module
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.registry import Registry


def filled(names: str = "quest snapkv window") -> Registry[str]:
    registry: Registry[str] = Registry("method", lambda: [registry.register(n, n.upper()) for n in names.split()])
    return registry


class FakeEntry:
    """An entry point of another package, whose module registers on import."""

    def __init__(self, load: Any) -> None:
        self.load = load
        self.value = "made.up"


def test_members_come_in_the_order_of_registration() -> None:
    registry = filled()
    assert registry.names() == ["quest", "snapkv", "window"]
    assert list(registry) == ["QUEST", "SNAPKV", "WINDOW"]
    assert registry.get("snapkv") == "SNAPKV"


def test_a_taken_name_is_refused_and_the_first_member_kept() -> None:
    registry = filled()
    assert registry.names()
    with pytest.raises(ValueError, match="method 'quest' is registered twice"):
        registry.register("quest", "another")
    assert registry.get("quest") == "QUEST"


def test_the_same_member_may_register_again() -> None:
    # A module that is imported under two names, or reloaded, is no clash.
    registry, member = filled(), object()
    other: Registry[object] = Registry("thing", lambda: None)
    assert other.register("one", member) is other.register("one", member) is member
    assert other.names() == ["one"]
    assert len(registry.names()) == 3


@pytest.mark.parametrize(("name", "suggested"), [("qest", "quest"), ("Window", "window"), ("snap_kv", "snapkv")])
def test_an_unknown_name_suggests_the_nearest(name: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=f"method: {name!r} is unknown; did you mean {suggested!r}"):
        filled().get(name)


def test_members_are_loaded_at_the_first_look_up_and_once() -> None:
    calls: list[int] = []
    registry: Registry[str] = Registry("method", lambda: calls.append(1))
    registry.register("early", "EARLY")
    assert calls == []
    assert registry.names() == ["early"]
    assert "early" in registry
    assert list(registry) == ["EARLY"]
    assert registry.get("early") == "EARLY"
    assert calls == [1]


def test_other_packages_join_through_entry_points_after_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[str] = Registry("method", lambda: registry.register("built_in", "B"), "sparse_tasks.method")
    asked: list[str] = []

    def entry_points(group: str) -> list[FakeEntry]:
        asked.append(group)
        return [FakeEntry(lambda: registry.register("plugin", "P"))]

    monkeypatch.setattr(module, "entry_points", entry_points)
    assert registry.names() == ["built_in", "plugin"]
    assert registry.get("plugin") == "P"
    assert asked == ["sparse_tasks.method"]


def test_a_plugin_cannot_take_the_name_of_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[str] = Registry("method", lambda: registry.register("quest", "B"), "sparse_tasks.method")
    monkeypatch.setattr(module, "entry_points", lambda group: [FakeEntry(lambda: registry.register("quest", "P"))])
    with pytest.raises(UsageError, match=r"made\.up.*cannot be loaded \(ValueError: .*registered twice"):
        registry.get("quest")


def test_a_member_in_its_own_module_is_imported_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    loads: list[str] = []
    registry: Registry[str] = Registry(
        "method", lambda: loads.append("all"), key=lambda member: (member,), module=lambda name: f"made_up_{name}"
    )
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "registry", registry, raising=False)
    (tmp_path / "made_up_window.py").write_text(
        "from __main__ import registry\nregistry.register('window', 'WINDOW')\n"
    )
    assert registry.get("window") == "WINDOW"
    assert loads == []
    registry.register("quest", "QUEST")
    assert "snapkv" not in registry
    assert loads == ["all"]
    assert registry.names() == ["quest", "window"]


def test_a_look_up_waits_for_a_loading_thread() -> None:
    begun, go_on = Event(), Event()

    def load() -> None:
        registry.register("quest", "QUEST")
        assert registry.names() == ["quest"]  # imported modules may look up existing members
        begun.set()
        assert go_on.wait(10)
        registry.register("snapkv", "SNAPKV")

    registry: Registry[str] = Registry("method", load)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.names)
        assert begun.wait(10)
        second = pool.submit(registry.get, "snapkv")
        go_on.set()
        assert first.result() == ["quest", "snapkv"]
        assert second.result() == "SNAPKV"
