"""Parameters are checked wherever they come from; drafts and keys say what a task is."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest

from sparse_tasks.generators.depth import Depth
from sparse_tasks.generators.seeds import Stream
from sparse_tasks.generators.task import TASKS, Draft, Passage, Task, parameter, parameters


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


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Toy().hops = 2  # type: ignore[misc]


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
