from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import pairwise

import pytest

from pcl_auto.report.curves import Series, draw_curves, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.9, 0.5), (0.934, 0.987), (1, 300), (-3e-4, 2e-4), (0, 1e6)])
def test_ticks_are_few_round_numbers_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1}
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9
    mantissa = (found[1] - found[0]) / 10 ** math.floor(math.log10(found[1] - found[0]) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)


def drawn(
    series: list[Series], *, boundaries: Mapping[int, float] | None = None, y_range: tuple[float, float] | None = None
) -> ET.Element:
    svg = draw_curves(series, title="t", x_name="epoch", boundaries=boundaries, y_range=y_range)
    return ET.fromstring(str(svg))


def test_a_curve_goes_through_its_points_up_is_up() -> None:
    svg = drawn([Series("loss", [(1, 0.0), (2, 1.0), (3, 0.5)])], y_range=(0.0, 1.0))
    (line,) = svg.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[1][1] < points[2][1] < points[0][1]
    assert points[2][1] == pytest.approx((points[0][1] + points[1][1]) / 2, abs=0.1)


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
def test_what_is_no_number_is_a_gap(gap: float | None) -> None:
    svg = drawn([Series("loss", [(1, 1.0), (2, 2.0), (3, gap), (4, 2.0), (5, 1.0)])])
    assert len(list(svg.iter("polyline"))) == 2
    assert "nan" not in ET.tostring(svg, "unicode")


def test_one_point_and_equal_values_have_a_place() -> None:
    assert len(list(drawn([Series("loss", [(1, 5.0)])]).iter("circle"))) == 1
    assert len(list(drawn([Series("loss", [(1, 5.0), (2, 5.0)])]).iter("polyline"))) == 1


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw_curves([Series("loss", [(1, None)])], title="t", x_name="x") == ""


def test_round_boundaries_are_marked_and_numbered() -> None:
    svg = drawn([Series("loss", [(1, 1.0), (9, 2.0)])], boundaries={1: 2.5, 2: 5.5})
    assert sum(line.attrib["class"] == "boundary" for line in svg.iter("line")) == 2


def test_hostile_names_stay_names() -> None:
    name = '"><script>alert(1)</script>'
    svg = drawn([Series(name, [(1, 1.0), (2, 2.0)])])
    assert {title.text for title in svg.iter("title")} >= {name}
    assert not list(svg.iter("script"))
