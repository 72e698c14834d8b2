"""All drawings of the page: small panels as SVG, made by matplotlib and adapted for an HTML page.

The same numbers give the same bytes. Untrusted text is never drawn: names are in the page around the drawings, where
they wrap, and can be searched and read aloud.
"""

from __future__ import annotations

import functools
import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sparse_tasks.core.length import label
from sparse_tasks.evaluators.report.palette import DENSE, Style

__all__ = ["SCORE", "Axis", "Level", "Line", "Mark", "Point", "key", "length_axis", "lines", "marks", "share_axis",
           "sparsity_axis"]  # fmt: skip

_SVG: Final = "{http://www.w3.org/2000/svg}"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_REFERENCE: Final = re.compile(r"#([\w.-]+)")  # also matches colours, which are not ids
_DECIMALS: Final = re.compile(r"(\.\d\d)\d+")  # 0.01 points is invisible
_FONT: Final = re.compile(r"font-family:[^;]*;? ?")
_WIDTH, _HEIGHT = 3.1, 2.45  # inches, of 72 units each
_INK, _GRID = "#333333", "#e0e0e0"
_SETTINGS: Final = {
    "svg.hashsalt": "sparse-tasks",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; the page says which font is shown
    "font.size": 9.5,
    "text.parse_math": False,
    "path.simplify": False,
    "axes.edgecolor": "#8c8c8c",
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval; ``low`` and ``high`` are NaN where there is none."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one method, from left to right."""

    style: Style
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """A value that is constant along the axis, with its interval: dense attention."""

    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A single point."""

    style: Style  # of its method
    marker: str  # matplotlib's name
    point: Point  # place
    label: str  # number beside it, as in the row of the table; "" for none


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis."""

    text: str  # its label
    low: float  # left or lower end
    high: float  # right or upper end
    ticks: tuple[float, ...] = ()  # places of its numbers; chosen by matplotlib if empty
    names: tuple[str, ...] = ()  # texts of the ticks; numbers if empty
    scale: str = "linear"  # ``linear`` or ``log``


SCORE: Final = Axis("score", -0.03, 1.03, (0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"))


def sparsity_axis(sparsities: Sequence[float]) -> Axis:
    """Measured sparsity, from a tenth below the lowest one that is drawn to 1."""
    low = min(0.8, max(0.0, math.floor(10 * min(sparsities, default=0.0) - 0.5) / 10))
    step = 0.25 if low == 0 else 0.1 if low >= 0.4 else 0.2
    ticks = [1 - number * step for number in range(5, -1, -1) if 1 - number * step > low - 1e-9]
    names = tuple(f"{tick:.2g}".replace("0.", ".") for tick in ticks)
    margin = 0.03 * (1 - low)
    return Axis("measured sparsity", low - margin, 1 + margin, tuple(ticks), names)


def share_axis(text: str, bins: int) -> Axis:
    """A share of the prompt, with a tick at each end of a bin."""
    ticks = tuple(step / bins for step in range(bins + 1))
    return Axis(text, -0.03, 1.03, ticks, tuple(f"{tick:g}".replace("0.", ".") for tick in ticks))


def length_axis(lengths: Sequence[int]) -> Axis:
    """Lengths of prompts, in steps of factors."""
    low, high = min(lengths), max(lengths)
    return Axis("length of the prompt", low / 1.25, high * 1.25, tuple(lengths), tuple(map(label, lengths)), "log")


def lines(
    name: str, title: str, about: str, x: Axis, y: Axis, drawn: Sequence[Line], level: Level | None = None
) -> str:
    """Lines with bands, in the order of the legend; a single point has a bar.

    ``name``, of letters, digits and dashes, is unique on the page; ``title`` and ``about`` are for screen readers.
    """
    faint = 0.16 if len(drawn) < 4 else 0.09  # of bands, which may overlap
    with _panel(x, y) as (figure, axes):
        if level is not None:
            axes.axhspan(level.low, level.high, color=DENSE.colour, alpha=0.14, linewidth=0, zorder=1)
            axes.axhline(level.y, color=DENSE.colour, linewidth=1.6, zorder=2)
        for line in drawn:
            xs, ys = [point.x for point in line.points], [point.y for point in line.points]
            lows, highs = [point.low for point in line.points], [point.high for point in line.points]
            look = {"color": line.style.colour, "zorder": 3}
            if len(xs) > 1:
                axes.fill_between(xs, lows, highs, color=line.style.colour, alpha=faint, linewidth=0, zorder=1.5)
            else:
                axes.vlines(xs, lows, highs, linewidth=1.2, **look)
            (stroke,) = axes.plot(xs, ys, marker=line.style.marker, markersize=4.2, linewidth=1.6, **look)
            stroke.set_dashes(line.style.dash)
        return _fit(name, title, about, figure)


def marks(name: str, title: str, about: str, x: Axis, y: Axis, drawn: Sequence[Mark], frontier: Sequence[Point]) -> str:
    """Points of score against cost, filled if labelled, and the frontier as steps."""
    with _panel(x, y) as (figure, axes):
        labelled: list[tuple[float, float]] = []
        near = 0.05 * math.log(x.high / x.low)
        if frontier:
            xs = [*(point.x for point in frontier), x.high]
            ys = [*(point.y for point in frontier), frontier[-1].y]
            axes.step(xs, ys, where="post", color=DENSE.colour, linewidth=1.1, zorder=2)
        for mark in drawn:
            at, on = mark.point, bool(mark.label)
            size = 8.5 if mark.marker == "*" else 5.5
            axes.vlines([at.x], [at.low], [at.high], color=mark.style.colour, linewidth=0.9, alpha=0.55, zorder=2.5)
            axes.plot([at.x], [at.y], marker=mark.marker, markersize=size, markeredgewidth=1.3, zorder=3,
                      color=mark.style.colour, markerfacecolor=mark.style.colour if on else "#ffffff")  # fmt: skip
            place = (math.log(at.x), at.y)
            # Crowded points are only identified in the table.
            if on and all(abs(place[0] - x0) > near or abs(place[1] - y0) > 0.07 for x0, y0 in labelled):
                labelled.append(place)
                axes.annotate(mark.label, (at.x, at.y), xytext=(0, 5.5), textcoords="offset points", ha="center",
                              va="bottom", fontsize=8, color="#000000", zorder=4)  # fmt: skip
        return _fit(name, title, about, figure)


def key(name: str, style: Style, marker: str | None = None, *, filled: bool = True) -> str:
    """A sample of a line for a legend; of a marker alone where one is given. Its words stand beside it."""
    return _key(style, marker, filled).replace("NAME-", f"{name}-")


@functools.cache
def _key(style: Style, marker: str | None, filled: bool) -> str:
    with mpl.rc_context(_SETTINGS):
        figure = _figure(0.5, 0.2)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        if marker is None:
            (stroke,) = axes.plot([0.04, 0.96], [0.5, 0.5], color=style.colour, linewidth=1.8)
            stroke.set_dashes(style.dash)
        drawn = style.marker if marker is None else marker
        if drawn:
            axes.plot([0.5], [0.5], marker=drawn, markersize=6, color=style.colour, markeredgewidth=1.3,
                      markerfacecolor=style.colour if filled else "#ffffff")  # fmt: skip
        return _fit("NAME", "", "", figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure)
    return figure


@contextmanager
def _panel(x: Axis, y: Axis) -> Iterator[tuple[Figure, Any]]:
    with mpl.rc_context(_SETTINGS):
        figure = _figure(_WIDTH, _HEIGHT)
        axes = figure.add_axes((0.185, 0.19, 0.795, 0.785))
        axes.patch.set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(True)
        axes.set(xscale=x.scale, yscale=y.scale, xlim=(x.low, x.high), ylim=(y.low, y.high))
        for axis, drawn in ((x, axes.xaxis), (y, axes.yaxis)):
            drawn.set_minor_locator(NullLocator())
            drawn.set_minor_formatter(NullFormatter())
            if axis.ticks:
                drawn.set_major_locator(FixedLocator(axis.ticks))
            elif axis.scale == "log":
                drawn.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
            drawn.set_major_formatter(FixedFormatter(axis.names) if axis.names else FuncFormatter(_short))
            drawn.set_label_text(axis.text)
            drawn.set_tick_params(labelsize=9, length=2.5)
        yield figure, axes


def _short(value: float, position: int | None = None) -> str:
    """A number of an axis: ``2e12`` for large ones."""
    del position
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("0.", ".", 1 if abs(value) < 1 else 0).replace("-", "−")


def _fit(name: str, title: str, about: str, figure: Figure) -> str:
    """The figure as an ``svg`` element: with a name to be read aloud, and ids that no other drawing has."""
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(sink.getvalue())  # noqa: S314  just written by matplotlib
    width, height = root.attrib["viewBox"].split()[2:]
    for parent in list(root.iter()):
        for child in [*parent]:
            # Matplotlib's style rules would apply to the whole page.
            if child.tag == f"{_SVG}metadata" or [rule.tag for rule in child] == [f"{_SVG}style"]:
                parent.remove(child)
    texts = [value for element in root.iter() for value in element.attrib.values() if "#" in value]
    used = {found for text in texts for found in _REFERENCE.findall(text)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _rename(element, name, used)
    root.attrib.clear()
    root.attrib["viewBox"] = f"0 0 {width} {height}"
    if title:
        root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-desc"}
        for position, (tag, text) in enumerate((("title", title), ("desc", about))):
            element = ET.Element(tag, {"id": f"{name}-{tag}"})
            element.text = text
            root.insert(position, element)
    else:
        root.attrib |= {"aria-hidden": "true", "focusable": "false", "width": width, "height": height}
    ET.indent(root, "")
    return ET.tostring(root, encoding="unicode").replace("\n", "")


def _rename(element: ET.Element, name: str, used: set[str]) -> None:
    """Prefix referenced ids with the drawing's name, remove others, and use the page's fonts."""
    attributes = element.attrib
    if (link := attributes.pop(_LINK, None)) is not None:
        attributes["href"] = link
    if (identifier := attributes.pop("id", None)) in used:
        attributes["id"] = f"{name}-{identifier}"
    for attribute, value in attributes.items():
        if attribute in ("href", "clip-path"):
            attributes[attribute] = value.replace("#", f"#{name}-")
        elif attribute in ("d", "x", "y", "transform"):
            attributes[attribute] = " ".join(_DECIMALS.sub(r"\1", value).split())
        elif attribute == "style" and element.tag == "text":
            attributes[attribute] = _FONT.sub("", value)
