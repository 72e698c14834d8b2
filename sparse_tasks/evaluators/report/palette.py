"""Colours, markers and line styles of the page's figures, and the scale of heat maps.

Nothing depends on colour alone: each method also has its own marker and dash, each cell of a heat map its number.
The hues are those of Okabe and Ito (2008, Color Universal Design), which stay apart for all common kinds of colour
blindness; those too light for a thin line on white are darker here, so that all reach a contrast of 3 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Style:
    """Colour, marker and dash of a method, everywhere on the page."""

    colour: str  # ``#rrggbb``
    marker: str  # matplotlib's name of it
    dash: tuple[float, ...]  # lengths of line and gap in points; none for a solid line


DENSE: Final = Style("#4d4d4d", "", ())
"""Style of dense attention."""

_COLOURS: Final = ("#0072b2", "#d55e00", "#008c66", "#8a2a6b", "#a17400", "#3f3fbf", "#b8518a")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "p")
_DASHES: Final = ((), (5.0, 1.6), (1.4, 1.4), (6.0, 1.4, 1.4, 1.4), (3.0, 1.2))

_LOSS, _EVEN, _GAIN = (179, 88, 6), (250, 250, 250), (33, 92, 160)  # orange, white, blue: safe for colour blindness
SHADES: Final = 10  # steps from nothing to the end of the scale, on either side


def style(number: int) -> Style:
    """The style of the method with this number, from 0; the first 280 differ, neighbours in everything."""
    return Style(_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])


def shade(value: float, limit: float) -> int:
    """The step of a diverging scale for a value: from ``-SHADES`` (``-limit`` or less) to ``SHADES``."""
    return round(max(-1.0, min(1.0, value / limit)) * SHADES)


def shade_colour(step: int) -> str:
    """The colour of a step of the diverging scale: orange below 0, nearly white at 0, blue above."""
    share = abs(step) / SHADES
    end = _LOSS if step < 0 else _GAIN
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(_EVEN, end, strict=True))


def readable_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, colour))


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2, from 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
