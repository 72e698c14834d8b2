"""What all evicting methods share: a number of tokens that stay, those of the highest scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import Kept
from sparse_tasks.attention.kernels.dispatch import check_sequence
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.method import ONLY, EvictMethod, Layer
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.parameters import parameter

__all__ = ["CapacityMethod", "check_step", "drop_lowest", "protect"]

_CAPACITY: Final = 1024  # where neither a capacity nor a sparsity is given


@dataclass(frozen=True, kw_only=True)
class CapacityMethod(EvictMethod):
    """Each KV head keeps ``capacity`` tokens of a prompt; all of one that has no more."""

    capacity: int | None = parameter(
        None, "tokens that a KV head keeps; 1024 if neither this nor sparsity is given", 1, kind=int
    )

    unit: ClassVar[str] = "tokens"
    budget: ClassVar[str] = "uniform"
    cache: ClassVar[str] = "evicted after the prompt"
    exact: ClassVar[bool] = True
    budgets: ClassVar[tuple[str, ...]] = ("capacity",)

    def solve(self, length: int, density: float) -> dict[str, int]:
        """As many tokens as ``length * density`` holds whole, its error of rounding aside."""
        return {"capacity": max(1, math.floor(round(length * density, 6)))}

    def tokens(self, length: int, n_k: int, layer: Layer) -> int:
        """How many tokens a KV head keeps, of ``n_k``, with a budget solved for ``length``."""
        capacity = self.at(length).capacity
        return _CAPACITY if capacity is None else capacity

    def fixed(self, capacity: int) -> tuple[int, int]:
        """How many of the first and of the last tokens stay whatever their scores; they count."""
        return 0, 0

    @abstractmethod
    def scores(self, q: Tensor, k: Tensor, *, impl: str = "auto") -> Tensor:
        """fp32 ``[kv_heads, n_k]``: the higher, the sooner a token stays. Arguments as of ``keep``."""

    def keep(self, q: Tensor, k: Tensor, *, length: int | None = None, layer: Layer = ONLY, impl: str = "auto") -> Kept:
        check_sequence(q, k)
        capacity = self.tokens(len(k) if length is None else length, len(k), layer)
        return self.choose(self.scores(q, k, impl=impl), capacity, impl=impl)

    def choose(self, scores: Tensor, capacity: int, *, impl: str = "auto") -> Kept:
        """The tokens of highest scores, ``[kv_heads, n_k]``, with those that stay whatever theirs."""
        n_k = scores.shape[1]
        positions, counts = select_top(protect(scores, *self.fixed(capacity)), min(capacity, n_k), impl=impl)
        return Kept(positions, counts, n_k, capacity=capacity if self.each_step else None)


def protect(scores: Tensor, first: int, last: int) -> Tensor:
    """Scores ``[heads, columns]`` with +inf for the first and last columns, which so are chosen first."""
    column = torch.arange(scores.shape[1], device=scores.device)
    return scores.masked_fill((column < first) | (column >= scores.shape[1] - last), float("inf"))


def check_step(name: str, kept: Kept, weights: Tensor | None) -> tuple[int, Tensor]:
    """The capacity, and the weights of a step, fp32: one for each kept token and one for the new one.

    Raises:
        UsageError: There are no weights, or not as many, or the method did not keep these tokens itself.
    """
    shape = (kept.positions.shape[0], kept.positions.shape[1] + 1)
    if kept.capacity is None:
        raise UsageError("kept.capacity", None, f"has to be a number of tokens, as {name} sets it after the prompt")
    if weights is None:
        raise UsageError("weights", None, f"are what {name} evicts by at each step; give fp32 {shape}")
    if tuple(weights.shape) != shape:
        raise UsageError("weights", tuple(weights.shape), f"has to be {shape}: the kept tokens and the new one")
    return kept.capacity, weights.float()


def drop_lowest(kept: Kept, scores: Tensor, capacity: int, recent: int) -> Kept:
    """``kept`` without the token of the lowest score, one of each head, if there are more than ``capacity``.

    Args:
        kept: With the new token; ``counts`` are ``width``, at most one above the capacity.
        scores: fp32 ``[kv_heads, width]``.
        capacity: Tokens that may stay.
        recent: So many of the last tokens stay whatever their scores.
    """
    width = scores.shape[1]
    if width <= capacity:
        return kept
    lowest = protect(scores, 0, recent).argmin(1, keepdim=True)
    place = torch.arange(width - 1, device=scores.device)
    stay = place + (place >= lowest)  # [kv_heads, width - 1]: from the lowest on, the next
    left = None if kept.scores is None else kept.scores.gather(1, stay)
    return replace(kept, positions=kept.positions.gather(1, stay), counts=kept.counts - 1, scores=left)
