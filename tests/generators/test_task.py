"""Parameters are checked wherever they come from; drafts and keys say what a task is."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.core.errors import UsageError
from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Parameter, Passage, Task, parameter, parameters


@dataclass(frozen=True)
class Base(Task):
    """A base with a parameter, as groups of tasks have."""

    flavour: str = parameter("plain", "how it tastes", choices=lambda: ("plain", "salty", "sweet"))

    summary: ClassVar[str] = "nothing"
    dispersion: ClassVar[str] = "low"
    scope: ClassVar[str] = "low"
    metric: ClassVar[str] = "exact_match"
    steerable: ClassVar[bool] = True

    def smallest(self) -> int:
        return 1

    def units(self, size: int) -> int:
        return size

    def specimens(self, stream: Stream, size: int) -> list[str]:
        return ["a\n"]

    def compose(self, stream: Stream, size: int, depth: Depth) -> Draft:
        raise NotImplementedError

    def oracle(self, prompt: str) -> str:
        return ""


@dataclass(frozen=True)
class Toy(Base):
    """A toy."""

    hops: int = parameter(1, "how far to go", 1, 16)
    loads: int = parameter(2, "how much to carry", 0)

    name: ClassVar[str] = "toy_walk"


# --- parameters ---------------------------------------------------------------------------------------------


def test_parameters_come_in_order_with_those_of_the_group_first() -> None:
    assert [(p.name, p.kind, p.default, p.help) for p in parameters(Toy)] == [
        ("flavour", str, "plain", "how it tastes"),
        ("hops", int, 1, "how far to go"),
        ("loads", int, 2, "how much to carry"),
    ]


def test_a_range_is_told_in_words() -> None:
    flavour, hops, _ = parameters(Toy)
    assert flavour.range == "plain | salty | sweet"
    assert hops.range == "1..16"
    many = Parameter("locale", str, "a", "", None, None, lambda: [f"locale_{i}" for i in range(80)])
    assert many.range == "80 names, such as locale_0"


@pytest.mark.parametrize(("value", "parsed"), [(3, 3), ("3", 3), (" 3 ", 3), ("+3", 3), (1, 1), ("16", 16)])
def test_whole_numbers_may_be_texts(value: object, parsed: int) -> None:
    task = Toy.from_settings({"hops": value})
    assert task.hops == parsed
    assert type(task.hops) is int


@pytest.mark.parametrize("value", ["x", "", "1.5", 1.5, 2.0, True, False, None, "1e3", "0x2", [3], "9" * 5_000])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"is not a whole number; choose from 1\.\.16") as caught:
        Toy.from_settings({"hops": value})
    assert (caught.value.field, caught.value.value) == ("toy_walk.hops", value)


@pytest.mark.parametrize("value", [0, 17, -1, "0", "17", 10**30])
def test_a_number_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"^toy_walk\.hops: .* is out of range; choose from 1\.\.16"):
        Toy.from_settings({"hops": value})
    with pytest.raises(UsageError, match=r"is out of range"):
        Toy(hops=int(value))  # type: ignore[call-overload]


def test_a_range_may_be_open_at_the_top() -> None:
    assert Toy.from_settings({"loads": 10**9}).loads == 10**9
    with pytest.raises(UsageError, match=r"toy_walk\.loads: -1 is out of range"):
        Toy.from_settings({"loads": -1})


@pytest.mark.parametrize(("value", "suggested"), [("salt", "salty"), ("Sweet", "sweet"), ("plian", "plain")])
def test_a_choice_that_is_none_suggests_the_nearest(value: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {suggested!r}") as caught:
        Toy.from_settings({"flavour": value})
    assert caught.value.field == "toy_walk.flavour"
    with pytest.raises(UsageError, match=f"did you mean {suggested!r}"):
        Toy(flavour=value)


@pytest.mark.parametrize("value", [7, None, "", ["salty"]])
def test_a_choice_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"choose from plain, salty, sweet"):
        Toy.from_settings({"flavour": value})


@pytest.mark.parametrize(("name", "suggested"), [("hop", "hops"), ("Hops", "hops"), ("flavor", "flavour")])
def test_an_unknown_parameter_suggests_the_nearest(name: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"sets no parameter of toy_walk: {name!r} is unknown")) as caught:
        Toy.from_settings({name: 1})
    assert f"did you mean {suggested!r}?" in str(caught.value)


def test_class_attributes_are_no_parameters() -> None:
    with pytest.raises(UsageError, match="sets no parameter of toy_walk"):
        Toy.from_settings({"metric": "set_iou"})


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Toy().hops = 2  # type: ignore[misc]


@given(st.integers(1, 16), st.integers(0), st.sampled_from(["plain", "salty", "sweet"]))
def test_settings_make_the_same_task_again(hops: int, loads: int, flavour: str) -> None:
    task = Toy(flavour, hops, loads)
    assert Toy.from_settings(task.settings()) == task
    assert Toy.from_settings({name: str(value) for name, value in task.settings().items()}) == task


# --- keys ---------------------------------------------------------------------------------------------------


def test_the_key_holds_name_version_and_parameters() -> None:
    assert json.loads(Toy().key()) == ["toy_walk", 1, {"flavour": "plain", "hops": 1, "loads": 2}]


def test_every_parameter_and_the_version_change_the_key() -> None:
    class Later(Toy):
        version: ClassVar[int] = 2

    class Other(Toy):
        name: ClassVar[str] = "toy_run"

    tasks = [Toy(), Toy(hops=2), Toy(loads=3), Toy(flavour="salty"), Later(), Other()]
    assert len({task.key() for task in tasks}) == len(tasks)
    assert Toy().key() == Toy.from_settings({}).key() == Toy.from_settings({"hops": "1"}).key()


def test_the_group_is_what_precedes_the_first_underscore() -> None:
    assert Toy.group() == "toy"
    assert {TASKS.get(name).group() for name in ("story_multihop", "ruler_vt")} == {"story", "ruler"}


# --- drafts -------------------------------------------------------------------------------------------------


def test_the_texts_of_a_draft_have_each_passages_filler_behind_it() -> None:
    body = [Passage("a\n", ["b\n", "c\n"]), Passage("d\n"), Passage("e\n", ["f\n"])]
    draft = Draft("intro\n", body, "", "question", "", [], [], list)
    assert draft.texts() == ["a\n", "b\n", "c\n", "d\n", "e\n", "f\n"]


def test_passages_of_the_same_words_are_different_passages() -> None:
    # The fitter finds a mark by its passage; equal words must not be taken for each other.
    assert Passage("a\n") != Passage("a\n")


def test_nothing_is_audited_unless_a_task_does() -> None:
    assert Toy().audit("anything") == []
