"""Attention of the last or of sampled queries of a prompt, summed by key and, for the last ones, by distance."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import check_same, check_sequence, checked_scale, implementation
from sparse_tasks.attention.softmax import PLAIN, Softmax
from sparse_tasks.core.errors import UsageError

_CELLS: Final = 1 << 20  # probabilities that the twin holds at once: 4 MB of fp32, which fit into a cache


class WindowScores(NamedTuple):
    """Attention probabilities of the last queries, summed in two ways.

    Attributes:
        vertical: fp32 ``[query_heads, n_k]``, by the key's position. Sums to the number of queries, minus the share of
            a sink.
        slash: fp32 ``[query_heads, n_k]``, by the distance from query to key; None without ``slashes``.
    """

    vertical: Tensor
    slash: Tensor | None


def window_scores(
    q: Tensor,
    k: Tensor,
    window: int,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    slashes: bool = True,
    impl: str = "auto",
) -> WindowScores:
    """Causal softmax of the last queries over all keys, summed over the queries by key and by distance.

    Vertical-slash uses both sums (MInference, Jiang et al. 2024, algorithm 2), SnapKV the sums by key (Li et al. 2024,
    section 4). The probabilities are never materialised as a whole, and no sum depends on the order of threads.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions; only the last ``window`` are read.
        k: ``[n_k, kv_heads, head_size]``.
        window: Number of queries, at least 1; all of them if they are fewer.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        slashes: Whether to sum by distance too.
        impl: "auto", "triton" or "torch".

    Returns:
        The sums.

    Raises:
        UsageError: Shapes, types, sizes or devices do not match.
    """
    check_sequence(q, k)
    if window < 1:
        raise UsageError("window", window, "has to be at least 1")
    softmax.check(q)
    scale = checked_scale(scale, q.shape[2])
    q = q[-window:]
    if implementation(impl, q) == "torch":
        return window_scores_torch(q, k, scale=scale, softmax=softmax, slashes=slashes)
    from sparse_tasks.attention.kernels.triton.window_scores import window_scores_triton

    return window_scores_triton(q, k, scale=scale, softmax=softmax, slashes=slashes)


def sampled_scores(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    ends: Tensor,
    *,
    scale: float | None = None,
    softmax: Softmax = PLAIN,
    impl: str = "auto",
) -> Tensor:
    """Causal softmax of sampled queries over all keys, summed by key, over the keys before an end for each query.

    Used by SampleAttention (Zhu et al. 2024, section 4): attention outside a window is attention before its beginning.

    Args:
        q: ``[n, query_heads, head_size]``.
        k: ``[n_k, kv_heads, head_size]``, at least as many.
        positions: int32 ``[n]``: ascending, below ``n_k``.
        ends: int32 ``[n]``: keys from there on count in a query's softmax, but not in the sums.
        scale: Scale of the scores, above 0; ``head_size ** -0.5`` if None.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        fp32 ``[query_heads, n_k]``.

    Raises:
        UsageError: Shapes, types, sizes or devices do not match.
    """
    check_sequence(q, k)
    for name, tensor in (("positions", positions), ("ends", ends)):
        if tensor.shape != q.shape[:1] or tensor.dtype != torch.int32:
            raise UsageError(name, f"{tensor.dtype} {tuple(tensor.shape)}", f"has to be torch.int32 [{len(q)}]")
    check_same("device", q=q, positions=positions, ends=ends)
    softmax.check(q)
    scale = checked_scale(scale, q.shape[2])
    if implementation(impl, q) == "torch":
        return window_scores_torch(q, k, positions, ends, scale=scale, softmax=softmax, slashes=False).vertical
    from sparse_tasks.attention.kernels.triton.window_scores import window_scores_triton

    return window_scores_triton(q, k, positions, ends, scale=scale, softmax=softmax, slashes=False).vertical


def window_scores_torch(
    q: Tensor,
    k: Tensor,
    positions: Tensor | None = None,
    ends: Tensor | None = None,
    *,
    scale: float,
    slashes: bool,
    softmax: Softmax = PLAIN,
) -> WindowScores:
    """Torch twin of ``window_scores`` for all of ``q``: a softmax, sums of its columns and of its diagonals.

    With ``positions`` and ``ends``, and without slashes, that of ``sampled_scores``.
    """
    (n_q, heads, _), (n_k, kv_heads, _) = q.shape, k.shape
    vertical = torch.zeros(heads, n_k, dtype=torch.float32, device=q.device)
    slash = torch.zeros_like(vertical)
    number = torch.arange(n_k, device=q.device)  # of a key
    places = number[n_k - n_q :] if positions is None else positions
    rows = max(1, _CELLS // n_k)
    for head in range(heads):
        keys = k[:, head * kv_heads // heads].float()
        for start in range(0, n_q, rows):
            query = q[start : start + rows, head].float()
            position = places[start : start + rows, None]
            seen = n_k if positions is not None else n_k - n_q + start + len(query)  # later keys are unseen
            scores = softmax.capped(query @ keys[:seen].T * scale)
            scores = scores.masked_fill(number[:seen] > position, float("-inf"))
            weights = softmax.of(head).weights(scores)
            if ends is not None:
                weights = weights.masked_fill(number >= ends[start : start + rows, None], 0.0)
            vertical[head, :seen] += weights.sum(0)
            if slashes:
                slash[head, :seen] += _sums_by_distance(weights)
    return WindowScores(vertical, slash if slashes else None)


def _sums_by_distance(weights: Tensor) -> Tensor:
    """Sums along diagonals, ``[n_k]`` from the main one on, of ``[n_q, n_k]`` weights of the last queries; 0 beyond."""
    n_q, n_k = weights.shape
    # Viewed with rows one entry shorter than in memory, each reversed row is shifted by one.
    behind = torch.nn.functional.pad(weights.flip(1), (0, n_q)).flatten()[: n_q * (n_q + n_k - 1)]
    return behind.view(n_q, -1).sum(0)[n_q - 1 :]
