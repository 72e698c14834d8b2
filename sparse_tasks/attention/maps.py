"""Plots of an inspection: layers to the right, heads downwards."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sparse_tasks.attention.inspection import Inspected
from sparse_tasks.attention.picture import check_path
from sparse_tasks.core.files import write_whole

_LOW, _HIGH = "#f7fbff", "#08306b"  # one hue: only lightness varies
_CELL: Final = 0.16  # inches


def draw_maps(inspected: Sequence[Inspected], path: Path | str, *, title: str = "") -> None:
    """Draw recall and error over layers and heads, with a row of two panels for each phase, and write the picture.

    Args:
        inspected: Phases, at least one.
        path: Its ending is one of ``picture.FORMATS``.
        title: Above the picture.

    Raises:
        UsageError: The file's ending is unknown, or matplotlib is missing.
        OutputError: The file cannot be written.
    """
    path = check_path(path)
    from matplotlib.figure import Figure

    layers, heads = len(inspected[0].layers), len(inspected[0].recall[0])
    width, height = max(3.2, _CELL * layers + 1.4), max(1.6, _CELL * heads + 1.0)
    figure = Figure(figsize=(2 * width, height * len(inspected) + 0.6), dpi=100, layout="constrained")
    for axes, found in zip(figure.subplots(len(inspected), 2, squeeze=False), inspected, strict=True):
        _panel(figure, axes[0], found.recall, found.layers, f"{found.phase}: recall of attention")
        _panel(figure, axes[1], found.error, found.layers, f"{found.phase}: relative error of the output")
    figure.suptitle(title, fontsize=9)
    sink = io.BytesIO()
    figure.savefig(sink, format=path.suffix[1:].lower())
    write_whole(path, sink.getvalue())


def _panel(figure: Any, axis: Any, values: list[list[float]], layers: list[int], title: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("amount", [_LOW, _HIGH])
    by_head = list(zip(*values, strict=True))
    image = axis.imshow(by_head, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    some = range(0, len(layers), max(1, len(layers) // 8))
    axis.set_xticks(list(some), [str(layers[place]) for place in some], fontsize=7)
    axis.set_yticks(range(0, len(by_head), max(1, len(by_head) // 8)))
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlabel("layer", fontsize=8)
    axis.set_ylabel("query head", fontsize=8)
    axis.set_title(title, fontsize=8)
    figure.colorbar(image, ax=axis, extend="max").ax.tick_params(labelsize=7)
