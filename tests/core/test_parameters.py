"""Guards parameters: what a text becomes, what is refused and how, ranges in words, and settings that nearly fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import Parameter, Parametric, parameter, parameters


@dataclass(frozen=True, kw_only=True)
class Oven(Parametric):
    """Something with a parameter of each kind."""

    trays: int = parameter(2, "how many trays", 1, 4)
    heat: float = parameter(0.5, "share of the full heat", 0.0, 1.0)
    fan: bool = parameter(False, "whether the fan is on")
    mode: str = parameter("bake", "what it does", choices=lambda: ("bake", "grill", "toast"))
    minutes: int | None = parameter(None, "when it stops; never if none", 1, kind=int)
    timer: float | None = parameter(None, "when it starts", 0.0, kind=float)
    colour: str = field(default="white")  # no parameter: it has no help

    name: ClassVar[str] = "oven"


TRAYS, HEAT, FAN, MODE, MINUTES, TIMER = parameters(Oven)


def test_parameters_are_the_fields_that_have_help_in_order() -> None:
    assert [p.name for p in parameters(Oven)] == ["trays", "heat", "fan", "mode", "minutes", "timer"]
    assert [p.kind for p in parameters(Oven)] == [int, float, bool, str, int, float]
    assert [p.default for p in parameters(Oven)] == [2, 0.5, False, "bake", None, None]
    assert Parameter("trays", int, 2, "how many trays", 1, 4) == TRAYS


def test_ranges_are_given_in_words() -> None:
    assert [p.range for p in parameters(Oven)] == [
        "1..4",
        "0.0..1.0",
        "true | false",
        "bake | grill | toast",
        "1..",
        "0.0..",
    ]
    assert Parameter("depth", int, 0, "", high=5).range == "..5"
    ten, more = ([f"name_{i}" for i in range(n)] for n in (10, 11))
    assert Parameter("who", str, "", "", choices=lambda: ten).range == " | ".join(ten)
    assert Parameter("who", str, "", "", choices=lambda: more).range == "11 names, such as name_0"


@pytest.mark.parametrize(
    ("owner", "value", "expected"),
    [
        (TRAYS, " 3 ", 3),
        (HEAT, 1, 1.0),
        (HEAT, "1e-3", 0.001),
        (FAN, True, True),
        (FAN, "true", True),
        (MODE, "grill", "grill"),
        (MINUTES, "90", 90),
        (MINUTES, None, None),
        (TIMER, 2, 2.0),
        (Parameter("tag", str, "", "any text"), "x", "x"),
    ],
)
def test_values_and_texts_are_read(owner: Parameter, value: object, expected: object) -> None:
    found = owner.parse("oven", value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("owner", "value", "remedy"),
    [
        *(
            (TRAYS, value, "not a whole number; choose from 1..4")
            for value in ("two", "", 2.0, "1e3", "0x2", True, None, [2])
        ),
        *((TRAYS, value, "out of range; choose from 1..4") for value in (0, 5, "-1", 10**30)),
        *((HEAT, value, "not a number; choose from 0.0..1.0") for value in ("hot", "", False, None, math.nan, "inf")),
        *((HEAT, value, "out of range; choose from 0.0..1.0") for value in (-0.001, "1.001", 2)),
        *((FAN, value, "neither true nor false; choose from true | false") for value in ("yes", "on", 1, 0, None, "")),
        (MODE, "boil", "unknown; choose from bake, grill, toast"),
        (MODE, "gril", "unknown; did you mean 'grill'? (choose from bake, grill, toast)"),
        (MODE, None, "unknown; choose from bake, grill, toast"),
        (MINUTES, 0, "out of range; choose from 1.."),
        (MINUTES, "none", "not a whole number; choose from 1.."),
        (TIMER, -1, "out of range; choose from 0.0.."),
    ],
)
def test_invalid_values_are_reported_with_the_range(owner: Parameter, value: Any, remedy: str) -> None:
    with pytest.raises(UsageError) as error:
        owner.parse("oven", value)
    assert (error.value.field, error.value.remedy) == (f"oven.{owner.name}", f"is {remedy}")
    assert error.value.value is value


@given(
    st.integers(1, 4), st.floats(0, 1), st.booleans(), st.sampled_from(["bake", "grill"]), st.none() | st.integers(1)
)
def test_settings_recreate_the_same_object(trays: int, heat: float, fan: bool, mode: str, minutes: int | None) -> None:
    oven = Oven(trays=trays, heat=heat, fan=fan, mode=mode, minutes=minutes)
    assert Oven.from_settings(oven.settings()) == oven
    given_values = {name: str(value) for name, value in oven.settings().items() if value is not None}
    assert Oven.from_settings(given_values) == oven


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("tray", "did you mean 'trays'?"),
        ("zzz", "choose from fan, heat, minutes, mode, timer, trays"),
        ("colour", "choose from fan, heat, minutes, mode, timer, trays"),
    ],
)
def test_an_unknown_parameter_is_named_with_the_nearest(name: str, suggested: str) -> None:
    with pytest.raises(UsageError) as error:
        Oven.from_settings({name: 7})
    assert (error.value.field, error.value.value) == (f"oven.{name}", 7)
    assert error.value.remedy.startswith(f"sets no parameter of oven: {name!r} is unknown; {suggested}")


@pytest.mark.parametrize("values", [{"trays": 9}, {"heat": math.inf}, {"mode": "boil"}, {"fan": None}, {"minutes": 0}])
def test_a_constructor_checks_as_well(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        Oven(**values)
    assert error.value.field == f"oven.{next(iter(values))}"


@dataclass(frozen=True, kw_only=True)
class Stove(Parametric):
    """Something that has a parameter more than it had when its settings were recorded."""

    plates: int = parameter(4, "how many plates", 1, 6)
    lamp: str = parameter("off", "whether it is lit", choices=lambda: ("off", "on"), later=True)

    name: ClassVar[str] = "stove"


def test_a_later_parameter_changes_no_settings_until_it_is_set() -> None:
    assert Stove().settings() == Stove(lamp="off").settings() == {"plates": 4}
    assert Stove(lamp="on").settings() == {"plates": 4, "lamp": "on"}
    assert Stove.from_settings({"plates": 4}) == Stove()
    assert Stove.from_settings(Stove(lamp="on").settings()) == Stove(lamp="on")


@pytest.mark.parametrize("taken", ["settings", "from_settings", "name", "mix"])
def test_a_parameter_cannot_hide_a_member_of_a_base(taken: str) -> None:
    @dataclass(frozen=True)
    class Base(Parametric):
        speed: int = parameter(1, "how fast")

        def mix(self) -> None: ...

    with pytest.raises(TypeError, match=rf"Toy\.{taken} would hide \w+\.{taken}; rename the parameter"):
        type("Toy", (Base,), {taken: parameter(1, "how much")})
    type("Toy", (Base,), {"speed": parameter(2, "how fast")})  # another default of the same parameter
