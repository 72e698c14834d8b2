"""Pictures of what queries see: keys to the right, queries downwards, darker for more interactions."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from sparse_tasks.attention.index import BlockIndex, CorrectedIndex, LineIndex, PrefillIndex, SkipIndex
from sparse_tasks.attention.interactions import causal_count
from sparse_tasks.attention.kernels.dispatch import check_sequence
from sparse_tasks.attention.method import DecodeMethod, EvictMethod, Method, PrefillMethod
from sparse_tasks.attention.patterns import Pattern
from sparse_tasks.attention.steps import Memory, select_prompt
from sparse_tasks.core.errors import UsageError
from sparse_tasks.core.files import write_whole
from sparse_tasks.core.length import label

FORMATS: Final = (".png", ".svg", ".pdf")
_PANELS: Final = 4
_PIXELS: Final = 256  # maximum along each side of a panel
_SAMPLED: Final = 1 << 27  # maximum cells evaluated per panel; beyond it, queries are sampled
_AT_ONCE: Final = 1 << 23
_STEPS: Final = 64  # decoding steps in a picture
_HIDDEN, _UNSEEN, _FEW, _ALL = "#e4e4e4", "#ffffff", "#a9c6e8", "#08306b"  # one hue: only lightness varies


@dataclass(frozen=True)
class Rows(Pattern):
    """Mask of the last queries as a pattern. ``kept`` is bool ``[heads, n_q, n_k]``."""

    kept: Tensor

    @property
    def heads(self) -> int:  # type: ignore[override]
        return int(self.kept.shape[0])

    def sees(self, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        n_q, n_k = self.kept.shape[1:]
        return self.kept[head, query - (n_k - n_q), key]


Drawn: TypeAlias = Pattern | PrefillIndex | Sequence[PrefillIndex]


def select(method: Method, q: Tensor, k: Tensor, *, impl: str = "auto") -> Drawn:
    """A method's selection, to be drawn.

    Args:
        method: A method of any phase.
        q: ``[n, query_heads, head_size]``.
        k: ``[n, kv_heads, head_size]``.
        impl: "auto", "triton" or "torch".

    Returns:
        The indices of a prompt, one for each chunk of queries. For decoding and evicting methods the prompt ends 64
        tokens (or a quarter of all) before the end, and each query after it is a step: ``Rows`` for these.

    Raises:
        UsageError: Shapes or types do not match, or the prompt is too short for any step.
    """
    check_sequence(q, k)
    if isinstance(method, PrefillMethod):
        return select_prompt(method, q, k, impl=impl)
    if not isinstance(method, DecodeMethod | EvictMethod):
        raise UsageError("method", method.name, "has a phase that cannot be drawn")
    steps = min(_STEPS, len(k) // 4)
    if len(q) != len(k):
        raise UsageError("q", tuple(q.shape), f"has to have as many tokens as k, {len(k)}, to be drawn step by step")
    if steps == 0:
        raise UsageError("length", len(k), "is too short for a step after a prompt; take at least 4 tokens")
    memory = Memory(method, impl=impl)
    first = len(k) - steps
    memory.read(q[:first], k[:first], None)
    kept = torch.zeros(k.shape[1], steps, len(k), dtype=torch.bool)
    for step in range(steps):
        seen = first + step + 1
        _, index = memory.step(q[seen - 1 : seen], k[:seen], k[:seen])
        kept[:, step, :seen] = index.mask(seen)[0].cpu()
    return Rows(kept)


def draw(
    drawn: Drawn, n_q: int, n_k: int, path: Path | str, *, title: str = "", head: int | None = None
) -> tuple[float, float]:
    """Draw what queries see, and write the picture to a file.

    A pixel may cover many queries and keys; any interaction in it shows, even a single vertical among 131,072.

    Args:
        drawn: A pattern, an index of a prompt, or indices of its chunks in order.
        n_q: Queries; they are the last of the ``n_k`` positions.
        n_k: Keys.
        path: File whose suffix is one of ``FORMATS``.
        title: Above the picture, with the density.
        head: Number of the head; None for all, or for four evenly spaced ones.

    Returns:
        The selected and the computed density, averaged over all heads.

    Raises:
        UsageError: The file's suffix or the head is unknown, or matplotlib is missing.
        OutputError: The file cannot be written.
    """
    path = check_path(path)
    parts = _parts(drawn, n_q, n_k)
    heads = max(pattern.heads for pattern, _, _ in parts)
    if head is not None and not 0 <= head < heads:
        raise UsageError("head", head, f"is not one of the {heads} heads of the index; choose from 0 to {heads - 1}")
    shown = min(_PANELS, heads)
    panels = [head] if head is not None else [round(i * (heads - 1) / max(1, shown - 1)) for i in range(shown)]
    selected, computed = _densities(drawn, n_q, n_k)
    figure, axes = _figure(len(panels), n_q, n_k)
    for axis, number in zip(axes, panels, strict=True):
        name = "every head" if heads == 1 else f"head {number}"
        axis.set_title(f"{name}: {computed[number]:.3f}", fontsize=8)
        _panel(axis, _shares(parts, number, n_q, n_k), n_q, n_k)
    mean_selected, mean_computed = float(selected.mean()), float(computed.mean())
    density = f"selected density {mean_selected:.3f}, computed {mean_computed:.3f}"
    figure.suptitle(f"{title}\n{density}" if title else density, fontsize=9)
    sink = io.BytesIO()
    figure.savefig(sink, format=path.suffix[1:].lower())
    write_whole(path, sink.getvalue())
    return mean_selected, mean_computed


def check_path(path: Path | str) -> Path:
    """Check a path, whose suffix must be one of ``FORMATS``.

    Raises:
        UsageError: The suffix is unknown, the folder does not exist, or matplotlib is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError("output", str(path), f"is not a picture; end it in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError("output", str(path), f"would be in {path.parent}, which is not a folder; create it first")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError("output", str(path), "needs matplotlib to be drawn; pip install matplotlib") from error
    return path


_Part: TypeAlias = tuple[Pattern, int, int]
"""A pattern, and the queries that it is of: from which position on, up to which."""


def _parts(drawn: Drawn, n_q: int, n_k: int) -> list[_Part]:
    if isinstance(drawn, Pattern):
        return [(drawn, n_k - n_q, n_k)]
    indices = [drawn] if isinstance(drawn, BlockIndex | LineIndex | CorrectedIndex | SkipIndex) else list(drawn)
    ends = [n_k - n_q, *(index.n_k for index in indices)]
    if any(index.n_q != after - before for index, (before, after) in zip(indices, pairwise(ends), strict=True)):
        raise UsageError("index", ends[1:], "are not stretches of queries that follow each other")
    if ends[-1] != n_k:
        raise UsageError("n_k", n_k, f"is not what the index is of, {ends[-1]}")
    return [(_on_cpu(i).pattern(), before, after) for i, (before, after) in zip(indices, pairwise(ends), strict=True)]


def _on_cpu(index: PrefillIndex) -> PrefillIndex:
    if isinstance(index, CorrectedIndex):
        sparse: Any = _on_cpu(index.sparse)
        return dataclasses.replace(index, sparse=sparse)
    values = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    return dataclasses.replace(index, **{n: v.cpu() for n, v in values.items() if isinstance(v, torch.Tensor)})


def _densities(drawn: Drawn, n_q: int, n_k: int) -> tuple[Tensor, Tensor]:
    """Selected and computed, float64 ``[heads]`` each."""
    if isinstance(drawn, Pattern):
        density = drawn.density(n_q, n_k)
        return density, density
    indices = [drawn] if isinstance(drawn, BlockIndex | LineIndex | CorrectedIndex | SkipIndex) else drawn
    share = [causal_count(i.n_q, i.n_k) / causal_count(n_q, n_k) for i in indices]
    both = [(i.selected_density().cpu() * s, i.density().cpu() * s) for i, s in zip(indices, share, strict=True)]
    heads = max(len(computed) for _, computed in both)  # a dense chunk is dense in all heads
    selected, computed = (sum(x.expand(heads) for x in column) for column in zip(*both, strict=True))
    return torch.as_tensor(selected), torch.as_tensor(computed)


def _shares(parts: list[_Part], head: int, n_q: int, n_k: int) -> Any:
    """Share of each pixel's causal interactions that is seen, ``[pixels, pixels]``; NaN if it has none."""
    rows, columns = min(n_q, _PIXELS), min(n_k, _PIXELS)
    per_row = max(1, min(n_q // rows, _SAMPLED // (rows * n_k)))
    sampled = ((torch.arange(rows * per_row) + 0.5) * n_q / (rows * per_row)).long() + (n_k - n_q)
    keys = torch.arange(n_k)
    column = keys * columns // n_k
    seen, there = torch.zeros(rows, columns), torch.zeros(rows, columns)
    for pattern, start, end in parts:
        number = torch.tensor(head if pattern.heads > 1 else 0)
        queries = sampled[(sampled >= start) & (sampled < end)]
        for some in queries.split(max(1, _AT_ONCE // n_k)):
            causal = keys[:end] <= some[:, None]
            meets = pattern.sees(number, some[:, None], keys[None, :end]) & causal
            row = (some - (n_k - n_q)) * rows // n_q
            for total, cells in ((seen, meets), (there, causal)):
                summed = torch.zeros(len(some), columns).index_add_(1, column[:end], cells.float())
                total.index_add_(0, row, summed)
    return torch.where(there > 0, seen / there, float("nan")).numpy()


def _figure(panels: int, n_q: int, n_k: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    if n_q * 3 > n_k:  # squares side by side
        figure = Figure(figsize=(0.5 + 2.6 * panels, 3.4), dpi=100, layout="constrained")
        return figure, list(figure.subplots(1, panels, squeeze=False)[0])
    figure = Figure(figsize=(8.4, 0.9 + 1.1 * panels), dpi=100, layout="constrained")  # strips one above the other
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _panel(axis: Any, shares: Any, n_q: int, n_k: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("seen", [_FEW, _ALL]).with_extremes(under=_UNSEEN, bad=_HIDDEN)
    axis.imshow(
        shares,
        cmap=colours,
        vmin=1e-9,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0, n_k, n_k, n_k - n_q),
    )
    along = [round(n_k * part / 4) for part in range(5)]
    down = [position for position in along if position >= n_k - n_q] if n_q == n_k else [n_k - n_q, n_k]
    axis.set_xticks(along, _names(along), fontsize=7)
    axis.set_yticks(down, _names(down), fontsize=7)
    subplot = axis.get_subplotspec()
    if subplot.is_last_row():
        axis.set_xlabel("key position", fontsize=8)
    else:
        axis.tick_params(labelbottom=False)
    if subplot.is_first_col():
        axis.set_ylabel("query position", fontsize=8)
    else:
        axis.tick_params(labelleft=False)


def _names(positions: list[int]) -> list[str]:
    return [label(position) if position else "0" for position in positions]
