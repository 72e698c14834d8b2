"""Figures of the study: score against measured sparsity, and window methods inside and outside their window."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparse_tasks.core.files import write_whole
from sparse_tasks.evaluators.report.palette import DENSE, Style, style

SETTINGS = {
    "svg.hashsalt": "first-light",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c8c8c",
    "axes.labelcolor": "#333333",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
}

COLUMNS = 4  # panels side by side


@dataclass(frozen=True)
class Point:
    """A mean score with its interval, at a measured sparsity."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """A task: its dense score, and a line a method."""

    title: str
    dense: Point
    lines: dict[str, list[Point]]


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style per method, by its index."""
    return {name: style(number) for number, name in enumerate(dict.fromkeys(names))}


def curves(phases: Sequence[tuple[str, Sequence[Panel]]], path: Path, marks: dict[str, Style], title: str) -> None:
    """Panels of each phase in rows, with the names of methods at the ends of their lines beside each row."""
    columns = min(COLUMNS, max(len(panels) for _, panels in phases))
    rows = [
        (phase, panels[start : start + columns]) for phase, panels in phases for start in range(0, len(panels), columns)
    ]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(2.45 * columns + 1.5, 2.6 * len(rows) + 0.75), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
        for number, (phase, panels) in enumerate(rows):
            for column in range(columns):
                axis = axes[number][column]
                if column >= len(panels):
                    axis.set_axis_off()
                    continue
                _panel(axis, panels[column], marks)
                axis.set_title(panels[column].title, fontsize=9.5, fontweight="bold", loc="left")
                if number == len(rows) - 1:
                    axis.set_xlabel("measured sparsity")
            axes[number][0].set_ylabel(f"score, sparse {phase}")
            if len(panels) == columns or len(panels) == max(len(of) for name, of in phases if name == phase):
                _names(axes[number][len(panels) - 1], panels[-1], marks)  # or the row above
        figure.suptitle(title, fontsize=9, color="#555555", x=0.01, ha="left")
        _save(figure, path)


def _panel(axis: Any, panel: Panel, marks: dict[str, Style]) -> None:
    axis.axhspan(panel.dense.low, panel.dense.high, color=DENSE.colour, alpha=0.10, lw=0)
    axis.axhline(panel.dense.y, color=DENSE.colour, lw=1)
    for name, points in panel.lines.items():
        look = marks[name]
        points = sorted(points, key=lambda point: point.x)
        x, y = [point.x for point in points], [point.y for point in points]
        # From dense attention, at sparsity 0, to the first that was measured.
        axis.plot([0, x[0]], [panel.dense.y, y[0]], color=look.colour, lw=0.9, alpha=0.45, dashes=(2, 2))
        axis.plot(x, y, color=look.colour, marker=look.marker, ms=5, lw=1.7, mec="white", mew=0.6, zorder=3)
        below = [max(0.0, point.y - point.low) for point in points]
        above = [max(0.0, point.high - point.y) for point in points]
        axis.errorbar(x, y, yerr=[below, above], fmt="none", ecolor=look.colour, elinewidth=0.9, alpha=0.55)
    axis.set(xlim=(0, 1), ylim=(-0.03, 1.03), xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])
    axis.set_xticklabels(["0", ".25", ".5", ".75", "1"])
    axis.grid(color="#e6e6e6", lw=0.7)
    axis.set_axisbelow(True)


def _names(axis: Any, panel: Panel, marks: dict[str, Style]) -> None:
    """Names next to the last panel, at the ends of the lines, moved apart if they would overlap."""
    ends = {name: max(points, key=lambda point: point.x) for name, points in panel.lines.items()}
    named = [("dense", DENSE.colour, 1.0, panel.dense.y)]
    named += [(name, marks[name].colour, end.x, end.y) for name, end in ends.items()]
    named.sort(key=lambda entry: entry[3])
    gap = 0.1
    places: list[float] = []
    for entry in named:
        places.append(max(entry[3], places[-1] + gap if places else -0.02))
    over = max(0.0, places[-1] - 1.02)
    for number in range(len(places) - 1, -1, -1):  # from the top down
        top = 1.02 if number == len(places) - 1 else places[number + 1] - gap
        places[number] = min(places[number], top) if over else places[number]
    for (name, colour, x, y), place in zip(named, places, strict=True):
        axis.annotate(
            name, (x, y), xytext=(1.1, place), textcoords="data", color=colour, va="center", annotation_clip=False,
            fontsize=9.5, arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkB": 3},
        )  # fmt: skip


def windows(groups: Sequence[tuple[str, Sequence[tuple[str, Point]]]], path: Path, title: str) -> None:
    """A row a method and sparsity, a dot for each place of the needle, with intervals."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 0.34 * len(groups) + 1.2), layout="constrained")
        axis = figure.subplots()
        wheres = list(dict.fromkeys(where for _, points in groups for where, _ in points))
        for row, (_, points) in enumerate(groups):
            for where, point in points:
                look = style(wheres.index(where))
                height = row + (wheres.index(where) - (len(wheres) - 1) / 2) * 0.22
                axis.plot([point.low, point.high], [height] * 2, color=look.colour, lw=1.4, alpha=0.6)
                axis.plot(
                    [point.y], [height], look.marker, color=look.colour, ms=6, mec="white", mew=0.6, clip_on=False
                )
        for number, where in enumerate(wheres):
            axis.plot([], [], style(number).marker, color=style(number).colour, label=f"needle at depth {where}")
        axis.set_yticks(range(len(groups)), [name for name, _ in groups])
        axis.set(xlim=(-0.02, 1.02), xlabel="score", ylim=(len(groups) - 0.5, -0.5))
        axis.grid(axis="x", color="#e6e6e6", lw=0.7)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
        axis.set_title(title, fontsize=9, color="#555555", loc="left")
        _save(figure, path)


def steps(panels: Sequence[tuple[str, dict[str, list[Point]]]], path: Path, title: str) -> None:
    """A panel for each sparsity: a line a method over the steps of an answer, dense attention in grey behind them."""
    marks = styles(name for _, lines in panels for name in lines if name != "dense")
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(3.7 * len(panels) + 1.4, 3.6), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (name, lines) in zip(axes, panels, strict=True):
            for method, points in lines.items():
                look = DENSE if method == "dense" else marks[method]
                x, y = [point.x for point in points], [point.y for point in points]
                low, high = [point.low for point in points], [point.high for point in points]
                axis.fill_between(x, low, high, color=look.colour, alpha=0.08, lw=0)
                axis.plot(x, y, color=look.colour, marker=look.marker, ms=4, lw=1.5, mec="white", mew=0.5)
            axis.set_title(name, fontsize=9.5, fontweight="bold", loc="left")
            axis.set(xlabel="steps of the answer written", ylim=(-0.03, 1.03))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(color="#e6e6e6", lw=0.7)
        axes[0].set_ylabel("without a mistake so far")
        for method, look in {"dense": DENSE, **marks}.items():
            axes[-1].plot([], [], color=look.colour, marker=look.marker, ms=4, lw=1.5, label=method)
        figure.legend(loc="outside right center", frameon=False, fontsize=9)
        figure.suptitle(title, fontsize=9, color="#555555", x=0.01, ha="left")
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    sink = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None})
    write_whole(path, sink.getvalue())
