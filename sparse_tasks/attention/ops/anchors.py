"""Selection by anchor layers: what they select for others, the attention it holds, and the best anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex
from sparse_tasks.attention.kernels.selection import select_top
from sparse_tasks.attention.ops.true_mass import block_mass
from sparse_tasks.attention.softmax import Softmax


def sampled_mass(q: Tensor, k: Tensor, sampled: int, softmax: Softmax) -> Tensor:
    """True attention of some queries, spread evenly over the later half, summed over the group.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        sampled: Maximum number of queries.
        softmax: The model's sinks and soft cap.

    Returns:
        fp32 ``[kv_heads, queries, n_k]``.
    """
    (n_q, _, size), (n_k, kv_heads, _) = q.shape, k.shape
    rows = torch.linspace(n_q // 2, n_q - 1, min(sampled, n_q - n_q // 2), device=q.device).round().long()
    queries = q[rows].float().view(len(rows), kv_heads, -1, size).permute(1, 2, 0, 3)
    scores = softmax.capped(queries @ k.float().permute(1, 2, 0)[:, None] * size**-0.5)
    later = torch.arange(n_k, device=q.device) > rows[:, None] + (n_k - n_q)
    return softmax.of(slice(None), kv_heads, -1, 1).weights(scores.masked_fill(later, float("-inf"))).sum(1)


def blocks_of_groups(
    q: Tensor, k: Tensor, number: int, *, tile: int, block: int, softmax: Softmax, impl: str = "auto"
) -> BlockIndex:
    """The key blocks that hold most of the true attention of a tile of queries, over all query heads of a group.

    Args:
        q: ``[n_q, query_heads, head_size]``: the last ``n_q`` of ``n_k`` positions.
        k: ``[n_k, kv_heads, head_size]``.
        number: Blocks that a tile reads besides those of its own positions.
        tile: Positions in a tile.
        block: Positions in a block of keys; it divides the tile.
        softmax: The model's sinks and soft cap.
        impl: "auto", "triton" or "torch".

    Returns:
        The index, with one head per KV head.
    """
    n_q, n_k, kv_heads = len(q), len(k), k.shape[1]
    mass = block_mass(q, k, tile, softmax, block).unflatten(0, (kv_heads, -1)).sum(1)
    rows, columns = mass.shape[1:]
    first = (torch.arange(rows, device=q.device)[:, None] + (n_k - n_q) // tile) * (tile // block)
    column = torch.arange(columns, device=q.device)
    mass = mass.masked_fill((column >= first) & (mass > float("-inf")), float("inf"))
    own = (columns - first[:, 0]).clamp_max(tile // block)
    blocks, counts = select_top(mass, (own + number).int(), width=number + tile // block, impl=impl)
    return BlockIndex(blocks, counts, tile, block, n_q, n_k)


def held_by(mass: Tensor, tokens: Tensor) -> Tensor:
    """The attention on other heads' best tokens over that on a head's own best tokens, averaged over queries.

    Args:
        mass: fp32 ``[heads, queries, n_k]``.
        tokens: int64 ``[others, queries, count]``: the best tokens of other heads for the same queries.

    Returns:
        fp32 ``[heads, others]``, in [0, 1].
    """
    own = mass.topk(tokens.shape[2], dim=2).values.sum(2)
    held = [mass.gather(2, other.expand(len(mass), -1, -1)).sum(2) for other in tokens]
    return (torch.stack(held, 1) / own[:, None]).mean(2)


def best_anchors(similarity: Tensor, number: int) -> list[int]:
    """The anchor layers that maximise the attention held by the last anchor's selection, summed over layers.

    Args:
        similarity: ``[layers, layers]``: for each layer, and each one up to it that may select for it.
        number: Anchor layers, at least 1; all layers if there are fewer.

    Returns:
        Their numbers, ascending, the first of them 0.
    """
    layers = len(similarity)
    # gain[a][e]: sum over layers from a up to but excluding e, which read what a selects.
    gain = torch.nn.functional.pad(similarity.double().tril().mT.cumsum(1), (1, 0)).tolist()
    best: list[tuple[float, list[int]]] = [(gain[0][end], [0]) for end in range(layers + 1)]
    for count in range(2, min(number, layers) + 1):
        best = [
            max(
                ((best[last][0] + gain[last][end], [*best[last][1], last]) for last in range(count - 1, end)),
                default=(float("-inf"), []),
                key=lambda found: found[0],
            )
            for end in range(layers + 1)
        ]
    return best[layers][1]
