"""RULER's eight needle tasks: choices of the parameters of ``Needles`` (low dispersion, low scope)."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_tasks.generators.ruler.needles import Needles, haystack, key_kind, value_kind
from sparse_tasks.generators.task import TASKS, parameter

__all__ = ["RulerNiahMultikey1", "RulerNiahMultikey2", "RulerNiahMultikey3", "RulerNiahMultiquery",
           "RulerNiahMultivalue", "RulerNiahSingle1", "RulerNiahSingle2", "RulerNiahSingle3"]  # fmt: skip


@dataclass(frozen=True)
class RulerNiahMultikey1(Needles):
    """Asks for the number of one key of four, whose needles stand in a haystack of essays."""

    distractors: int = parameter(3, "number of keys that nobody asks for", 0, 64)

    name = "ruler_niah_multikey_1"
    summary = "the number that belongs to one of four keys, hidden in essays"


@dataclass(frozen=True)
class RulerNiahMultikey2(Needles):
    """Asks for the number of one key in a haystack of other keys with their numbers."""

    haystack: str = haystack("needles")

    name = "ruler_niah_multikey_2"
    summary = "the number that belongs to one key among many"


@dataclass(frozen=True)
class RulerNiahMultikey3(Needles):
    """Asks for the UUID of one key in a haystack of other keys with theirs; the keys are UUIDs, too."""

    haystack: str = haystack("needles")
    key_kind: str = key_kind("uuids")
    value_kind: str = value_kind("uuids")

    name = "ruler_niah_multikey_3"
    summary = "the UUID that belongs to one UUID among many"


@dataclass(frozen=True)
class RulerNiahMultiquery(Needles):
    """Asks for the numbers of four keys, which stand in a haystack of essays."""

    queries: int = parameter(4, "number of keys asked for", 1, 16)

    name = "ruler_niah_multiquery"
    summary = "the numbers that belong to several keys, hidden in essays"
    metric = "unordered_fraction"


@dataclass(frozen=True)
class RulerNiahMultivalue(Needles):
    """Asks for the four numbers of one key, which stand apart from one another in a haystack of essays."""

    values: int = parameter(4, "number of values of each key", 1, 16)

    name = "ruler_niah_multivalue"
    summary = "all numbers that belong to one key, hidden in essays"
    metric = "unordered_fraction"


@dataclass(frozen=True)
class RulerNiahSingle1(Needles):
    """Asks for the number of one key, which stands somewhere in a haystack of filler sentences."""

    haystack: str = haystack("noise")

    name = "ruler_niah_single_1"
    summary = "the number that belongs to a key, hidden in noise"


@dataclass(frozen=True)
class RulerNiahSingle2(Needles):
    """Asks for the number of one key, which stands somewhere in a haystack of essays."""

    name = "ruler_niah_single_2"
    summary = "the number that belongs to a key, hidden in essays"


@dataclass(frozen=True)
class RulerNiahSingle3(Needles):
    """Asks for the UUID of one key, which stands somewhere in a haystack of essays."""

    value_kind: str = value_kind("uuids")

    name = "ruler_niah_single_3"
    summary = "the UUID that belongs to a key, hidden in essays"


for _task in (RulerNiahMultikey1, RulerNiahMultikey2, RulerNiahMultikey3, RulerNiahMultiquery, RulerNiahMultivalue,
              RulerNiahSingle1, RulerNiahSingle2, RulerNiahSingle3):  # fmt: skip
    TASKS.register(_task.name, _task)
