"""Guards how methods are found, composed and given their parameters, on methods of its own."""

from __future__ import annotations

from typing import Any

import pytest

from sparse_tasks.attention import attention as room
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.method import EvictMethod, Method, Phase
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.registry import Registry
from tests.attention.toys import First, Loud, Near


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with the toys alone."""
    registry: Registry[type[Method]] = Registry("attention", lambda: None)
    for kind in (Near, Loud, First):
        registry.register(kind.name, kind)
    monkeypatch.setattr(room, "METHODS", registry)


# --- composition --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefill", "decode"),
    [
        ("dense", None, None),
        ("near", Near(), None),
        ("loud", None, Loud()),
        ("first", None, First()),
        ("near+loud", Near(), Loud()),
        ("near+first", Near(), First()),
    ],
)
def test_each_method_acts_in_its_phase(name: str, prefill: Any, decode: Any) -> None:
    attention = Attention.parse(name)
    assert (attention.prefill, attention.decode) == (prefill, decode)
    assert attention.method == name


def test_the_order_does_not_matter() -> None:
    assert Attention.parse("loud+near") == Attention.parse("near+loud")
    assert Attention.parse("first+near").method == "near+first"


def test_sparsity_is_for_all() -> None:
    near, first = Attention.parse("near+first", sparsity=0.75).methods
    assert (near, first) == (Near(sparsity=0.75), First(sparsity=0.75))
    assert Attention.parse("near+first").methods == (Near(), First())
    assert Attention.parse("dense").methods == ()


def test_arguments_go_to_their_method_as_values_or_texts() -> None:
    attention = Attention.parse("near+loud", arguments={"near.near": "3", "near.at_once": 64, "loud.sparsity": "0.5"})
    assert attention.methods == (Near(near=3, at_once=64), Loud(sparsity=0.5))


def test_the_method_may_be_left_out_where_there_is_one() -> None:
    assert Attention.parse("near", arguments={"near": 3}).prefill == Near(near=3)
    assert Attention.parse("near", arguments={"near.near": 3}).prefill == Near(near=3)


def test_an_argument_goes_before_the_sparsity_of_all() -> None:
    attention = Attention.parse("near+loud", sparsity=0.9, arguments={"near.sparsity": 0.5})
    assert attention.methods == (Near(sparsity=0.5), Loud(sparsity=0.9))


@pytest.mark.parametrize(
    ("name", "value", "suggested"),
    [
        ("naer", "naer", "did you mean 'near'"),
        ("near+laud", "laud", "did you mean 'loud'"),
        ("zzz", "zzz", "choose from first, loud, near"),
        ("", "", "choose from first, loud, near"),
        ("near+", "", "choose from"),
        ("near+dense", "dense", "choose from"),  # dense is what a phase has without a method
    ],
)
def test_an_unknown_method_is_named(name: str, value: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=suggested) as error:
        Attention.parse(name)
    assert (error.value.field, error.value.value) == ("attention", value)


def test_dense_attention_takes_no_sparsity() -> None:
    assert Attention.parse("dense", sparsity=0.0).method == "dense"
    with pytest.raises(UsageError, match="takes no sparsity; name a method") as error:
        Attention.parse("dense", sparsity=0.5)
    assert (error.value.field, error.value.value) == ("attention", "dense")


@pytest.mark.parametrize("name", ["near+near", "loud+loud", "loud+first", "first+loud", "near+loud+first"])
def test_two_methods_of_one_phase_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="two methods of one phase; one for prefill and one for decode or evict") as e:
        Attention.parse(name)
    assert (e.value.field, e.value.value) == ("attention", name)


@pytest.mark.parametrize(
    ("name", "path", "remedy"),
    [
        ("near+loud", "first.first", "is of no method in 'near+loud'; write near.first, loud.first"),
        ("near+loud", "sparsity", "is of no method in 'near+loud'; write near.sparsity, loud.sparsity"),
        ("near", "loud.loud", "is of no method in 'near'; write near.loud"),
        ("near", ".near", "is of no method in 'near'; write near.near"),
    ],
)
def test_an_argument_of_no_method_is_named(name: str, path: str, remedy: str) -> None:
    with pytest.raises(UsageError) as error:
        Attention.parse(name, arguments={path: 1})
    assert (error.value.field, error.value.value, error.value.remedy) == ("argument", path, remedy)


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"near.naer": 1}, "near.naer", "did you mean 'near'"),
        ({"near.near": 0}, "near.near", "out of range"),
        ({"near.near": "few"}, "near.near", "no whole number"),
        ({"near.sparsity": 1.0}, "near.sparsity", "has to be below 1"),
        ({"near.near": 2, "near.sparsity": 0.5}, "near.near", "is what sparsity would set; give one of the two"),
    ],
)
def test_a_parameter_that_a_method_does_not_take_is_named(
    arguments: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Attention.parse("near", arguments=arguments)
    assert error.value.field == field


# --- budgets ------------------------------------------------------------------------------------------------


def test_at_a_length_an_exact_method_has_its_budget() -> None:
    method = Near(sparsity=0.75, at_once=32)
    assert method.at(640) == Near(near=10, at_once=32)
    assert method.at(1280) == Near(near=20, at_once=32)
    assert method == Near(sparsity=0.75, at_once=32)  # as it was


@pytest.mark.parametrize("method", [Near(), Near(near=3), Loud(), Loud(loud=2), Loud(sparsity=0.5)])
def test_at_a_length_others_are_as_they_were(method: Method) -> None:
    """They have their budget, or adapt it to the content."""
    assert method.at(1000) is method


def test_what_is_solved_stays_solved() -> None:
    solved = First(sparsity=0.5).at(100)
    assert solved == First(first=50)
    assert solved.at(900) is solved


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, "half", True, float("nan")])
def test_sparsity_is_a_share_below_one(sparsity: Any) -> None:
    with pytest.raises(UsageError) as error:
        Near(sparsity=sparsity)
    assert error.value.field == "near.sparsity"
    with pytest.raises(UsageError) as error:
        Attention.parse("near+loud", sparsity=sparsity)
    assert error.value.field == "sparsity"


# --- what a method need not say -------------------------------------------------------------------------------


def test_phases_are_those_of_the_bases() -> None:
    assert [kind.phase for kind in (Near, Loud, First)] == [Phase.PREFILL, Phase.DECODE, Phase.EVICT]


@pytest.mark.parametrize(("at_once", "expected"), [(0, [100]), (100, [100]), (64, [64, 36]), (33, [33, 33, 33, 1])])
def test_queries_are_taken_in_turn_from_the_first_on(at_once: int, expected: list[int]) -> None:
    assert Near(at_once=at_once).stretches(100, 300, 300) == expected


def test_what_a_method_looks_at_is_for_it_to_say() -> None:
    assert Near().observes == 0
    assert First().observes is None
    assert Loud().unshared is None
    assert Near().unshared == "what the queries of a prompt see depends on all of it"
    assert First().unshared == "what stays of a prompt follows from queries that would not be computed again"


@pytest.mark.parametrize("few", [None, 4, 100])
def test_of_a_prompt_in_chunks_the_queries_are_remembered_that_are_looked_at(few: int | None) -> None:
    """Copied, for the next step is written over them."""
    import torch

    class Looks(First):
        @property
        def observes(self) -> int | None:
            return few

        def keep(self, q: Any, k: Any, **options: Any) -> Any:
            return q, k, options

    q, k = torch.arange(12.0)[:, None, None].expand(12, 4, 16).clone(), torch.zeros(12, 2, 16)
    method, seen = Looks(), None
    for start, end in ((0, 3), (3, 5), (5, 12)):
        chunk = q[start:end].clone()
        seen = method.observe(seen, chunk, k[:end])
        chunk.zero_()
    assert seen is not None
    assert torch.equal(seen, q[-(few or 12) :])
    last, keys, options = method.settle(seen, k, length=20, impl="torch")
    assert last is seen
    assert keys is k
    assert (options["length"], options["impl"]) == (20, "torch")


def test_after_a_step_its_own_token_stays() -> None:
    import torch

    method = First(first=3)
    kept = method.keep(torch.zeros(9, 4, 16), torch.zeros(9, 2, 16))
    assert not EvictMethod.each_step
    later = method.advance(method.advance(kept, 9), 10)
    assert later.positions[:, :5].tolist() == [[0, 1, 2, 9, 10]] * 2
    assert (later.counts.tolist(), later.length) == ([5, 5], 11)
