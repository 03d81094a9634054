"""What Dice over the number of labels says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pcl_auto.benchmark.arms import ALL_LABELS_ARM, BASELINE_ARM
from pcl_auto.benchmark.curve import Point, in_words, labels_needed, points
from pcl_auto.benchmark.table import Row
from pcl_auto.evaluation.statistics import Comparison, Spread

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


def row(arm: str, labeled: int, dice: float) -> Row:
    compared = (
        None if arm in (BASELINE_ARM, ALL_LABELS_ARM) else Comparison(1, 9, 0.1, 0.5, 1, (), 0.5, "no clear difference")
    )
    return Row(arm, labeled, Spread(dice, 0.0, 1), Spread(1.0, 0.0, 1), 0, 1.0, 1.0, compared)


def test_points_of_a_study() -> None:
    rows = [row("mine", 2, 0.7), row(BASELINE_ARM, 2, 0.6), row("mine", 8, 0.9), row(BASELINE_ARM, 8, 0.8)]
    assert points([*rows, row(ALL_LABELS_ARM, 99, 0.95)]) == [
        Point("mine", 2, 0.7, 0.6, pytest.approx(4)),  # type: ignore[arg-type]
        Point("mine", 8, 0.9, 0.8, math.inf),
    ]  # fmt: skip
    assert points([row("mine", 2, 0.7)]) == [Point("mine", 2, 0.7, None, None)]


def test_in_words() -> None:
    curve = [Point("mine", 1, 0.6, 0.5, 2.2), Point("mine", 2, 0.7, 0.6, 4.0), Point("mine", 8, 0.81, 0.8, math.inf)]
    assert in_words(curve, 8) == [
        "mine with 1 label is worth nnU-Net alone with about 2",
        "mine with 2 labels is worth nnU-Net alone with about 4",
        "mine with 8 labels is worth nnU-Net alone with more than 8",
        "from 2 to 8 labels mine gains +0.110 Dice",
    ]
    assert in_words([Point("mine", 2, 0.6, 0.6, 2.0)], 2) == []
    assert in_words([Point("mine", 2, 0.6, None, None)], 2) == []
