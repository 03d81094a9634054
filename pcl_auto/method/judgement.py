"""What can be said of a pseudo-label without knowing the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Anatomy varies more than two labelled cases show: a volume is remarkable beyond half the smallest and twice the
# largest labelled one.
RANGE_MARGIN = 2.0


@dataclass(frozen=True)
class LedgerRow:
    """The judgement of one pseudo-label.

    ``change_dice``: mean foreground Dice to the same case's pseudo-label of the last round, None in round one.
    """

    case: str
    volumes_ml: dict[str, float]
    change_dice: float | None
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in ``ledger.csv``."""
        return {
            "case": self.case,
            **{f"volume_ml_{name}": round(value, 4) for name, value in self.volumes_ml.items()},
            "dice_to_last_round": "" if self.change_dice is None else round(self.change_dice, 4),
            "used": 1,
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
) -> LedgerRow:
    """Measure a pseudo-label and compare it with the labelled cases and with the last round.

    Args:
        case: the case's id.
        labels: the pseudo-label, shape (z, y, x).
        last_round: the same case's pseudo-label of the last round, if there was one.
        labeled_volumes_ml: volumes of each class in the labelled cases.
        classes: foreground classes, name to value.
        voxel_ml: volume of a voxel in millilitres.
    """
    volumes = {name: float(np.count_nonzero(labels == value) * voxel_ml) for name, value in classes.items()}
    remarks = []
    for name, volume in volumes.items():
        known = labeled_volumes_ml[name]
        low, high = known.min() / RANGE_MARGIN, known.max() * RANGE_MARGIN
        if volume == 0 and known.min() > 0:
            remarks.append(f"{name} is absent")
        elif not low <= volume <= high:
            remarks.append(f"{name} has {volume:.3g} ml, labelled cases {known.min():.3g} to {known.max():.3g}")
    change = None if last_round is None else mean_dice(labels, last_round, classes)
    return LedgerRow(case, volumes, change, tuple(remarks))
