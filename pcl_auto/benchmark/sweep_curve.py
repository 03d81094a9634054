"""Read the curve of Dice over the number of labels: how many labels a recipe is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pcl_auto.benchmark.table import Row, count_labels, decimals
from pcl_auto.evaluation.statistics import draws_in_words


@dataclass(frozen=True)
class Point:
    """A recipe with one number of labels: means over ``draws``.

    ``baseline_arm``: the best baseline of as many labels, with ``baseline_dice``; None without any. ``worth``: the
    number of labels with which the best baselines have the same mean Dice; infinite if they reach it with none.
    """

    arm: str
    labeled: int
    draws: int
    dice: float
    baseline_arm: str | None = None
    baseline_dice: float | None = None
    worth: float | None = None


def curve_points(rows: Sequence[Row]) -> list[Point]:
    """Return the mean Dice of every recipe over the number of labels, without the baselines."""
    alone: dict[int, Row] = {}
    for row in rows:
        if row.baseline and not row.all_labels and not math.isnan(row.dice.mean):
            alone[row.labeled] = max(alone.get(row.labeled, row), row, key=lambda other: other.dice.mean)
    curve = {labeled: row.dice.mean for labeled, row in alone.items()}
    points = []
    for row in rows:
        if not row.baseline:
            point = Point(row.arm, row.labeled, row.dice.draws, row.dice.mean)
            if best := alone.get(row.labeled):
                worth = labels_needed(curve, row.dice.mean)
                point = replace(point, baseline_arm=best.arm, baseline_dice=best.dice.mean, worth=worth)
            points.append(point)
    return points


def labels_needed(curve: Mapping[int, float], dice: float) -> float:
    """Return the smallest number of labels at which ``curve`` (Dice by number of labels) reaches ``dice``.

    Between two measured numbers Dice is taken to grow with the logarithm of the number. Below the smallest one nothing
    is known, and that is returned. Infinite if no number reaches it.
    """
    known = sorted(curve.items())
    if known[0][1] >= dice:
        return float(known[0][0])
    for (few, low), (many, high) in pairwise(known):
        if low < dice <= high:
            return float(few * (many / few) ** ((dice - low) / (high - low)))
    return math.inf


def describe_curve(points: Sequence[Point], most: int) -> list[str]:
    """Say in sentences how many labels a recipe is worth and what its last labels brought, by its means.

    Args:
        points: of one recipe, by number of labels.
        most: the largest number of labels that a baseline was trained with.
    """
    lines = []
    for point in points:
        worth = point.labeled if point.worth is None else point.worth
        if math.isinf(worth) or round(worth) > point.labeled:
            number = f"more than {most}" if math.isinf(worth) else f"about {round(worth)}"
            who = f"{point.arm} with {count_labels(point.labeled)}"
            lines.append(
                f"{who} is worth {point.baseline_arm} with {number}, by means of {draws_in_words(point.draws)}"
            )
    if len(points) > 1:
        before, last = points[-2:]
        gain = f"{decimals(last.dice - before.dice, '+')} Dice, by means of {draws_in_words(last.draws)}"
        lines.append(f"from {before.labeled} to {count_labels(last.labeled)} {last.arm} gains {gain}")
    return lines
