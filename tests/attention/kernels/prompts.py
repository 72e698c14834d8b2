"""Shared by tests of prefill kernels: inputs, attention in the precision of its inputs, a tolerance."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import PrefillIndex
from sparse_tasks.attention.prefill import attend
from sparse_tasks.attention.reference import attention_reference

__all__ = ["attention_in", "check", "close", "epsilon", "make_prompt"]


def make_prompt(
    n_q: int, n_k: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, seed: int, value: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v: views of a fused projection, with NaN wherever none of them has a number.

    Values have ``value`` numbers; ``size``, as keys have, if None.
    """
    value, maker = size if value is None else value, torch.Generator().manual_seed(seed)
    fused = torch.full((n_k + 70, heads + 2 * kv_heads, max(size, value) + 48), float("nan"), dtype=dtype)
    q, k, v = fused[:n_k].split([heads, kv_heads, kv_heads], dim=1)
    q, k, v = q[n_k - n_q :, :, :size], k[..., :size], v[..., :value]
    for x in (q, k, v):
        x.copy_(torch.randn(x.shape, generator=maker))
    return q, k, v


def attention_in(dtype: torch.dtype, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Attention with matrix products in ``dtype`` and a softmax in fp32, as kernels do it.

    Args:
        dtype: Of the products.
        q: ``[n_q, query_heads, head_size]``.
        k: ``[n_k, kv_heads, head_size]``.
        v: ``[n_k, kv_heads, value_size]``.
        seen: Bool ``[heads, n_q, n_k]``, causal; heads are 1, ``kv_heads`` or ``query_heads``.
        scale: Factor of the scores.

    Returns:
        fp32 ``[n_q, query_heads, value_size]``, rounded to ``dtype``.
    """
    heads = q.shape[1]
    queries = q.transpose(0, 1).to(dtype)
    keys, values = (x.transpose(0, 1).repeat_interleave(heads // x.shape[1], 0).to(dtype) for x in (k, v))
    scores = (queries @ keys.mT).float() * scale
    scores = scores.masked_fill(~seen.repeat_interleave(heads // len(seen), 0), float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights.to(dtype) @ values).float().transpose(0, 1)


def epsilon(dtype: torch.dtype) -> float:
    """Extra tolerance of ``close`` for drawn seeds: in 16 bits, the rounding of a number near 1."""
    return max(1e-5, torch.finfo(dtype).eps / 2)


def close(found: Tensor, expected: Tensor, allowed: Tensor, epsilon: float, reported: str = "") -> None:
    """The error may be that of the same steps in the same precision, and an epsilon."""
    error, own = found.float() - expected, allowed.float() - expected
    assert error.isfinite().all(), reported
    assert error.abs().max() <= own.abs().max() + epsilon, reported
    assert error.norm() <= own.norm() + epsilon * max(1.0, float(expected.norm())), reported


def check(
    inputs: tuple[Tensor, Tensor, Tensor], index: PrefillIndex, impl: str, seed: int, scale: float | None = None
) -> Tensor:
    """The output, which is as near to fp32 as the same steps in its own precision."""
    q, k, v = inputs
    out = attend(q, k, v, index, scale=scale, impl=impl)
    assert (out.shape, out.dtype) == ((*q.shape[:2], v.shape[2]), q.dtype)
    factor = q.shape[2] ** -0.5 if scale is None else scale
    pattern = index.pattern()
    expected = attention_reference(q, k, v, pattern, scale=scale)
    own = attention_in(q.dtype, q, k, v, pattern.mask(index.n_q, index.n_k), factor)
    close(out, expected, own, epsilon(q.dtype), f"seed {seed}")
    return out
