"""Synthetic queries, keys and values with the structure of real heads, for pictures and examples."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from sparse_tasks.attention.interactions import ceil_div
from sparse_tasks.attention.kernels.dispatch import check_heads, check_size
from sparse_tasks.core.errors import UsageError

_SINKS: Final = 4
_TOPICS: Final = 8
_STRENGTHS: Final = (
    # pull of strong tokens, of distances, of topics; in units of a logit
    (7.0, 3.0, 1.5),  # a head of verticals
    (3.0, 8.0, 1.0),  # of slashes
    (3.0, 4.0, 6.0),  # of topics
    (5.0, 6.0, 3.0),  # a bit of everything
)


def structured(
    n: int,
    query_heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 64,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one sequence with model-like sparse attention.

    One half of a head's dimensions encodes content: all keys except the first four (sinks) and a few strong tokens
    (verticals) point away from the queries; stretches of text share a topic, which their queries attend to elsewhere.
    The other half rotates with the position as in RoPE (Su et al., 2021, arXiv:2104.09864): attention decays with
    distance, and rises again at a distance specific to each head (slashes). Query heads cycle through four mixtures of
    these.

    Args:
        n: Tokens.
        query_heads: A multiple of ``kv_heads``.
        kv_heads: KV heads.
        head_size: A multiple of 16, up to 256.
        seed: Seed; numbers are drawn on the CPU, so results only differ by a device's rounding.
        device: Where to compute them.

    Returns:
        q fp32 ``[n, query_heads, head_size]``, k and v fp32 ``[n, kv_heads, head_size]``.

    Raises:
        UsageError: Heads or head size do not fit, or ``n`` is below 1.
    """
    if n < 1 or kv_heads < 1 or query_heads < 1:
        field, value = next(
            (f, v) for f, v in (("n", n), ("kv_heads", kv_heads), ("query_heads", query_heads)) if v < 1
        )
        raise UsageError(field, value, "has to be at least 1")
    check_heads(query_heads, kv_heads)
    check_size("head_size", head_size)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    group, half = query_heads // kv_heads, head_size // 2

    strong = uniform(n, kv_heads) < 24 / max(n, 48)
    heights = torch.where(strong, uniform(n, kv_heads) * 0.4, 1.0)
    heights[:_SINKS] = -0.1
    topics = torch.nn.functional.normalize(normal(_TOPICS, half - 1), dim=1)
    stretch = max(1, n // 24)
    topic = topics[(uniform(ceil_div(n, stretch)) * _TOPICS).long()].repeat_interleave(stretch, 0)[:n]
    far = (uniform(kv_heads) * 0.6 + 0.1) * n

    k = torch.cat(
        [
            heights[..., None],
            (topic[:, None] + 0.08 * normal(n, kv_heads, half - 1)).expand(n, kv_heads, -1),
            _turned(torch.arange(n, device=device)[:, None].expand(n, kv_heads).float(), half),
        ],
        dim=2,
    )
    # Two queries in one: half of the rotated pairs attend to near keys, the others at the head's distance.
    position = torch.arange(n, device=device)[:, None].float()
    near = _turned(position.expand(n, query_heads), half)
    away = _turned(position - far.repeat_interleave(group), half)
    pair = torch.arange(half, device=device) // 2 % 2 == 0
    turned = torch.where(pair, near, away)

    pull = torch.tensor([_STRENGTHS[h % len(_STRENGTHS)] for h in range(query_heads)], device=device)
    looks_for = (topic[:, None] + 0.08 * normal(n, query_heads, half - 1)) * pull[:, 2:3]
    q = torch.cat([-pull[:, :1].expand(n, -1, -1), looks_for, turned * pull[:, 1:2] * 4 / half], dim=2)
    v = normal(n, kv_heads, head_size)
    return q * head_size**0.5, k, v  # cancels the scale of the scores


def _turned(angle: Tensor, size: int) -> Tensor:
    """Pairs of cosine and sine, ``[..., size]``, at frequencies that fall from 1 to 1/10,000 of a turn per token."""
    speed = 10_000.0 ** -(torch.arange(0, size, 2, device=angle.device).repeat_interleave(2) / size)
    phase = angle[..., None] * speed
    return torch.where(torch.arange(size, device=angle.device) % 2 == 0, phase.cos(), phase.sin())
