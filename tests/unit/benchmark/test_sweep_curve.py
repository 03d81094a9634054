"""Read the curve of a sweep: how many labels a recipe is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pcl_auto.benchmark.sweep_curve import Point, curve_points, describe_curve, labels_needed
from pcl_auto.benchmark.table import ArmResults, Row, summarize

ALONE = {1: 0.5, 2: 0.6, 8: 0.8}


@pytest.mark.parametrize(
    ("dice", "needed"),
    # 0.7 lies half-way between 2 and 8 labels, and half-way of their logarithms is 4.
    [(0.4, 1), (0.5, 1), (0.6, 2), (0.7, 4), (0.8, 8), (0.81, math.inf)],
)
def test_labels_needed(dice: float, needed: float) -> None:
    assert labels_needed(ALONE, dice) == pytest.approx(needed)


def test_labels_needed_lie_on_the_drawn_curve() -> None:
    for dice in np.linspace(0.51, 0.8, 30):
        needed = labels_needed(ALONE, dice)
        assert np.interp(np.log(needed), np.log(list(ALONE)), list(ALONE.values())) == pytest.approx(dice)


def test_of_a_curve_that_falls_the_first_number_that_reaches_it_counts() -> None:
    assert labels_needed({1: 0.5, 2: 0.7, 4: 0.6, 8: 0.9}, 0.65) == pytest.approx(2**0.75)


def rows(dice: dict[tuple[str, int], float]) -> list[Row]:
    return summarize([
        ArmResults(arm, number, {0: {"a": value}, 1: {"a": value}}, {}, baseline=arm != "mine", all_labels=number == 99)
        for (arm, number), value in dice.items()
    ])  # fmt: skip


def test_points_of_a_study() -> None:
    alone = {("nnunet", 2): 0.6, ("nnunet", 8): 0.8, ("nnunet", 99): 0.95}
    points = curve_points(rows({("mine", 2): 0.7, ("mine", 8): 0.9, **alone}))
    assert points == [
        Point("mine", 2, 2, 0.7, "nnunet", 0.6, pytest.approx(4)),  # type: ignore[arg-type]
        Point("mine", 8, 2, 0.9, "nnunet", 0.8, math.inf),
    ]
    assert curve_points(rows({("mine", 2): 0.7})) == [Point("mine", 2, 2, 0.7)]


def test_the_baseline_is_the_best_of_each_number_of_labels() -> None:
    alone = {("nnunet", 2): 0.6, ("other", 2): 0.5, ("nnunet", 8): 0.7, ("other", 8): 0.8}
    (point,) = curve_points(rows({("mine", 2): 0.7, **alone}))
    assert point == Point("mine", 2, 2, 0.7, "nnunet", 0.6, pytest.approx(4))  # type: ignore[arg-type]
    (point,) = curve_points(rows({("mine", 8): 0.7, **alone}))
    assert point == Point("mine", 8, 2, 0.7, "other", 0.8, pytest.approx(4))  # type: ignore[arg-type]


def test_describe_curve() -> None:
    curve = [
        Point("mine", 1, 6, 0.6, "nnunet", 0.5, 2.2),
        Point("mine", 2, 6, 0.7, "nnunet", 0.6, 4.0),
        Point("mine", 8, 1, 0.81, "nnunet", 0.8, math.inf),
    ]
    assert describe_curve(curve, 8) == [
        "mine with 1 label is worth nnunet with about 2, by means of six draws",
        "mine with 2 labels is worth nnunet with about 4, by means of six draws",
        "mine with 8 labels is worth nnunet with more than 8, by means of one draw",
        "from 2 to 8 labels mine gains +.110 Dice, by means of one draw",
    ]
    assert describe_curve([Point("mine", 2, 1, 0.6, "nnunet", 0.6, 2.0)], 2) == []
    assert describe_curve([Point("mine", 2, 1, 0.6)], 2) == []
