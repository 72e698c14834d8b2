"""A window and the fewest verticals that, with it, hold a share of the sampled queries' attention."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import LineIndex, band_interactions, queries_outside
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.kernels.window_scores import sampled_scores
from sparse_tasks.attention.once import cached_result
from sparse_tasks.attention.softmax import Softmax


@cached_result
def _sampled(device: torch.device, n_q: int, n_k: int, stride: int, block_q: int, reach: int) -> tuple[Tensor, Tensor]:
    """int32 ``[n]`` each: positions of every ``stride``-th query, back from the last, and window starts."""
    positions = torch.arange(n_k - n_q + (n_q - 1) % stride, n_k, stride, dtype=torch.int32, device=device)
    return positions, (torch.div(positions, block_q, rounding_mode="floor") + 1) * block_q - reach


def outside_window(
    q: Tensor, k: Tensor, *, stride: int, bands: int, block_q: int, unit: int, softmax: Softmax, impl: str = "auto"
) -> tuple[Tensor, int]:
    """What sampled queries attend to before their windows, by key.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        stride: Interval of sampled queries, counted back from the last.
        bands: Bands of the window, the first of a ``LineIndex``.
        block_q: Positions in its query blocks.
        unit: Keys in its bands.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[query_heads, n_k]``: sums over the sampled queries; and their number.
    """
    n_q, n_k = len(q), len(k)
    positions, begins = _sampled(q.device, n_q, n_k, stride, block_q, bands * unit)
    some = q[(n_q - 1) % stride :: stride]
    return sampled_scores(some, k, positions, begins, softmax=softmax, impl=impl), len(some)


def columns_that_hold(
    outside: Tensor,
    sampled: int,
    *,
    bands: int,
    n_q: int,
    n_k: int,
    block_q: int,
    unit: int,
    share: float = 1.0,
    density: float | None = None,
    width: int | None = None,
    impl: str = "auto",
) -> LineIndex:
    """The index of a window and verticals for one share for all heads, given or solved from a density.

    Runs on the device without synchronisation.

    Args:
        outside: fp32 ``[heads, n_k]``, as ``outside_window`` gives it.
        sampled: Sampled queries, whose attention is 1 each.
        bands: Bands of the window, enough for a query to see its own block.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
        block_q: Positions in a query block.
        unit: Keys in a band.
        share: Minimum share of the sampled queries' attention that a head's window and verticals hold, in [0, 1].
        density: Instead of ``share``: target interactions over those of dense causal attention, averaged over the
            heads.
        width: Maximum verticals of a head; any number if None.
        impl: "auto", "triton" or "torch".
    """
    heads, device = len(outside), outside.device
    width = n_k if width is None else min(width, n_k)
    tiles = band_interactions(device, n_q, n_k, block_q, unit)
    window = torch.arange(len(tiles), device=device) < bands
    added = queries_outside(window[None], n_q, n_k, block_q, unit)[0].repeat_interleave(unit)[:n_k]
    ranked, order = torch.where(added > 0, outside, float("-inf")).sort(dim=1, descending=True, stable=True)
    # The share lost if a vertical and all after it are omitted. Small ones are summed separately from large ones.
    lost = ranked.clamp_min(0).flip(1).cumsum(1, dtype=torch.float64).flip(1)[:, :width].float() / sampled
    lost = lost.masked_fill(ranked[:, :width] == float("-inf"), float("-inf"))
    if density is None:
        kept = lost > 1 - share
    else:
        target = int(density * causal_count(n_q, n_k) * heads) - heads * tiles[:bands].sum()
        # Among equals lower heads come first, so that the best of each head are taken.
        every, place = lost.flatten().sort(descending=True, stable=True)
        upto = added[order[:, :width]].flatten()[place].cumsum(0)
        fits = (upto <= target) & (every > float("-inf"))
        kept = torch.empty_like(fits).scatter_(0, place, fits).view(lost.shape)
    scores = torch.where(added > 0, outside, float("-inf"))
    columns, counts = select_top(scores, kept.sum(1, dtype=torch.int32), width=width, impl=impl)
    band = torch.arange(bands, dtype=torch.int32, device=device).expand(heads, bands).contiguous()
    band_counts = torch.full((heads,), bands, dtype=torch.int32, device=device)
    return LineIndex(columns, counts, band, band_counts, block_q, unit, n_q, n_k)
