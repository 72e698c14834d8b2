"""Scores and steps of evicting methods."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparse_tasks.attention.index import Kept
from sparse_tasks.core.errors import UsageError


def protect(scores: Tensor, first: int, last: int) -> Tensor:
    """Scores ``[heads, columns]`` with +inf in the first and the last columns, so that these are chosen first."""
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
