"""Dice over the number of labels: what each further label brings, and how many labels a recipe is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pcl_auto.benchmark.arms import BASELINE_ARM
from pcl_auto.benchmark.table import Row


@dataclass(frozen=True)
class Point:
    """A recipe with one number of labels.

    ``worth``: the number of labels with which nnU-Net alone has the same mean Dice, interpolated between the measured
    ones on a logarithmic scale; infinite if it has not reached it with any, None without a baseline.
    """

    arm: str
    labeled: int
    dice: float
    baseline: float | None
    worth: float | None


def points(rows: Sequence[Row]) -> list[Point]:
    """The curve of every recipe of a study, by recipe and number of labels; baselines are no recipes."""
    alone = {row.labeled: row.dice.mean for row in rows if row.arm == BASELINE_ARM}
    return [
        Point(
            row.arm, row.labeled, row.dice.mean, alone.get(row.labeled),
            labels_needed(alone, row.dice.mean) if alone else None,
        )
        for row in rows if row.comparison is not None
    ]  # fmt: skip


def labels_needed(curve: Mapping[int, float], dice: float) -> float:
    """The least number of labels at which ``curve`` (Dice by number of labels) reaches ``dice``, interpolated.

    Between two measured numbers Dice is taken to grow with the logarithm of the number; below the least one nothing
    is known, and that is returned. Infinite if no number reaches it.
    """
    known = sorted(curve.items())
    if known[0][1] >= dice:
        return float(known[0][0])
    for (few, low), (many, high) in pairwise(known):
        if low < dice <= high:
            return float(few * (many / few) ** ((dice - low) / (high - low)))
    return math.inf


def in_words(curve: Sequence[Point], most: int) -> list[str]:
    """What the curve of one recipe says, a line for each thing.

    Args:
        curve: points of one recipe, by number of labels.
        most: the largest number of labels that the baseline was trained with.
    """
    lines = []
    for point in curve:
        worth = point.labeled if point.worth is None else point.worth
        if math.isinf(worth) or round(worth) > point.labeled:
            number = f"more than {most}" if math.isinf(worth) else f"about {round(worth)}"
            lines.append(f"{point.arm} with {_labels(point.labeled)} is worth nnU-Net alone with {number}")
    if len(curve) > 1:
        before, last = curve[-2:]
        lines.append(
            f"from {before.labeled} to {_labels(last.labeled)} {last.arm} gains {last.dice - before.dice:+.3f} Dice"
        )
    return lines


def _labels(number: int) -> str:
    return f"{number} label{'s' * (number != 1)}"
