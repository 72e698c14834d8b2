"""The oracles take what holds most of the attention, written out query by query; also in pieces and in chunks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.method import METHODS
from sparse_tasks.attention.methods.oracle_decode import OracleDecode
from sparse_tasks.attention.methods.oracle_evict import OracleEvict
from sparse_tasks.attention.methods.oracle_lines import OracleLines
from sparse_tasks.attention.methods.oracle_prefill import OraclePrefill
from sparse_tasks.attention.methods.vertical_slash import VerticalSlash
from sparse_tasks.attention.ops import true_mass
from sparse_tasks.attention.steps import Memory
from sparse_tasks.core.errors import UsageError
from tests.attention.methods.naive import Array, attention, make_sequence
from tests.methods import OURS

BLOCK = 16


def by_block(weights: Array, first: int, n_k: int) -> list[list[dict[int, float]]]:
    """Of each head and query block the sums over key blocks up to the diagonal."""
    rows = range(first // BLOCK, math.ceil(n_k / BLOCK))
    sums: list[list[dict[int, float]]] = []
    for of_head in weights:
        sums.append([])
        for row in rows:
            begin, end = max(row * BLOCK, first) - first, min((row + 1) * BLOCK, n_k) - first
            blocks = {c: float(of_head[begin:end, c * BLOCK : (c + 1) * BLOCK].sum()) for c in range(row + 1)}
            sums[-1].append(blocks)
    return sums


@pytest.mark.parametrize("cells", [1, 1 << 22])
@pytest.mark.parametrize(("n_q", "n_k"), [(100, 100), (37, 150), (64, 160)])
def test_prompts_read_the_blocks_with_the_most_mass(
    n_q: int, n_k: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(true_mass, "_CELLS", cells)
    q, k = make_sequence(n_q, n_k, 4, 2, 16)
    index = OraclePrefill(top_k=3, block=BLOCK).select(q, k, impl="torch")
    assert index is not None
    for head, rows in enumerate(by_block(attention(q, k), n_k - n_q, n_k)):
        for row, sums in enumerate(rows):
            *before, diagonal = sorted(sums)
            best = sorted(before, key=lambda column: -sums[column])[:2]
            found = index.blocks[head, row, : index.counts[head, row]].tolist()
            assert found == sorted([*best, diagonal])


@pytest.mark.parametrize("p", [0.0, 0.5, 0.8])
def test_top_p_takes_the_fewest_blocks_that_hold_it(p: float) -> None:
    q, k = make_sequence(120, 120, 2, 1, 16)
    index = OraclePrefill(p=p, block=BLOCK).select(q * 3, k, impl="torch")
    assert index is not None
    for head, rows in enumerate(by_block(attention(q * 3, k), 0, 120)):
        for row, sums in enumerate(rows):
            *before, diagonal = sorted(sums)
            taken, held = [diagonal], sums[diagonal]
            for column in sorted(before, key=lambda column: -sums[column]):
                if held >= p * sum(sums.values()):
                    break
                taken.append(column)
                held += sums[column]
            assert index.blocks[head, row, : index.counts[head, row]].tolist() == sorted(taken)


def test_a_shared_budget_holds_more_than_one_for_each() -> None:
    q, k, _ = structured(700, 4, 2, 32)
    weights = torch.from_numpy(attention(q, k))
    held = []
    for shared in (False, True):
        index = OraclePrefill(sparsity=0.8, block=BLOCK, shared=shared).select(q, k, impl="torch")
        assert index is not None
        assert float(index.seen().double().mean()) / (700 * 701 / 2) == pytest.approx(0.2, abs=0.01)
        held.append(float((weights * index.pattern().mask(700, 700)).sum()))
    assert held[1] > held[0]


@pytest.mark.parametrize("page", [1, 4])
def test_steps_read_the_pages_with_the_most_mass(page: int) -> None:
    """Of a batch, where each sequence has a length of its own."""
    n, lengths = 48, [48, 31]
    q, k = make_sequence(n, n, 4, 2, 16)
    cache = PagedCache.contiguous(
        k.transpose(0, 1)[None].repeat(2, 1, 1, 1),
        k.transpose(0, 1)[None].repeat(2, 1, 1, 1),
        torch.tensor(lengths, dtype=torch.int32),
    )
    queries = torch.stack([q[length - 1] for length in lengths])
    index = OracleDecode(token_budget=12, page=page).select(queries, cache, None, impl="torch")
    top_p = OracleDecode(p=0.7, page=page).select(queries, cache, None, impl="torch")
    for row, length in enumerate(lengths):
        weights = attention(q[length - 1 : length], k[:length])[:, 0].reshape(2, 2, -1).sum(1)
        for head in range(2):
            pages = [weights[head, start : start + page].sum() for start in range(0, length, page)]
            order = sorted(range(len(pages)), key=lambda number: -pages[number])
            current = len(pages) - 1
            best = [current, *(number for number in order if number != current)][: 12 // page]
            assert index.pages[row, head, : index.counts[row, head]].tolist() == sorted(best)
            count = 1 + int(np.argmax(np.cumsum([pages[number] for number in order]) >= 0.7 * sum(pages)))
            assert top_p.pages[row, head, : top_p.counts[row, head]].tolist() == sorted(order[:count])


@pytest.mark.parametrize("grows", [True, False])
def test_eviction_shows_what_each_step_attends_to(grows: bool) -> None:
    n, steps = 60, 4
    q, k = make_sequence(n + steps, n + steps, 4, 2, 16)
    memory = Memory(OracleEvict(capacity=9, grows=grows), impl="torch")
    memory.read(q[:n], k[:n], k[:n])
    for position in range(n, n + steps):
        _, index = memory.step(q[position : position + 1], k[: position + 1], k[: position + 1])
        weights = attention(q[position : position + 1], k[: position + 1])[:, 0].reshape(2, 2, -1).sum(1)
        for head in range(2):
            always = list(range(n, position + 1)) if grows else [position]
            others = sorted((i for i in range(position) if i not in always), key=lambda i: -weights[head, i])
            found = index.pages[0, head, : index.counts[0, head]].tolist()
            assert found == sorted([*others[:9], *always])


def test_lines_are_those_of_all_queries() -> None:
    q, k, _ = structured(500, 4, 2, 32)
    known, all_ = (
        method.select(q, k, impl="torch")
        for method in (OracleLines(sparsity=0.7), VerticalSlash(sparsity=0.7, window=500))
    )
    assert known is not None
    assert all_ is not None
    assert torch.equal(known.columns, all_.columns)
    assert torch.equal(known.bands, all_.bands)


@pytest.mark.parametrize("name", OURS)
def test_every_method_has_an_oracle_of_its_phase_at_its_sparsity(name: str) -> None:
    method = METHODS.get(name)(sparsity=0.8)
    (oracle,) = Attention.of(method).oracle.methods
    assert oracle.control
    assert oracle.name.startswith("oracle_")
    assert (oracle.phase, oracle.sparsity) == (method.phase, 0.8)


def test_without_a_sparsity_there_is_no_oracle() -> None:
    with pytest.raises(UsageError, match="sparsity: None is no budget for the oracle of quest"):
        _ = Attention.parse("quest").oracle


def test_a_short_name_is_a_control_for_each_phase() -> None:
    attention = Attention.parse("oracle", sparsity=0.5, arguments={"oracle_decode.page": 16})
    assert attention.method == "oracle_prefill+oracle_decode"
    assert attention.controls == attention.names
    assert Attention.parse("vertical_slash+random_decode").controls == ["random_decode"]
    assert Attention.parse("dense").controls == []


@pytest.mark.parametrize("name", ["oracle_prefill", "oracle_decode", "oracle_evict"])
def test_a_share_and_a_budget_together_are_refused(name: str) -> None:
    kind = METHODS.get(name)
    for budget in ({"sparsity": 0.5}, {kind.budgets[0]: 64}):
        with pytest.raises(UsageError, match=rf"{name}.p: 0.9 replaces"):
            kind(p=0.9, **budget)
    with pytest.raises(UsageError, match=rf"{name}.shared"):
        kind(shared=True)


def test_the_oracle_needs_no_quadratic_memory(tmp_path: Path) -> None:
    """No tensor of scores is larger than what a single block of queries needs."""
    seen: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                seen.append(out.untyped_storage().nbytes())
            return out

    n = 8192
    q, k = make_sequence(n, n, 2, 1, 16)
    with Watch():
        assert OraclePrefill(sparsity=0.9).select(q, k, impl="torch") is not None
    assert max(seen) <= 4 * (1 << 23) * 1.1 < n * n
