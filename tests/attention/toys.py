"""Methods so small that what they select can be said in a line. They are in no registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparse_tasks.attention.cache import PagedCache
from sparse_tasks.attention.index import BlockIndex, Kept, PageIndex
from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_sequence
from sparse_tasks.attention.method import ONLY, DecodeMethod, EvictMethod, Layer, PrefillMethod
from sparse_tasks.attention.patterns import Pattern
from sparse_tasks.core.parameters import parameter

__all__ = ["BLOCK", "PAGE", "First", "Loud", "Near", "Where", "block_index", "small_llama"]

BLOCK, PAGE = 16, 4


def small_llama(layers: int) -> Any:
    """A Llama of ``transformers`` with random weights and a vocabulary of 64, the same each time."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@dataclass(frozen=True)
class Where(Pattern):
    """A rule of query and key positions as a pattern."""

    rule: Callable[[Tensor, Tensor], Tensor]

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.rule(query, key)


def block_index(kept: Tensor, block_q: int, block_k: int, n_q: int, n_k: int) -> BlockIndex:
    """The index of bool ``[heads, rows, columns]``, without blocks after the diagonal."""
    last = (torch.arange(1, kept.shape[1] + 1) + (n_k - n_q) // block_q) * block_q
    kept = kept & (torch.arange(kept.shape[2]) * block_k < last[:, None])
    counts = kept.sum(2, dtype=torch.int32)
    order = kept.int().argsort(dim=2, descending=True, stable=True)
    return BlockIndex(order[..., : max(1, int(counts.max()))].int().contiguous(), counts, block_q, block_k, n_q, n_k)


@dataclass(frozen=True, kw_only=True)
class Near(PrefillMethod):
    """The first block of keys, and the ``near`` blocks up to the query's own."""

    near: int | None = parameter(None, "blocks up to the query's own", 1, kind=int)
    at_once: int = parameter(0, "queries selected for at once; 0: all", 0)

    name: ClassVar[str] = "near"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("near",)

    @property
    def queries_at_once(self) -> int | None:
        return self.at_once or None

    def solve(self, length: int, density: float) -> dict[str, int]:
        return {"near": max(1, round(length * density / BLOCK))}

    def select(self, q: Tensor, k: Tensor, *, length: int | None = None, impl: str = "auto") -> BlockIndex | None:
        check_sequence(q, k)
        n_q, n_k = len(q), len(k)
        near = self.at(n_k if length is None else length).near or 2
        if near >= ceil_div(n_k, BLOCK):
            return None
        row = torch.arange(BlockIndex.rows(n_q, n_k, BLOCK))[:, None] + (n_k - n_q) // BLOCK
        column = torch.arange(ceil_div(n_k, BLOCK))
        return block_index(((row - column < near) | (column == 0))[None], BLOCK, BLOCK, n_q, n_k)


@dataclass(frozen=True, kw_only=True)
class Loud(DecodeMethod):
    """The ``loud`` pages whose keys, summed, have the largest product with the queries of the group, summed."""

    loud: int | None = parameter(None, "pages", 1, kind=int)

    name: ClassVar[str] = "loud"
    exact: ClassVar[bool] = False
    budgets: ClassVar[tuple[str, ...]] = ("loud",)

    def new_state(self, cache: PagedCache) -> Tensor:
        pages = len(cache.keys) * ceil_div(cache.block_size, PAGE)
        return torch.zeros(pages, cache.kv_heads, cache.head_size)

    def update(self, state: Tensor | None, keys: Tensor, slots: Tensor, block_size: int, *, impl: str = "auto") -> None:
        assert state is not None
        page = slots // block_size * ceil_div(block_size, PAGE) + slots % block_size // PAGE
        state.index_add_(0, page, keys.float())

    def select(self, q: Tensor, cache: PagedCache, state: Tensor | None, *, impl: str = "auto") -> PageIndex:
        assert state is not None
        batch, _, size = q.shape
        group = q.view(batch, cache.kv_heads, -1, size).sum(2).float()
        each = state.view(batch, -1, cache.kv_heads, size)  # a block a sequence
        scores = torch.einsum("bhd,bphd->bhp", group, each)
        count = min(self.loud or 2, scores.shape[2])
        pages = scores.topk(count).indices.sort().values.int()
        return PageIndex(pages, torch.full(pages.shape[:2], count, dtype=torch.int32), PAGE, cache.lengths)


@dataclass(frozen=True, kw_only=True)
class First(EvictMethod):
    """The first ``first`` tokens of the prompt, one more in every later layer, and all that follow it."""

    first: int | None = parameter(None, "tokens", 1, kind=int)

    name: ClassVar[str] = "first"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("first",)

    def solve(self, length: int, density: float) -> dict[str, int]:
        return {"first": max(1, round(length * density))}

    def keep(
        self,
        q: Tensor,
        k: Tensor,
        *,
        v: Tensor | None = None,
        length: int | None = None,
        layer: Layer = ONLY,
        impl: str = "auto",
    ) -> Kept:
        check_sequence(q, k)
        first = self.at(len(k) if length is None else length).first or 2
        count = min(len(k), first + layer.index)
        positions = torch.arange(count, dtype=torch.int32).repeat(k.shape[1], 1)
        return Kept(positions, torch.full((k.shape[1],), count, dtype=torch.int32), len(k))
