"""Named registries with helpful errors, open to other packages through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from threading import RLock
from typing import Generic, TypeVar

from sparse_tasks.core.errors import UsageError, first_line, nearest

T = TypeVar("T")


def import_modules(package: str) -> None:
    """Import the modules of a package in alphabetical order; the last line of each registers what it defines."""
    for module in sorted(module.name for module in iter_modules(import_module(package).__path__)):
        import_module(f"{package}.{module}")


class Registry(Generic[T]):
    """Named registry with helpful errors.

    Args:
        field: Kind of the members in errors ("task", "metric").
        load: Imports the built-in members, whose last lines register them; called once, when a look-up needs them all.
        group: Entry point group through which other packages add theirs.
        key: Sorts the built-in members; None for the order of registration.
        module: Maps a built-in member's name to its module, where the name determines it; ``get`` then imports only
            that.
    """

    def __init__(
        self,
        field: str,
        load: Callable[[], object],
        group: str | None = None,
        key: Callable[[T], tuple[int | str, ...]] | None = None,
        module: Callable[[str], str] | None = None,
    ) -> None:
        self.field = field
        self._load: Callable[[], object] | None = load
        self._whole, self._loading = False, RLock()
        self._group, self._key, self._module = group, key, module
        self._members: dict[str, T] = {}

    def register(self, name: str, member: T) -> T:
        """Add ``member`` under ``name``.

        Raises:
            ValueError: The name is taken by another member.
        """
        if self._members.setdefault(name, member) is not member:
            raise ValueError(f"{self.field} {name!r} is registered twice")
        return member

    def get(self, name: str) -> T:
        """The member called ``name``.

        Raises:
            UsageError: Nothing has that name; the nearest one is suggested.
        """
        if name not in self:
            raise UsageError(self.field, name, nearest(name, self._members))
        return self._members[name]

    def names(self) -> list[str]:
        """All names, the built-in ones first."""
        return list(self._loaded())

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._loaded().values()))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._members or self._finds(name) or name in self._loaded())

    def _finds(self, name: str) -> bool:
        """Whether the member's own module defines it; nothing else is imported."""
        if self._module is None or self._load is None or not name.isidentifier():
            return False
        try:
            if find_spec(module := self._module(name)) is None:
                return False
        except ModuleNotFoundError:  # no such package
            return False
        import_module(module)
        return name in self._members

    def _loaded(self) -> dict[str, T]:
        if not self._whole:
            with self._loading:  # other threads wait; modules imported here may look up members registered so far
                self._load_all()
        return self._members

    def _load_all(self) -> None:
        if self._load is not None:
            load, self._load = self._load, None
            load()
            if (key := self._key) is not None:
                self._members = dict(sorted(self._members.items(), key=lambda item: key(item[1])))
            if self._group is not None:
                for entry in entry_points(group=self._group):
                    try:
                        entry.load()
                    except Exception as error:  # another package's code can raise anything
                        remedy = f"cannot be loaded ({type(error).__name__}: {first_line(error)}); mend or uninstall it"
                        raise UsageError(self._group, entry.value, remedy) from error
            self._whole = True
