"""Guards what the base classes of methods say, on methods of its own."""

from __future__ import annotations

from typing import Any

import pytest

from sparse_tasks.attention.method import EvictMethod
from tests.attention.toys import First, Loud, Near


@pytest.mark.parametrize(("at_once", "expected"), [(0, [100]), (100, [100]), (64, [64, 36]), (33, [33, 33, 33, 1])])
def test_queries_are_taken_in_order(at_once: int, expected: list[int]) -> None:
    assert Near(at_once=at_once).stretches(100, 300, 300) == expected


def test_a_method_declares_the_queries_it_observes() -> None:
    assert Near().observes == 0
    assert First().observes is None
    assert Loud().unshared is None
    assert Near().unshared == "what the queries of a prompt see depends on all of it"
    assert First().unshared == "what stays of a prompt follows from queries that would not be computed again"


@pytest.mark.parametrize("few", [None, 4, 100])
def test_observed_queries_of_earlier_chunks_are_remembered(few: int | None) -> None:
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
    last, keys, options = method.settle(seen, k, v=k + 1, length=20, impl="torch")
    assert last is seen
    assert keys is k
    assert torch.equal(options["v"], k + 1)
    assert (options["length"], options["impl"]) == (20, "torch")


def test_a_steps_own_token_is_kept() -> None:
    import torch

    method = First(first=3)
    kept = method.keep(torch.zeros(9, 4, 16), torch.zeros(9, 2, 16))
    assert not EvictMethod.each_step
    later = method.advance(method.advance(kept, 9), 10)
    assert later.positions[:, :5].tolist() == [[0, 1, 2, 9, 10]] * 2
    assert (later.counts.tolist(), later.length) == ([5, 5], 11)
