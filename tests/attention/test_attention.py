"""Guards how attention is parsed, composed, given its parameters, written and read, on methods of its own."""

from __future__ import annotations

from typing import Any

import pytest

from sparse_tasks.attention import attention as room
from sparse_tasks.attention.attention import Attention, share_out
from sparse_tasks.attention.method import Method
from sparse_tasks.core.errors import DataError, UsageError
from sparse_tasks.core.records import convert, to_builtins
from sparse_tasks.core.registry import Registry
from tests.attention.toys import First, Loud, Near


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with the toys alone."""
    registry: Registry[type[Method]] = Registry("attention", lambda: None)
    for kind in (Near, Loud, First):
        registry.register(kind.name, kind)
    monkeypatch.setattr(room, "METHODS", registry)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("dense", ()),
        ("near", (Near(),)),
        ("loud", (Loud(),)),
        ("near+loud", (Near(), Loud())),
        ("near+first", (Near(), First())),
        ("first+near", (Near(), First())),  # the order does not matter
    ],
)
def test_each_method_acts_in_its_phase(name: str, methods: tuple[Any, ...]) -> None:
    attention = Attention.parse(name)
    assert attention.methods == Attention.of(*methods).methods == methods
    assert attention.prefill == next((m for m in methods if isinstance(m, Near)), None)
    assert attention.decode == next((m for m in methods if not isinstance(m, Near)), None)
    assert (attention.method, attention.sparse) == (name, bool(methods))


@pytest.mark.parametrize(
    ("name", "sparsity", "arguments", "methods"),
    [
        ("near+first", 0.75, {}, (Near(sparsity=0.75), First(sparsity=0.75))),
        ("near+loud", 0.9, {"near.sparsity": 0.5}, (Near(sparsity=0.5), Loud(sparsity=0.9))),
        ("near+loud", None, {"near.near": "3", "near.at_once": 64, "loud.sparsity": "0.5"},
         (Near(near=3, at_once=64), Loud(sparsity=0.5))),
        ("near", None, {"near": 3}, (Near(near=3),)),
        ("near", None, {"near.near": 3}, (Near(near=3),)),
    ],
)  # fmt: skip
def test_parameters_reach_their_methods(
    name: str, sparsity: float | None, arguments: dict[str, Any], methods: tuple[Method, ...]
) -> None:
    assert Attention.parse(name, sparsity=sparsity, arguments=arguments).methods == methods
    assert Attention.parse(Attention.of(*methods).method, arguments=Attention.of(*methods).arguments).methods == methods


@pytest.mark.parametrize(
    ("attention", "label", "recorded"),
    [
        (Attention.DENSE, "dense", {"method": "dense", "sparsity": 0.0, "arguments": {}}),
        (Attention.UNKNOWN, "unknown", {"method": "unknown", "sparsity": None, "arguments": {}}),
        (Attention(method="quest", sparsity=None, arguments={}), "quest",
         {"method": "quest", "sparsity": None, "arguments": {}}),
        (Attention(method="quest", sparsity=0.0, arguments={}), "quest-0",
         {"method": "quest", "sparsity": 0.0, "arguments": {}}),
        (Attention(method="near+theirs", sparsity=0.95, arguments={"theirs.page": 8}), "near+theirs-0.95",
         {"method": "near+theirs", "sparsity": 0.95, "arguments": {"theirs.page": 8}}),
    ],
)  # fmt: skip
def test_it_survives_a_round_trip(attention: Attention, label: str, recorded: dict[str, Any]) -> None:
    """Also where its methods are not installed."""
    assert to_builtins(attention) == recorded
    assert convert(recorded, Attention, "run.json") == attention
    assert (attention.label, attention.sparse) == (label, attention not in (Attention.DENSE, Attention.UNKNOWN))


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"method": ""}, "method"), ({"sparsity": 1.0}, "sparsity"), ({"arguments": None}, "arguments"), ({"x": 1}, "x")],
)
def test_an_invalid_record_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match=f"run.json: .*{field}"):
        convert({"method": "near", "sparsity": 0.5, "arguments": {}} | changed, Attention, "run.json")


@pytest.mark.parametrize(
    ("name", "value", "suggested"),
    [
        ("naer", "naer", "did you mean 'near'"),
        ("near+laud", "laud", "did you mean 'loud'"),
        ("zzz", "zzz", "choose from first, loud, near"),
        ("", "", "choose from first, loud, near"),
        ("near+", "", "choose from"),
        ("near+dense", "dense", "choose from"),
        ("unknown", "unknown", "choose from"),
    ],
)
def test_an_unknown_method_is_named(name: str, value: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=suggested) as error:
        Attention.parse(name)
    assert (error.value.field, error.value.value) == ("attention", value)


@pytest.mark.parametrize("name", ["near+near", "loud+loud", "loud+first", "first+loud", "near+loud+first"])
def test_two_methods_of_one_phase_are_refused(name: str) -> None:
    with pytest.raises(
        UsageError, match="two methods of one phase; use one for prefill and one for decode or evict"
    ) as e:
        Attention.parse(name)
    assert (e.value.field, e.value.value) == ("attention", name)


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, "half", True, float("nan")])
def test_sparsity_must_be_below_one(sparsity: Any) -> None:
    with pytest.raises(UsageError, match="from 0 up to, not including, 1") as error:
        Attention.parse("near+loud", sparsity=sparsity)
    assert error.value.field == "sparsity"


def test_dense_attention_takes_no_sparsity() -> None:
    assert Attention.parse("dense", sparsity=0) == Attention.parse("dense") == Attention.DENSE
    with pytest.raises(UsageError, match="needs a method") as error:
        Attention.parse("dense", sparsity=0.5)
    assert (error.value.field, error.value.value) == ("sparsity", 0.5)


@pytest.mark.parametrize(
    ("name", "path", "remedy"),
    [
        ("near+loud", "first.first", "belongs to no method in 'near+loud'; write near.first, loud.first"),
        ("near+loud", "sparsity", "belongs to no method in 'near+loud'; write near.sparsity, loud.sparsity"),
        ("near", ".near", "belongs to no method in 'near'; write near.near"),
        ("dense", "near", "belongs to no method in 'dense'; write none: dense attention takes none"),
    ],
)
def test_an_argument_without_a_method_is_named(name: str, path: str, remedy: str) -> None:
    with pytest.raises(UsageError) as error:
        Attention.parse(name, arguments={path: 1})
    assert (error.value.field, error.value.value, error.value.remedy) == ("argument", path, remedy)


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"near.naer": 1}, "near.naer", "did you mean 'near'"),
        ({"near.near": 0}, "near.near", "out of range"),
        ({"near.sparsity": 1.0}, "near.sparsity", "has to be below 1"),
        ({"near.near": 2, "near.sparsity": 0.5}, "near.near", "is also set by sparsity; give only one of them"),
    ],
)
def test_an_unknown_parameter_is_named(arguments: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Attention.parse("near", arguments=arguments)
    assert error.value.field == field


def test_an_argument_of_an_abbreviation_reaches_each_method() -> None:
    room.METHODS.register("both_prefill", Near)
    room.METHODS.register("both_decode", First)
    assert Attention.parse("both", arguments={"both.sparsity": "0.5"}).methods == (
        Near(sparsity=0.5),
        First(sparsity=0.5),
    )
    assert Attention.parse("both", arguments={"both_prefill.near": 3, "both_decode.first": 4}).methods == (
        Near(near=3), First(first=4),
    )  # fmt: skip
    shared = share_out({"both.sparsity": 0.5, "near.near": 3}, ["both", "both_decode", "near"])
    assert shared == [{"both.sparsity": 0.5}, {"both.sparsity": 0.5}, {"near.near": 3}]
    with pytest.raises(UsageError, match=r"^first\.near: 4 sets no parameter of first"):
        Attention.parse("both", arguments={"both.near": 4})


def test_arguments_reach_all_attentions_with_their_method() -> None:
    given = {"near.near": 3, "loud.loud": 2}
    attentions = ["dense", "near", "near+loud", "loud", "first"]
    assert share_out(given, attentions) == [{}, {"near.near": 3}, given, {"loud.loud": 2}, {}]
    assert share_out({"sparsity": 0.5}, attentions) == [{}, {"sparsity": 0.5}, {}, {"sparsity": 0.5}, {"sparsity": 0.5}]


@pytest.mark.parametrize(
    ("attentions", "path"),
    [
        (["near"], "loud.loud"),
        (["near", "near+loud"], "laud.loud"),
        (["near+loud"], "near"),
        (["dense", "near+loud"], "dense.near"),
        ([], "near.near"),
    ],
)
def test_an_argument_for_none_of_them_is_named(attentions: list[str], path: str) -> None:
    with pytest.raises(UsageError, match=r"belongs to no method in .*write METHOD.PARAMETER=VALUE") as error:
        share_out({path: 8}, attentions)
    assert (error.value.field, error.value.value) == ("set", path)
