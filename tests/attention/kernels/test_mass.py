"""Guards shares of weight: as written out, ties and what comes first, kernel and twin bit for bit, on ragged rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparse_tasks.attention.kernels.mass import WHOLE, mass_from

INF = float("inf")


def naive(weights: list[float], first: list[bool], least: int) -> list[float]:
    """By a sort of one row, in fp64."""
    ranked = sorted(range(len(weights)), key=lambda c: (-INF if first[c] else -weights[c], c))
    total = math.fsum(max(0.0, w) for w in weights)
    mass = [0.0] * len(weights)
    for place, column in enumerate(ranked):
        mass[column] = math.fsum(max(0.0, weights[c]) for c in ranked[place:]) / total
        if place < least:
            mass[column] = INF
        if weights[column] == -INF:
            mass[column] = -INF
        if first[column]:
            mass[column] = INF
    return mass


def make(shape: tuple[int, ...], seed: int) -> Tensor:
    """Weights over many orders of magnitude, some of them equal, 0, or -inf; the first is above 0."""
    maker = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape, generator=maker).mul(6).round(decimals=1).exp()
    kind = torch.rand(shape, generator=maker)
    weights = weights.masked_fill(kind < 0.1, 0.0).masked_fill(kind > 0.85, -INF)
    weights[..., 0] = 0.5
    return weights


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize(
    ("shape", "first", "least"),
    [
        ((3, 5, 33), (5, 33), 0),  # the same for all heads
        ((2, 3, 64), (2, 3, 64), 2),
        ((4, 17), (17,), 3),
        ((2, 130), None, 0),
        ((3, 2, 1), (), 1),
    ],
)
def test_like_naive(impl: str, shape: tuple[int, ...], first: tuple[int, ...] | None, least: int, seed: int) -> None:
    weights = make(shape, seed)
    forced = None if first is None else torch.rand(first, generator=torch.Generator().manual_seed(seed)) < 0.1
    found = mass_from(weights, forced, least, impl=impl)
    assert found.shape == shape
    spelled = torch.zeros(shape, dtype=torch.bool) if forced is None else forced.expand(shape)
    rows = zip(weights.flatten(0, -2), spelled.flatten(0, -2), strict=True)
    expected = torch.tensor([naive(w.tolist(), f.tolist(), least) for w, f in rows]).view(shape)
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=0)


@pytest.mark.usefixtures("poisoned")
def test_kernel_and_twin_are_bit_identical(seed: int) -> None:
    """Blocks of all heads are ranked by it: a last bit would decide which of two near equals is taken."""
    weights = make((4, 9, 97), seed)
    forced = torch.eye(9, 97, dtype=torch.bool)
    assert torch.equal(mass_from(weights, forced, 2, impl="triton"), mass_from(weights, forced, 2, impl="torch"))


def test_long_rows_are_sorted_instead(seed: int) -> None:
    weights = make((1, WHOLE + 1), seed)
    assert torch.equal(mass_from(weights, impl="triton"), mass_from(weights, impl="torch"))
