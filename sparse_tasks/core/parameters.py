"""Parameters: the fields of a frozen dataclass that a user may set, each with a range and a line of help."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sparse_tasks.core.errors import UsageError, nearest


@dataclass(frozen=True)
class Parameter:
    """A parameter as a user sees it."""

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: Callable[[], Sequence[str]] | None = None
    later: bool = False

    @property
    def range(self) -> str:
        """The allowed values, in words."""
        if self.choices is not None:
            names = self.choices()
            return " | ".join(names) if len(names) <= 10 else f"{len(names)} names, such as {names[0]}"
        if self.kind is bool:
            return "true | false"
        if self.kind is str:
            return "text"
        return f"{'' if self.low is None else self.low}..{'' if self.high is None else self.high}"

    def parse(self, owner: str, value: object) -> Any:
        """Convert ``value``, which may be text, to a value of this parameter; None is allowed where it is the default.

        Raises:
            UsageError: It is not valid; the message names the parameter and its allowed values.
        """
        path = f"{owner}.{self.name}"
        if value is None and self.default is None:
            return None
        if self.kind is bool:
            if str(value).lower() not in ("true", "false"):
                raise UsageError(path, value, f"is neither true nor false; choose from {self.range}")
            return str(value).lower() == "true"
        if self.kind in (int, float):
            number = _number(self.kind, value)
            if number is None:
                what = "whole number" if self.kind is int else "number"
                raise UsageError(path, value, f"is not a {what}; choose from {self.range}")
            if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
                raise UsageError(path, value, f"is out of range; choose from {self.range}")
            return number
        if self.choices is not None and value not in self.choices():
            raise UsageError(path, value, nearest(str(value), self.choices()))
        return str(value)


def _number(kind: type, value: object) -> Any:
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        return None
    try:
        number = kind(str(value))
        return number if math.isfinite(number) else None
    except (ValueError, OverflowError):  # an integer too large for a float
        return None


def parameter(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Callable[[], Sequence[str]] | None = None,
    kind: type | None = None,
    later: bool = False,
) -> Any:
    """A dataclass field that is a parameter: a number from ``low`` to ``high``, or a text out of ``choices``.

    Its type is that of the default; ``kind`` gives it where the default is None. A parameter that was added ``later``,
    after settings of its owner had been recorded, is omitted from the settings at its default, so that recorded
    settings stay valid.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "kind": kind or type(default)}
    metadata["later"] = later
    return field(default=default, metadata=metadata)


def parameters(owner: type) -> list[Parameter]:
    """The parameters of a dataclass, in order."""
    return [Parameter(name=f.name, default=f.default, **f.metadata) for f in dataclasses.fields(owner) if f.metadata]


@dataclass(frozen=True)
class Parametric:
    """Something with a registered ``name``, whose parameters are the fields of a frozen dataclass."""

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a parameter that would hide a method or an attribute of a base class.

        Raises:
            TypeError: There is one.
        """
        super().__init_subclass__(**options)
        for base in cls.__mro__[1:]:
            members = {*vars(base), *vars(base).get("__annotations__", {})}
            own = {f.name for f in dataclasses.fields(base)} if dataclasses.is_dataclass(base) else set()
            for name, value in vars(cls).items():
                if isinstance(value, dataclasses.Field) and name in members - own:
                    raise TypeError(f"{cls.__name__}.{name} would hide {base.__name__}.{name}; rename the parameter")

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """An instance with the parameters in ``settings``, each a value or its text.

        Raises:
            UsageError: A parameter is unknown, or its value is out of range.
        """
        known = {p.name: p for p in parameters(cls)}
        for name in settings:
            if name not in known:
                raise UsageError(
                    f"{cls.name}.{name}",
                    settings[name],
                    f"sets no parameter of {cls.name}: {name!r} {nearest(name, known)}",
                )
        return cls(**{name: known[name].parse(cls.name, value) for name, value in settings.items()})

    def __post_init__(self) -> None:
        for p in parameters(type(self)):
            # Values may be given as text.
            object.__setattr__(self, p.name, p.parse(self.name, getattr(self, p.name)))

    def settings(self) -> dict[str, Any]:
        """The parameters with their values; those added later only where they differ from their default."""
        values = ((p, getattr(self, p.name)) for p in parameters(type(self)))
        return {p.name: value for p, value in values if not p.later or value != p.default}
