"""Scores and decoding steps of evicting methods."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparse_tasks.attention.index import Kept, KeptBatch
from sparse_tasks.core.errors import UsageError


def protect(scores: Tensor, first: int, last: int) -> Tensor:
    """Scores ``[heads, columns]`` with +inf in the first and the last columns, so these are chosen first."""
    column = torch.arange(scores.shape[1], device=scores.device)
    return scores.masked_fill((column < first) | (column >= scores.shape[1] - last), float("inf"))


def check_step(name: str, seen: Kept, weights: Tensor | None) -> Tensor:
    """The weights of a step, fp32: one for each token that it sees, including its own, the last.

    Raises:
        UsageError: They are missing, or their number differs.
    """
    shape = tuple(seen.positions.shape)
    if weights is None:
        raise UsageError("weights", None, f"are what {name} evicts by at each step; give fp32 {shape}")
    if tuple(weights.shape) != shape:
        raise UsageError("weights", tuple(weights.shape), f"has to be {shape}: the kept tokens and the new one")
    return weights.float()


def listing(seen: KeptBatch, columns: Tensor, counts: Tensor) -> KeptBatch:
    """A selection of the tokens that a step could see.

    Args:
        seen: All of them.
        columns: int32 ``[batch, kv_heads, width]``: their indices, ascending; undefined past the count.
        counts: int32 ``[batch, kv_heads]``.
    """
    places = columns.clamp(0, seen.positions.shape[2] - 1).long()
    return replace(seen, positions=seen.positions.gather(2, places), counts=counts)


def mark_written(seen: KeptBatch) -> KeptBatch:
    """What a step saw, with its own token, the last, marked as written since the prompt by a score of +inf."""
    if seen.scores is None:
        raise UsageError("kept.scores", None, "say what was written since the prompt; a method that marks it sets them")
    own = torch.arange(seen.scores.shape[2], device=seen.scores.device) == seen.counts[..., None] - 1
    return replace(seen, scores=seen.scores.masked_fill(own, float("inf")))


def written(seen: KeptBatch) -> Tensor:
    """Bool ``[batch, kv_heads, width]``: the tokens that ``mark_written`` has marked, and a step's own.

    Raises:
        UsageError: There are no marks.
    """
    if seen.scores is None:
        raise UsageError("kept.scores", None, "say what was written since the prompt; a method that marks it sets them")
    place, last = torch.arange(seen.scores.shape[2], device=seen.scores.device), seen.counts[..., None] - 1
    return (place == last) | ((seen.scores == float("inf")) & (place < last))


def drop_lowest(seen: KeptBatch, scores: Tensor, recent: int | Tensor = 0) -> KeptBatch:
    """What a step saw without the token of the lowest score in each head, if there are more than its capacity.

    Args:
        seen: The tokens with the step's own; a head has at most one more than its capacity.
        scores: fp32 ``[batch, kv_heads, width]``.
        recent: Number of last tokens that are always kept; or int32 ``[batch]``.
    """
    sizes = tuple(map(min, seen.sizes, seen.limits))
    if sizes == seen.sizes:
        return seen
    width = scores.shape[2]
    place = torch.arange(width, device=scores.device)
    over = seen.counts > seen.capacities[:, None]
    safe = recent[:, None] if isinstance(recent, Tensor) else recent
    may_go = place < (seen.counts - safe)[..., None]
    lowest = torch.where(over, scores.masked_fill(~may_go, float("inf")).argmin(2), width)[..., None]
    place = place[: max(sizes)]
    stay = (place + (place >= lowest)).clamp_max(width - 1)  # skips the lowest
    return replace(
        seen,
        positions=seen.positions.gather(2, stay),
        counts=seen.counts - over.int(),
        sizes=sizes,
        scores=None if seen.scores is None else seen.scores.gather(2, stay),
    )
