"""``Attention``: the methods of a run with their parameters, as typed by the user and as stored in ``run.json``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from sparse_tasks.attention.method import (
    METHODS,
    Correction,
    DecodeMethod,
    EvictMethod,
    Method,
    PrefillMethod,
    SharedMethod,
)
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.records import JsonObject, Record, Text

DENSE: Final = "dense"
_UNKNOWN: Final = "unknown"

Sparsity: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class Attention(Record, frozen=True, kw_only=True, dict=True):
    """The attention of a run: dense, one method, or a prefill method with a decode or evict method.

    A correction may be added to the prefill method.

    Reading from ``run.json`` only checks the form; ``methods`` looks up the methods, which may come from other
    packages. ``parse`` does both.

    Attributes:
        method: ``dense``, ``quest``, ``vertical_slash+delta+quest``; ``unknown`` for an engine that runs elsewhere.
        sparsity: Target of all methods, in [0, 1); None for their own budgets, 0 for dense attention.
        arguments: ``METHOD.PARAMETER`` to a value or its text; the method may be omitted if there is only one, and an
            abbreviation for several applies to each.
        nominal: Whether it is the user's statement about an engine elsewhere; omitted if not.
    """

    method: Text
    sparsity: Sparsity | None
    arguments: JsonObject
    nominal: bool | UnsetType = UNSET

    DENSE: ClassVar[Attention]
    UNKNOWN: ClassVar[Attention]

    @classmethod
    def parse(cls, text: str, *, sparsity: float | None = None, arguments: Mapping[str, object] | None = None) -> Self:
        """Attention by name, with every method and parameter checked.

        Args:
            text: ``dense``, a method, or several joined by plus signs; ``oracle`` for ``oracle_prefill+oracle_decode``.
            sparsity: Target of all methods, in [0, 1).
            arguments: ``METHOD.PARAMETER`` to a value or its text.

        Raises:
            UsageError: A method is unknown, two act in the same phase, or a parameter or the sparsity is wrong.
        """
        number = isinstance(sparsity, int | float) and not isinstance(sparsity, bool)
        if sparsity is not None and not (number and 0 <= sparsity < 1):
            raise UsageError("sparsity", sparsity, "has to be a number from 0 up to, not including, 1")
        if text == DENSE:
            if sparsity:
                raise UsageError("sparsity", sparsity, f"needs a method; {DENSE} attention leaves nothing out")
            sparsity = 0
        target = None if sparsity is None else float(sparsity)
        attention = cls(method=spell_out(text), sparsity=target, arguments=dict(arguments or {}))
        _ = attention.methods
        return attention

    @classmethod
    def of(cls, *methods: Method) -> Self:
        """Attention from method instances, registered or not.

        Raises:
            UsageError: Two act in the same phase.
        """
        parts = [part for method in methods for part in method.parts]
        given = [(f"{m.name}.{name}", value) for m in parts for name, value in m.settings().items()]
        attention = cls(
            method="+".join(m.name for m in parts) or DENSE,
            sparsity=None if methods else 0.0,
            arguments={path: value for path, value in given if value is not None},
        )
        attention.__dict__["methods"] = _by_phase(attention.method, methods)
        return attention

    def placed(self, text: Any) -> Self:
        """The attention in a model, with methods that know what they need of it.

        Args:
            text: ``PretrainedConfig`` of the text model; None if there is none, and positions rotate nothing.

        Raises:
            UsageError: The model does not provide it (see ``Method.in_model``).
        """
        if text is None:
            return self
        placed = copy.copy(self)
        placed.__dict__["methods"] = tuple(method.in_model(text) for method in self.methods)
        return placed

    @property
    def controls(self) -> list[str]:
        """Names of its methods that are controls, among installed methods."""
        return [name for name in self.names if name in METHODS and METHODS.get(name).control]

    @property
    def oracle(self) -> Self:
        """Oracles with the same budgets and units.

        Raises:
            UsageError: A method has no sparsity, so its budget is not known in advance.
        """
        arguments: JsonObject = {}
        for method in self.methods:
            if method.sparsity is None:
                raise UsageError("sparsity", None, f"is no budget for the oracle of {method.name}; give one")
            name, settings = method.oracle
            arguments |= {f"{name}.{key}": value for key, value in settings.items()}
            arguments[f"{name}.sparsity"] = method.sparsity
        return self.parse("+".join(method.oracle[0] for method in self.methods) or DENSE, arguments=arguments)

    @property
    def sparse(self) -> bool:
        """Whether it names methods."""
        return self.method not in (DENSE, _UNKNOWN)

    @property
    def label(self) -> str:
        """Name for folders and tables: ``dense``, ``quest``, ``vertical_slash+quest-0.9``."""
        return self.method if self.sparsity is None or not self.sparse else f"{self.method}-{self.sparsity:g}"

    @property
    def names(self) -> list[str]:
        """Names of its methods."""
        return [] if self.method == DENSE else self.method.split("+")

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """Its methods with their parameters, prefill first.

        Raises:
            UsageError: A method is unknown, two act in the same phase, or a parameter is wrong.
        """
        names = self.names
        for name in names:
            METHODS.get(name)
        for path in self.arguments:
            if not _goes_to(path, names):
                parameter = path.rpartition(".")[2]
                known = ", ".join(f"{name}.{parameter}" for name in names) or f"none: {DENSE} attention takes none"
                raise UsageError("argument", path, f"belongs to no method in {self.method!r}; write {known}")
        return _by_phase(self.method, [self.resolve(name) for name in names])

    def resolve(self, name: str) -> Method:
        """One of its methods with its parameters; its own arguments take precedence over the common sparsity.

        Raises:
            UsageError: The method is unknown, or a parameter is wrong.
        """
        settings: dict[str, object] = {} if self.sparsity is None else {"sparsity": self.sparsity}
        for path, value in self.arguments.items():
            if name in _goes_to(path, self.names):
                settings[path.rpartition(".")[2]] = value
        return METHODS.get(name).from_settings(settings)

    @property
    def prefill(self) -> PrefillMethod | None:
        """The method for prompts; None if they are dense."""
        return next((m for m in self.methods if isinstance(m, PrefillMethod)), None)

    @property
    def decode(self) -> DecodeMethod | EvictMethod | None:
        """The method for tokens after the prompt; None if they are dense."""
        return next((m for m in self.methods if isinstance(m, DecodeMethod | EvictMethod)), None)

    @property
    def frees(self) -> bool:
        """Whether positions that no later query sees are known: chosen by position alone, or by all layers together."""
        decode = self.decode
        return self.agrees or (decode is not None and type(decode).unseen is not Method.unseen)

    @property
    def agrees(self) -> bool:
        """Whether all heads of all layers keep the same tokens of a prompt, chosen by content."""
        return isinstance(self.decode, SharedMethod)

    def check_context(self, field: str, value: object) -> None:
        """Refuse a context length, after which to evict before the prompt ends, where methods cannot do so.

        Raises:
            UsageError: All layers choose together, and what follows the context is read before the last layer has
                chosen.
        """
        if self.sparse and self.agrees:
            remedy = f"does not go with {self.method}, which chooses once all layers have read the whole prompt"
            raise UsageError(field, value, remedy)

    def unseen(self, prompt: int, position: int) -> range:
        """Positions that no query at ``position`` or later sees, in any layer or head (see ``Method.unseen``).

        Args:
            prompt: Tokens of the prompt.
            position: In the prompt or after it.
        """
        if self.decode is None:
            return range(0)
        later = self.decode.unseen(prompt, max(prompt, position))
        if position >= prompt:
            return later
        if self.prefill is None:
            return range(0)
        soon = self.prefill.unseen(prompt, position)
        return range(max(soon.start, later.start), min(soon.stop, later.stop))


Attention.DENSE = Attention(method=DENSE, sparsity=0.0, arguments={})
Attention.UNKNOWN = Attention(method=_UNKNOWN, sparsity=None, arguments={})


def spell_out(text: str) -> str:
    """Expand ``oracle``, which is not a method itself, to ``oracle_prefill+oracle_decode``."""
    parts = []
    for name in text.split("+"):
        phases = [f"{name}_prefill", f"{name}_decode"]
        parts += phases if name not in METHODS and all(phase in METHODS for phase in phases) else [name]
    return "+".join(parts)


def share_out(arguments: Mapping[str, object], attentions: Sequence[str]) -> list[JsonObject]:
    """The arguments for each of several attentions: an argument applies to all that use its method.

    Raises:
        UsageError: An argument applies to none of them.
    """
    names = [[] if text == DENSE else spell_out(text).split("+") for text in attentions]
    for path in arguments:
        if not any(_goes_to(path, some) for some in names):
            raise UsageError(
                "set", path, f"belongs to no method in {', '.join(attentions)}; write METHOD.PARAMETER=VALUE"
            )
    return [{path: value for path, value in arguments.items() if _goes_to(path, some)} for some in names]


def _goes_to(path: str, names: Sequence[str]) -> list[str]:
    """The methods that an argument applies to; one without a method applies to a single method."""
    owner, dot, _ = path.rpartition(".")
    named = spell_out(owner).split("+") if dot or len(names) != 1 else names
    return [name for name in names if name in named]


def composed(methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods, with a correction merged into the method it corrects, if there is one."""
    correction = next((m for m in methods if isinstance(m, Correction)), None)
    others = [m for m in methods if isinstance(m, PrefillMethod) and m is not correction]
    if correction is None or len(others) != 1 or isinstance(others[0], Correction):
        return tuple(methods)
    both = replace(correction, of=others[0])
    return tuple(both if m is others[0] else m for m in methods if m is not correction)


def _by_phase(text: str, methods: Sequence[Method]) -> tuple[Method, ...]:
    """At most one method for prefill, and at most one for decoding or eviction, in this order."""
    methods = composed(methods)
    by_phase = {isinstance(method, PrefillMethod): method for method in methods}
    ordered = tuple(by_phase[prefill] for prefill in (True, False) if prefill in by_phase)
    if len(ordered) != len(methods):
        raise UsageError(
            "attention", text, "composes two methods of one phase; use one for prefill and one for decode or evict"
        )
    return ordered
