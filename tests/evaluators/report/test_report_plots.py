"""Drawings: the same bytes for the same numbers, embeddable in a page, readable without colour."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from sparse_tasks.evaluators.report.palette import DENSE, SHADES, contrast, readable_on, shade, shade_colour, style
from sparse_tasks.evaluators.report.plots import (
    SCORE,
    Axis,
    Level,
    Line,
    Mark,
    Point,
    key,
    length_axis,
    lines,
    marks,
    share_axis,
    sparsity_axis,
)

LINE = Line(style(0), (Point(0.5, 0.8, 0.7, 0.9), Point(0.9, 0.4, 0.3, 0.5)))


def drawn(name: str = "f1", title: str = "a title") -> str:
    return lines(name, title, "what it says", sparsity_axis([0.5, 0.9]), SCORE, [LINE], Level(0.9, 0.8, 1.0))


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert drawn() == drawn()


def test_a_drawing_is_an_image_with_a_name_and_holds_no_rules_for_the_page_around_it() -> None:
    root = ET.fromstring(drawn(title='<b> & "c"'))
    assert root.attrib["role"] == "img"
    assert [(one.tag, one.text) for one in root[:2]] == [("title", '<b> & "c"'), ("desc", "what it says")]
    assert root.attrib["aria-labelledby"] == root[0].attrib["id"]
    assert not {one.tag for one in root.iter()} & {"style", "script", "metadata", "image", "foreignObject"}
    assert "http" not in drawn()


def test_two_drawings_share_no_id_and_refer_to_their_own() -> None:
    found = []
    for name in ("f1", "f2"):
        text = drawn(name)
        ids = set(re.findall(r'\bid="([^"]+)"', text))
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= ids
        found.append(ids)
    assert not found[0] & found[1]
    assert "NAME" not in key("k1", style(3))
    assert key("k1", style(3)) != key("k2", style(3))


def test_lines_differ_without_colour_and_are_visible_on_white() -> None:
    looks = [style(number) for number in range(280)]
    assert len({(one.colour, one.marker, one.dash) for one in looks}) == 280
    for one, other in itertools.combinations(looks[:8], 2):
        assert (one.marker, one.dash) != (other.marker, other.dash)
        assert one.marker != other.marker
    assert all(contrast(one.colour, "#ffffff") >= 3 for one in [*looks, DENSE])


def test_numbers_in_a_heat_map_are_read_on_every_colour() -> None:
    for step in range(-SHADES, SHADES + 1):
        assert contrast(readable_on(shade_colour(step)), shade_colour(step)) >= 4.5
    assert contrast("#000000", "#ffffff") == 21


def test_the_ends_of_a_heat_map_stay_apart_for_those_who_see_no_red_or_no_green() -> None:
    # What is left of red and green is about the same to them: yellow or blue, and how light.
    for step in (3, SHADES):
        loss, gain = ([int(shade_colour(way * step)[at : at + 2], 16) for at in (1, 3, 5)] for way in (-1, 1))
        yellow_loss, yellow_gain = (max(one[0], one[1]) - one[2] for one in (loss, gain))
        assert yellow_loss > 15
        assert yellow_gain < 0


@given(st.floats(-2, 2), st.floats(0.05, 1))
def test_a_gain_is_never_shaded_as_a_loss(value: float, limit: float) -> None:
    step = shade(value, limit)
    assert -SHADES <= step <= SHADES
    assert step * value >= 0
    assert shade(-value, limit) == -step


@given(st.lists(st.floats(0, 1), max_size=5))
def test_the_axis_of_sparsity_holds_every_point_and_ends_at_one(sparsities: list[float]) -> None:
    axis = sparsity_axis(sparsities)
    assert all(axis.low <= one <= axis.high for one in sparsities)
    assert axis.ticks[-1] == 1
    assert len(axis.ticks) >= 2
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)


def test_marks_that_crowd_together_are_not_numbered_over_each_other() -> None:
    axis = Axis("cost", 1e11, 1e13, scale="log")
    points = [Point(1e12, 0.5, 0.4, 0.6), Point(1.01e12, 0.51, 0.4, 0.6), Point(5e12, 0.9, 0.8, 1.0)]
    on = [Mark(style(0), "o", point, str(number)) for number, point in enumerate(points, start=1)]
    texts = [one.text for one in ET.fromstring(marks("f", "t", "a", axis, SCORE, on, points)).iter("text")]
    assert "1" in texts
    assert "3" in texts
    assert "2" not in texts


def test_a_single_point_a_single_length_and_no_interval_can_be_drawn() -> None:
    alone = Line(style(1), (Point(1024, 0.5, math.nan, math.nan),))
    assert "NaN" not in lines("f", "t", "a", length_axis([1024]), SCORE, [alone])
    assert "nan" not in lines("f", "t", "a", share_axis("depth", 5), SCORE, [Line(style(1), ())])
