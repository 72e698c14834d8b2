"""Guards what all layers agree on: nothing before the last has had its say, then the same for all."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.agreement import Agreement
from sparse_tasks.attention.attention import Attention
from sparse_tasks.attention.examples import structured
from sparse_tasks.attention.huggingface import sparse_attention
from sparse_tasks.attention.index import Kept
from sparse_tasks.attention.method import Layer
from sparse_tasks.attention.methods.snapkv_blocks import SnapKVBlocks
from sparse_tasks.attention.steps import Memory
from sparse_tasks.core.errors import EngineError
from tests.attention.test_huggingface import generate, llama, tokens

METHOD = SnapKVBlocks(sparsity=0.7, block=16, recent=16, window=8)


def ranks(layers: int, blocks: int) -> list[Tensor]:
    return list(torch.rand(layers, 2, blocks, generator=torch.Generator().manual_seed(layers)))


@pytest.mark.parametrize("length", [1, 16, 17, 160, 171])
def test_kept_and_dropped_positions_cover_the_prompt(length: int) -> None:
    agreement = Agreement(METHOD, 3, length, "torch")
    for rank in ranks(3, -(-length // 16)):
        agreement.add(rank)
    kept, dropped = agreement.kept(5), agreement.dropped()
    assert kept.positions.shape[0] == 5
    assert kept.counts.tolist() == [kept.positions.shape[1]] * 5
    gone = [position for run in dropped for position in run]
    assert sorted([*kept.positions[3].tolist(), *gone]) == list(range(length))
    assert all(one.stop < two.start for one, two in pairwise(dropped))
    assert bool(dropped) is (length > 16)


def test_nothing_is_chosen_before_the_last_layer() -> None:
    agreement = Agreement(METHOD, 3, 160, "torch")
    for rank in ranks(2, 10):
        agreement.add(rank)
        assert not agreement.reached
        with pytest.raises(EngineError, match=r"snapkv_blocks chooses for all layers at once, and . of 3 layers have"):
            agreement.kept(2)
    agreement.add(ranks(1, 10)[0])
    assert agreement.reached
    assert agreement.kept(2).length == 160


def test_equal_layers_keep_the_same() -> None:
    handed, read = dict[object, object](), []
    memories = [Memory(METHOD, Layer(number, 3), "torch") for number in range(3)]
    for number, memory in enumerate(memories):
        q, k, v = structured(161, seed=number)
        memory.read(q[:160], k[:160], v[:160], handed)
        read.append((q, k, v))
    together = [memory.step(q[160:], k, v)[1] for memory, (q, k, v) in zip(memories, read, strict=True)]
    assert len({str(index.pages.tolist()) for index in together}) == 1
    alone = []
    for number, (q, k, v) in enumerate(read):
        memory = Memory(METHOD, Layer(number, 3), "torch")
        memory.read(q[:160], k[:160], v[:160])
        alone.append(memory.step(q[160:], k, v)[1])
    assert len({str(index.pages.tolist()) for index in alone}) > 1


def test_all_layers_of_a_model_keep_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each sequence of a batch its own."""
    made, own = list[Kept](), Kept.alike

    def noted(positions: Tensor, kv_heads: int, length: int) -> Kept:
        made.append(own(positions, kv_heads, length))
        return made[-1]

    monkeypatch.setattr(Kept, "alike", noted)
    with sparse_attention(model := llama(), Attention.of(METHOD), impl="torch"):
        generate(model, *tokens(150, 120))
    first, second = made[0::2], made[1::2]
    assert [kept.length for kept in first] == [150, 150]
    assert [kept.length for kept in second] == [120, 120]
    for one, two in (first, second):
        assert torch.equal(one.positions, two.positions)
