"""Attention of a run: a method or a composition, its target sparsity, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sparse_tasks.attention.method import METHODS, DecodeMethod, EvictMethod, Method, PrefillMethod
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject, Record, Text

__all__ = ["DENSE", "UNKNOWN", "Attention", "goes_to"]

DENSE: Final = "dense"
"""The name of attention without a method."""

UNKNOWN: Final = "unknown"
"""The name of attention that runs where this package cannot see it."""


class Attention(Record, frozen=True, kw_only=True, dict=True):
    """A method for the prompt and one for what follows, as named on the command line and stored in ``run.json``.

    ``parse`` checks names and parameters. A record read from a file is taken as it is, since another package's method
    need not be installed; ``methods``, ``prefill`` and ``decode`` then raise ``UsageError``.

    Attributes:
        method: ``dense``, ``unknown``, a method, or one for prefill and one for what follows:
            ``vertical_slash+quest``.
        sparsity: Target sparsity of all methods, in [0, 1); None for their own budgets; 0 for dense attention.
        arguments: ``METHOD.PARAMETER`` to a value; the method may be left out where there is only one.
    """

    method: Text = DENSE
    sparsity: Annotated[float, Meta(ge=0, lt=1)] | None = 0.0
    arguments: JsonObject = msgspec.field(default_factory=dict)

    @classmethod
    def parse(
        cls, method: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
    ) -> Attention:
        """The attention of a name, a target sparsity and parameters.

        Args:
            method: ``dense``, a method, or two joined by a plus sign, in any order.
            sparsity: In [0, 1); None for the methods' own budgets.
            arguments: ``METHOD.PARAMETER`` to a value or its text.

        Raises:
            UsageError: A method is unknown, two act in the same phase, or a value is unknown or out of range.
        """
        if sparsity is not None and (isinstance(sparsity, bool | str) or not 0 <= sparsity < 1):
            raise UsageError("sparsity", sparsity, "has to be a number from 0 up to, not including, 1")
        if method == DENSE:
            if sparsity or arguments:
                what = "sparsity" if sparsity else next(iter(arguments or {}))
                remedy = f"leaves nothing out, so it takes no {what}; name a method, as sparse-tasks attention list"
                raise UsageError("attention", method, f"{remedy} shows them")
            return cls()
        return cls.of(*_resolved(method, sparsity, arguments or {}), sparsity=sparsity, arguments=arguments or {})

    @classmethod
    def of(
        cls, *methods: Method, sparsity: float | None = None, arguments: Mapping[str, object] | None = None
    ) -> Attention:
        """The attention of methods, registered or not.

        Args:
            methods: At most one for prefill, and at most one for decoding or eviction.
            sparsity: Target sparsity that they were made with.
            arguments: Parameters that they were made with; None for all of their settings.

        Raises:
            UsageError: Two methods act in the same phase.
        """
        methods = _in_order("+".join(method.name for method in methods), methods)
        if arguments is None:
            settings = {method.name: method.settings() for method in methods}
            arguments = {f"{name}.{key}": value for name, own in settings.items() for key, value in own.items()}
        made = cls(
            method="+".join(method.name for method in methods) or DENSE,
            sparsity=sparsity if methods else 0.0,
            arguments=dict(arguments),
        )
        made.__dict__["methods"] = methods
        return made

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """The methods with their parameters, that for prefill first.

        Raises:
            UsageError: As of ``parse``.
        """
        if self.method in (DENSE, UNKNOWN):
            return ()
        return _in_order(self.method, _resolved(self.method, self.sparsity, self.arguments))

    @property
    def prefill(self) -> PrefillMethod | None:
        """The method for the prompt; None for dense attention."""
        return next((method for method in self.methods if isinstance(method, PrefillMethod)), None)

    @property
    def decode(self) -> DecodeMethod | EvictMethod | None:
        """The method for the tokens after the prompt; None for dense attention."""
        return next((method for method in self.methods if isinstance(method, DecodeMethod | EvictMethod)), None)

    @property
    def sparse(self) -> bool:
        """Whether there is a method."""
        return self.method != DENSE

    @property
    def names(self) -> list[str]:
        """Names of the methods."""
        return [] if self.method in (DENSE, UNKNOWN) else self.method.split("+")

    @property
    def label(self) -> str:
        """Name of a folder: ``dense``, ``quest``, ``vertical_slash+quest-0.9``."""
        return self.method if self.sparsity is None or not self.sparse else f"{self.method}-{self.sparsity:g}"


def goes_to(path: str, names: Sequence[str]) -> bool:
    """Whether ``METHOD.PARAMETER`` is of one of the methods; without a method, whether there is only one."""
    owner, dot, _ = path.rpartition(".")
    return owner in names if dot else len(names) == 1


def _resolved(names: str, sparsity: float | None, arguments: Mapping[str, object]) -> list[Method]:
    """The methods of a composition, with their parameters, in the order of their names."""
    parts = names.split("+")
    kinds = [METHODS.get(part) for part in parts]
    settings: dict[str, dict[str, object]] = {part: {} for part in parts}
    for path, value in arguments.items():
        owner, _, name = path.rpartition(".")
        if not goes_to(path, parts):
            known = ", ".join(f"{part}.{name}" for part in parts)
            raise UsageError("argument", path, f"is of no method in {names!r}; write {known}")
        settings[owner or parts[0]][name] = value
    if sparsity is not None:
        for values in settings.values():
            values.setdefault("sparsity", sparsity)
    return [kind.from_settings(settings[part]) for kind, part in zip(kinds, parts, strict=True)]


def _in_order(names: str, methods: Sequence[Method]) -> tuple[Method, ...]:
    first = [method for method in methods if isinstance(method, PrefillMethod)]
    then = [method for method in methods if not isinstance(method, PrefillMethod)]
    if len(first) > 1 or len(then) > 1:
        raise UsageError(
            "attention", names, "composes two methods of one phase; one for prefill and one for decode or evict go"
        )
    return (*first, *then)
