"""Line indices from verticals and slashes, and the numbers of lines for a density."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.index import LineIndex
from sparse_tasks.attention.interactions import causal_count, ceil_div
from sparse_tasks.attention.kernels.line_counts import LineCounts, line_counts
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.once import cached_result

_TRIED: Final = 48  # numbers of lines tried at once


def line_index(
    columns: Tensor,
    column_counts: Tensor,
    slashes: Tensor,
    slash_counts: Tensor,
    *,
    block_q: int,
    unit: int,
    n_q: int,
    n_k: int,
    impl: str = "auto",
) -> LineIndex:
    """The index of verticals and of the bands that slashes cross, on the device, without synchronisation.

    For a query block that ends before position ``e``, the slash at distance ``d`` crosses the keys from ``e - block_q -
    d`` to ``e - 1 - d``, which are in the bands from ``d // unit`` to ``(d + block_q - 1) // unit``.

    Args:
        columns, column_counts, slashes, slash_counts, block_q, unit, n_q, n_k: As the attributes of ``LineIndex``.
        impl: "auto", "triton" or "torch".
    """
    number = ceil_div(n_k, unit) + block_q // unit
    valid = torch.arange(slashes.shape[1], device=slashes.device) < slash_counts[:, None]
    slash = torch.where(valid, slashes, number * unit)[..., None]  # entries past the count cross bands that are cut off
    last = (slash + (block_q - 1)) // unit
    band = (slash // unit + torch.arange(block_q // unit + 1, device=slashes.device)).minimum(last)
    crossed = torch.zeros(len(slashes), number + 1, dtype=torch.float32, device=slashes.device)
    crossed.scatter_(1, band.clamp_max(number).flatten(1).long(), 1.0)
    scores = torch.where(crossed[:, :number] > 0, 0.0, float("-inf"))
    bands, band_counts = select_top(scores, number, impl=impl)
    return LineIndex(columns, column_counts, bands, band_counts, block_q, unit, n_q, n_k, slashes, slash_counts)


def lines_for_density(
    vertical: Tensor,
    slash: Tensor,
    *,
    n_q: int,
    density: float,
    block_q: int,
    unit: int,
    fewest: int = 1,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The numbers of lines whose ``LineIndex`` has a given density, averaged over the heads.

    As many verticals as slashes, to within 1% of the maximum; the rest of the density goes to verticals, each of which
    adds little. Runs on the device without synchronisation.

    Args:
        vertical: fp32 ``[heads, n_k]``: scores by position; +inf comes first.
        slash: fp32 ``[heads, n_k]``: scores by distance; distance 0 must have +inf.
        n_q: Queries; they are the last of the ``n_k`` positions.
        density: Target interactions over those of dense causal attention.
        block_q: Queries in the tiles that slashes are rounded up to.
        unit: Keys in these tiles; it divides ``block_q``.
        fewest: Minimum number of slashes, at most ``n_k``, unless they alone take more than half of the density.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[]`` each: verticals and slashes, at least 1 each, even if these exceed the density.
    """
    heads, n_k = vertical.shape
    target = math.floor(density * causal_count(n_q, n_k) * heads)
    order, rank = _ranked(vertical)
    best = best_by_band(_ranked(slash)[1], block_q, unit)

    def count(lines: Tensor, rank: Tensor | None = None) -> LineCounts:
        return line_counts(best, lines, rank, n_q=n_q, n_k=n_k, block_q=block_q, unit=unit, impl=impl)

    low = torch.full((1,), fewest, dtype=torch.int32, device=vertical.device)
    high = torch.full_like(low, n_k)
    low = torch.where(2 * count(low).computed <= target, low, torch.ones_like(low))
    for shares in _shares(vertical.device, n_k):
        some = (low + (high - low) * shares).round().int()
        fitting = (count(some, rank).computed <= target).sum(0, keepdim=True)  # monotonic in the number of lines
        low, high = some.take((fitting - 1).clamp_min(0)), some.take(fitting.clamp_max(_TRIED - 1))
    computed, alone = count(low)
    if alone is None:
        raise RuntimeError("line_counts gave no counts by unit")
    added = alone[0].gather(1, torch.div(order, unit, rounding_mode="floor")).sum(0).cumsum(0)
    verticals = (added + computed <= target).sum(dtype=torch.int32)
    return verticals.clamp_min(1), low[0]


@cached_result
def _shares(device: torch.device, n: int) -> tuple[Tensor, Tensor]:
    """Steps of a search for a number from 1 to ``n``, first geometric, then linear between two of these; float64 each.

    Many are tried at once, since a device computes a few dozen in hardly more time than one. The result is within 1%,
    which is fine enough.
    """
    even = torch.linspace(0, 1, _TRIED, dtype=torch.float64, device=device)
    return (n**even - 1) / max(1, n - 1), even


def _ranked(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Columns ``[heads, n]`` by descending score, lower ones first among equals; and the rank of each column."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device).expand_as(order)
    return order, torch.empty_like(order, dtype=torch.int32).scatter_(1, order, place)


def best_by_band(rank: Tensor, block_q: int, unit: int) -> Tensor:
    """int32 ``[heads, bands]``: the rank of the best slash that crosses a band.

    Band ``b`` is crossed at the distances from ``unit * b - block_q + 1`` to ``unit * (b + 1) - 1``: all of some units,
    and all but the first distance of the unit before them.
    """
    (heads, n_k), per_row = rank.shape, block_q // unit
    units = ceil_div(n_k, unit)
    cut = torch.nn.functional.pad(rank, (0, units * unit - n_k), value=n_k).view(heads, units, unit)
    best = torch.full((heads, units + per_row), n_k, dtype=torch.int32, device=rank.device)
    for step in range(per_row):
        best[:, step : step + units] = best[:, step : step + units].minimum(cut.amin(2))
    if unit > 1:
        best[:, per_row:] = best[:, per_row:].minimum(cut[..., 1:].amin(2))
    return best
