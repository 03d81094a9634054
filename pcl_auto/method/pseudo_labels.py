"""Assess pseudo-labels without the truth, and drop those that are not worth training on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pcl_auto.method.label_maps import Classes, class_mask, component_counts, mean_dice
from pcl_auto.recipe.settings import PseudoLabelFilter

# Where every pseudo-label of a round would be dropped, this share of them stays.
MIN_SHARE = 0.25
# How the remark on one of those begins.
KEPT = "kept as one of the best"


@dataclass(frozen=True)
class LedgerRow:
    """A line of the ledger: one pseudo-label, measured and compared.

    ``components``: connected components of each class.
    ``change_dice``: mean foreground Dice to the same case's pseudo-label of the last round, None without one.
    ``outside``: how far it lies from what the labeled cases show: classes that are absent though every labeled case
    has them, and doublings (log2) of volume beyond the widened range, summed over classes; (0, 0.0) within.
    ``agreement``: Dice of the segmentations under two random transforms, or of labels carried over from different
    labeled cases; None where that was not looked at.
    ``used``: whether the round trains on it.
    ``source``: where it comes from if not from a network.
    """

    case: str
    volumes_ml: dict[str, float]
    components: dict[str, int]
    change_dice: float | None
    remarks: tuple[str, ...]
    outside: tuple[int, float] = (0, 0.0)
    agreement: float | None = None
    used: bool = True
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it stands in ``ledger.csv``."""
        return {
            "case": self.case,
            **{f"volume_ml_{name}": round(value, 4) for name, value in self.volumes_ml.items()},
            **{f"components_{name}": count for name, count in self.components.items()},
            "dice_to_last_round": "" if self.change_dice is None else round(self.change_dice, 4),
            **({} if self.agreement is None else {"agreement": round(self.agreement, 4)}),
            **({"source": self.source} if self.source else {}),
            "used": int(self.used),
            "remarks": "; ".join(self.remarks),
        }


def assess_pseudo_label(
    case: str,
    labels: np.ndarray,
    last_round: np.ndarray | None,
    labeled_volumes_ml: Mapping[str, np.ndarray],
    *,
    classes: Classes,
    voxel_ml: float,
    margin: float,
    agreement: float | None = None,
) -> LedgerRow:
    """Measure a pseudo-label and compare it with the labeled cases and with the last round.

    Args:
        case: the case's id.
        labels: the pseudo-label, shape (z, y, x).
        last_round: the same case's pseudo-label of the last round, if there was one.
        labeled_volumes_ml: volumes of each class in the labeled cases; none where they are not known.
        classes: foreground classes or regions.
        voxel_ml: volume of a voxel in milliliters.
        margin: anatomy varies more than a few labeled cases show: a volume is remarkable below the smallest labeled
            one divided by it and above the largest one times it.
        agreement: see :func:`pcl_auto.method.agreement.agreement`; None where that was not looked at.
    """
    volumes = {name: float(np.count_nonzero(class_mask(labels, values)) * voxel_ml) for name, values in classes.items()}
    remarks, absent, doublings = [], 0, 0.0
    for name, volume in volumes.items():
        low, high = labeled_range(labeled_volumes_ml[name], margin)
        remark = volume_remark(name, volume, low, high)
        remarks += [remark] if remark else []
        if remark and volume == 0:
            absent += 1
        elif remark:
            # Half a voxel stands in for the largest volume of a class that no labeled case holds.
            doublings += float(np.log2(low / volume if volume < low else volume / max(high, voxel_ml / 2)))
    return LedgerRow(
        case=case,
        volumes_ml=volumes,
        components=component_counts(labels, classes),
        change_dice=None if last_round is None else mean_dice(labels, last_round, classes),
        remarks=tuple(remarks),
        outside=(absent, doublings),
        agreement=agreement,
    )


def labeled_range(volumes_ml: np.ndarray, margin: float) -> tuple[float, float]:
    """Return the range of a class's volumes in the labeled cases, widened: smallest / margin to largest · margin.

    Without labeled cases, every volume.
    """
    if not volumes_ml.size:
        return 0.0, math.inf
    return float(volumes_ml.min() / margin), float(volumes_ml.max() * margin)


def volume_remark(name: str, volume_ml: float, low_ml: float, high_ml: float) -> str:
    """Say that the volume of a class lies outside its range; empty where it does not."""
    if low_ml <= volume_ml <= high_ml:
        return ""
    if not volume_ml:
        return f"{name} is absent"
    return f"{name} has {volume_ml:.3g} ml, expected {low_ml:.3g} to {high_ml:.3g}"


def filter_rows(rows: Sequence[LedgerRow], settings: PseudoLabelFilter) -> list[LedgerRow]:
    """Mark the rows of a network's pseudo-labels that a recipe leaves out as not used."""
    kept = drop_outside(rows) if settings.drop_outside_range else list(rows)
    return drop_disagreeing(kept, settings.min_agreement) if settings.min_agreement else kept


def drop_outside(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Mark the rows beyond what the labeled cases show as not used.

    Where that would be all of them, the nearest quarter stays, at least one: a round cannot train on nothing.
    """
    inside = {row.case for row in rows if row.outside == (0, 0.0)}
    return _kept(rows, inside, lambda row: (row.outside, row.case), "outside the labeled range")


def drop_disagreeing(rows: Sequence[LedgerRow], threshold: float) -> list[LedgerRow]:
    """Mark the rows whose segmentations under two transforms agree less than ``threshold`` as not used.

    Where that would be all that are used, the quarter that agrees best stays, at least one.
    """
    inside = {row.case for row in rows if _agrees(row, threshold)}
    return _kept(rows, inside, lambda row: (-(row.agreement or 0.0), row.case), "transforms disagree")


def drop_unregistered(rows: Sequence[LedgerRow], threshold: float) -> list[LedgerRow]:
    """Mark the rows whose atlases agree less than ``threshold`` as not used; all where fewer than a quarter agree more.

    Where registration mostly fails, what looks right is right by chance.
    """
    works = sum(_agrees(row, threshold) for row in rows) >= MIN_SHARE * len(rows)
    why = "atlases disagree" if works else "registration does not work here"
    return [row if works and _agrees(row, threshold) else _decided(row, set(), why) for row in rows]


def _agrees(row: LedgerRow, threshold: float) -> bool:
    return row.agreement is not None and row.agreement >= threshold


def _kept(rows: Sequence[LedgerRow], inside: set[str], order: Callable[[LedgerRow], Any], why: str) -> list[LedgerRow]:
    """Mark the used rows that are not ``inside`` as not used; if that would be all, keep the first in order."""
    used = sorted((row for row in rows if row.used), key=order)
    some_inside = any(row.case in inside for row in used)
    best = set() if some_inside else {row.case for row in used[: max(1, int(len(used) * MIN_SHARE))]}
    return [_decided(row, best, why) if row.used and row.case not in inside else row for row in rows]


def _decided(row: LedgerRow, best: set[str], why: str) -> LedgerRow:
    if row.case in best:
        return replace(row, remarks=(*row.remarks, f"{KEPT}: {why}"))
    return replace(row, used=False, remarks=(*row.remarks, f"dropped: {why}"))
