"""What can be said of a pseudo-label without knowing the truth, and which are worth training on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pcl_auto.method.components import component_counts

# Where every pseudo-label of a round would be dropped, this share of them stays.
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class LedgerRow:
    """The judgement of one pseudo-label.

    ``components``: connected components of each class.
    ``change_dice``: mean foreground Dice to the same case's pseudo-label of the last round, None in round one.
    ``outside``: how far it lies from what the labelled cases show: classes that are absent though every labelled case
    has them, and doublings (log2) of volume beyond the widened range, summed over classes; (0, 0.0) within.
    ``used``: whether the round trains on it.
    """

    case: str
    volumes_ml: dict[str, float]
    components: dict[str, int]
    change_dice: float | None
    remarks: tuple[str, ...]
    outside: tuple[int, float] = (0, 0.0)
    used: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in ``ledger.csv``."""
        return {
            "case": self.case,
            **{f"volume_ml_{name}": round(value, 4) for name, value in self.volumes_ml.items()},
            **{f"components_{name}": count for name, count in self.components.items()},
            "dice_to_last_round": "" if self.change_dice is None else round(self.change_dice, 4),
            "used": int(self.used),
            "remarks": "; ".join(self.remarks),
        }


def mean_dice(first: np.ndarray, second: np.ndarray, classes: Mapping[str, int]) -> float:
    """Mean Dice of two label maps over the classes that at least one of them holds; 1 where neither holds any."""
    scores = []
    for value in classes.values():
        size = np.count_nonzero(first == value) + np.count_nonzero(second == value)
        if size:
            scores.append(2 * np.count_nonzero((first == value) & (second == value)) / size)
    return float(np.mean(scores)) if scores else 1.0


def judge(
    case: str,
    labels: np.ndarray,
    last_round: np.ndarray | None,
    labeled_volumes_ml: Mapping[str, np.ndarray],
    *,
    classes: Mapping[str, int],
    voxel_ml: float,
    margin: float,
) -> LedgerRow:
    """Measure a pseudo-label and compare it with the labelled cases and with the last round.

    Args:
        case: the case's id.
        labels: the pseudo-label, shape (z, y, x).
        last_round: the same case's pseudo-label of the last round, if there was one.
        labeled_volumes_ml: volumes of each class in the labelled cases.
        classes: foreground classes, name to value.
        voxel_ml: volume of a voxel in millilitres.
        margin: anatomy varies more than a few labelled cases show: a volume is remarkable below the smallest labelled
            one divided by it and above the largest one times it.
    """
    volumes = {name: float(np.count_nonzero(labels == value) * voxel_ml) for name, value in classes.items()}
    remarks, absent, doublings = [], 0, 0.0
    for name, volume in volumes.items():
        known = labeled_volumes_ml[name]
        low, high = labeled_range(known, margin)
        if volume == 0 and known.min() > 0:
            remarks.append(f"{name} is absent")
            absent += 1
        elif not low <= volume <= high:
            remarks.append(f"{name} has {volume:.3g} ml, labelled cases {known.min():.3g} to {known.max():.3g}")
            # Half a voxel stands in for the largest volume of a class that no labelled case holds.
            doublings += float(np.log2(low / volume if volume < low else volume / max(high, voxel_ml / 2)))
    return LedgerRow(
        case=case,
        volumes_ml=volumes,
        components=component_counts(labels, classes),
        change_dice=None if last_round is None else mean_dice(labels, last_round, classes),
        remarks=tuple(remarks),
        outside=(absent, doublings),
    )


def labeled_range(volumes_ml: np.ndarray, margin: float) -> tuple[float, float]:
    """The range of a class's volumes in the labelled cases, widened: the smallest / margin, the largest · margin."""
    return float(volumes_ml.min() / margin), float(volumes_ml.max() * margin)


def drop_outside(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """``rows``, those beyond what the labelled cases show marked as not used.

    Where that would be all of them, the nearest quarter stays, at least one: a round cannot train on nothing.
    """
    inside = {row.case for row in rows if row.outside == (0, 0.0)}
    nearest: set[str] = set()
    if not inside:
        order = sorted(rows, key=lambda row: (row.outside, row.case))
        nearest = {row.case for row in order[: max(1, int(len(rows) * LEAST_SHARE))]}
    return [_decided(row, inside, nearest) for row in rows]


def _decided(row: LedgerRow, inside: set[str], nearest: set[str]) -> LedgerRow:
    if row.case in inside:
        return row
    if row.case in nearest:
        return replace(row, remarks=(*row.remarks, "kept: all are outside, it is among the nearest"))
    return replace(row, used=False, remarks=(*row.remarks, "dropped: outside the labelled range"))
