"""The largest entries of each row of scores as an ascending list, by number or by share of the mass."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_tasks.attention.kernels.dispatch import check_same, checking, implementation
from sparse_tasks.core.errors import UsageError


def select_top(
    scores: Tensor, count: int | Tensor, *, width: int | None = None, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The columns of the ``count`` largest entries of each row.

    Args:
        scores: fp32 ``[..., columns]``. -inf cannot be chosen; +inf (sinks, the diagonal) comes first, and counts. Of
            equal entries the lower columns come first. NaN is not allowed.
        count: How many, at least 0; or int32, broadcast to the rows: budgets that the device knows.
        width: Maximum entries per row; ``count`` if None. Has to be given with a tensor.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[..., width]``, at least 1 and at most ``columns`` wide: the chosen columns, ascending, undefined past
        the count; and the counts, int32 ``[...]``: fewer than ``count`` where fewer can be chosen.

    Raises:
        UsageError: Shapes, types or sizes do not match.
    """
    if checking():
        _check_top(scores, count, width)
    width = max(1, int(count)) if width is None else width
    width = min(width, scores.shape[-1])
    if implementation(impl, scores) == "torch":
        return select_top_torch(scores, count, width=width)
    from sparse_tasks.attention.kernels.triton.selection import select_top_triton

    return select_top_triton(scores, count, width=width)


def select_mass(
    scores: Tensor, mass: float | Tensor, *, width: int, minimum: int = 1, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The smallest set of largest entries of each row with a given share of its mass (top-p), as columns.

    Used by FlexPrefill (Lai et al. 2025, section 3.3), XAttention (Xu et al. 2025, section 2.2) and Twilight (Lin et
    al. 2025). Sums are in fp32, so a row that meets its share within rounding may have one entry more or less.

    Args:
        scores: fp32 ``[..., columns]``, weights of at least 0. -inf cannot be chosen; +inf is always chosen and does
            not count in the mass. Of equal entries the lower columns come first. NaN is not allowed.
        mass: The share of the sum of the row's finite weights, in [0, 1]; or fp32, broadcast to the rows.
        width: Maximum entries per row, at least 1: rows that need more get their largest ``width`` entries.
        minimum: Minimum entries per row, at least 1, including those of +inf.
        impl: "auto", "triton" or "torch".

    Returns:
        int32 ``[..., min(width, columns)]``: the chosen columns, ascending, undefined past the count; and the counts,
        int32 ``[...]``.

    Raises:
        UsageError: Shapes, types or sizes do not match.
    """
    _check_scores(scores)
    if isinstance(mass, Tensor):
        _check_rows(scores, mass=mass)
        if str(mass.dtype) != "torch.float32":
            raise UsageError("mass", str(mass.dtype), "has to be torch.float32")
    elif not 0 <= mass <= 1:
        raise UsageError("mass", mass, "has to be a share in [0, 1]")
    if minimum < 1:
        raise UsageError("minimum", minimum, "has to be at least 1")
    width = _checked_width(scores, width)
    if implementation(impl, scores) == "torch":
        return select_mass_torch(scores, mass, width=width, minimum=minimum)
    from sparse_tasks.attention.kernels.triton.selection import select_mass_triton

    return select_mass_triton(scores, mass, width=width, minimum=minimum)


def select_top_torch(scores: Tensor, count: int | Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """Torch twin of ``select_top``: a stable sort."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    most = torch.as_tensor(count, dtype=torch.int32, device=scores.device).clamp_min(0)
    return _ascending(order, most.minimum(_possible(scores, width)), width)


def select_mass_torch(scores: Tensor, mass: float | Tensor, *, width: int, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """Torch twin of ``select_mass``: a stable sort and a running sum, in fp64."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    running = torch.where(ordered.isfinite(), ordered, 0.0).double().cumsum(-1)
    share = mass[..., None] if isinstance(mass, Tensor) and mass.ndim else mass
    # An entry is needed if those before it do not reach the share.
    before = torch.nn.functional.pad(running[..., :-1], (1, 0))
    needed = (ordered == float("inf")) | (ordered.isfinite() & (before < share * running[..., -1:]))
    count = needed.sum(-1, dtype=torch.int32).clamp_min(minimum)
    return _ascending(order, count.minimum(_possible(scores, width)), width)


def _possible(scores: Tensor, width: int) -> Tensor:
    """int32 ``[...]``: how many entries of a row can be chosen, ``width`` at most."""
    return (scores > float("-inf")).sum(-1, dtype=torch.int32).clamp_max(width)


def _ascending(order: Tensor, counts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The first ``counts`` columns of each row of an order, ascending."""
    chosen = torch.arange(width, device=order.device) < counts[..., None]
    columns = torch.where(chosen, order[..., :width], order.shape[-1]).sort(dim=-1).values
    return columns.int(), counts


def _check_top(scores: Tensor, count: int | Tensor, width: int | None) -> None:
    _check_scores(scores)
    if isinstance(count, Tensor):
        _check_rows(scores, count=count)
        if count.dtype != torch.int32:
            raise UsageError("count", str(count.dtype), "has to be torch.int32")
        if width is None:
            raise UsageError("width", width, "has to be given if the count is a tensor: the largest count of any row")
    elif count < 0:
        raise UsageError("count", count, "has to be at least 0")
    if width is not None:
        _checked_width(scores, width)


def _check_scores(scores: Tensor) -> None:
    if scores.ndim < 1 or scores.shape[-1] < 1:
        raise UsageError("scores", tuple(scores.shape), "has to be [..., columns], with at least one column")
    if scores.dtype != torch.float32:
        raise UsageError("scores", str(scores.dtype), "has to be torch.float32")


def _check_rows(scores: Tensor, **tensors: Tensor) -> None:
    """Tensors with a value for each row, or that broadcast to it."""
    rows = scores.shape[:-1]
    for name, tensor in tensors.items():
        fits = tensor.ndim <= len(rows) and all(
            size in (1, row) for size, row in zip(reversed(tensor.shape), reversed(rows), strict=False)
        )
        if not fits:
            raise UsageError(name, tuple(tensor.shape), f"does not broadcast to the rows of scores, {tuple(rows)}")
        check_same("device", scores=scores, **{name: tensor})


def _checked_width(scores: Tensor, width: int) -> int:
    if width < 1:
        raise UsageError("width", width, "has to be at least 1")
    return min(width, int(scores.shape[-1]))
