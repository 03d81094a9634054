"""Keep classes of pseudo-labels about as large, on the whole, as in the labeled cases.

A network of two labels finds too much of one class and too little of another in almost every case, and a round that
learns from it finds more, or less, still. How large a class is on the whole is what even two labels say, within a
margin: their mean is not that of all cases. So where the median volume of a class lies beyond the margin, its logit is
shifted, in all cases alike, until the median lies within. Which voxels are found first, and how cases differ, stays the
network's to say. It is distribution alignment (ReMixMatch: Berthelot et al., ICLR 2020) with volumes for frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Largest by smallest labeled volume up to which a class has a size.
SIZES = 4.0
# No logit is shifted by more: what has so much lower a logit is no matter of degree.
MAX_SHIFT = 2.0
# Voxels of a case that its volumes are estimated from: a class with a hundredth of them is known to within 5 %.
SAMPLED_VOXELS = 50_000
# The classes are matched in turn, so often; then they hardly change.
SWEEPS = 4
# Halvings of the interval of a shift.
HALVINGS = 16


def expected_voxels(volumes_ml: Mapping[int, np.ndarray], voxel_ml: float) -> dict[int, int]:
    """Return the geometric mean of the labeled volumes of each class that has a size, in voxels.

    Args:
        volumes_ml: of each class in the labeled cases, shape (cases,).
        voxel_ml: volume of a voxel.
    """
    sized = {value: ml for value, ml in volumes_ml.items() if ml.size and 0 < ml.max() <= SIZES * ml.min()}
    return {value: round(float(np.exp(np.log(ml).mean())) / voxel_ml) for value, ml in sized.items()}


@dataclass(frozen=True)
class CaseVolumes:
    """Tell the volumes of a case under shifts of its logits.

    Args:
        decided: voxels of each class that no shift within the bound changes, shape (K,).
        logits: of a sample of the others, shape (K, n).
        voxels_each: how many voxels each of the sample stands for.
    """

    decided: np.ndarray
    logits: np.ndarray
    voxels_each: float

    def leads(self, value: int, shifts: np.ndarray) -> np.ndarray:
        """Return by how much a class leads the best other one in each voxel of the sample, shape (n,)."""
        shifted = self.logits + shifts[:, None]
        own = shifted[value].copy()
        shifted[value] = -np.inf
        lead: np.ndarray = own - shifted.max(axis=0)
        return lead


def case_volumes(logits: np.ndarray, rng: np.random.Generator) -> CaseVolumes:
    """Sample the voxels of a case whose class may change when each logit is shifted by up to :data:`MAX_SHIFT`.

    Args:
        logits: shape (K, z, y, x).
        rng: draws the sample.
    """
    flat = logits.reshape(len(logits), -1)
    # The best two classes of each voxel, one class after the other: sorted, many of them would not fit side by side.
    best, second = flat[0].copy(), np.full(flat.shape[1], -np.inf, flat.dtype)
    winner = np.zeros(flat.shape[1], np.int16)
    for value in range(1, len(flat)):
        better = flat[value] > best
        second = np.maximum(second, np.where(better, best, flat[value]))
        best[better], winner[better] = flat[value][better], value
    is_open = best - second <= 2 * MAX_SHIFT
    decided = np.bincount(winner[~is_open], minlength=len(flat))
    place = np.flatnonzero(is_open)
    drawn = place if len(place) <= SAMPLED_VOXELS else np.sort(rng.choice(place, SAMPLED_VOXELS, replace=False))
    return CaseVolumes(decided, flat[:, drawn].astype(np.float32), len(place) / max(1, len(drawn)))


def matching_shifts(
    cases: Sequence[CaseVolumes], expected_voxels: Mapping[int, int], margin: float
) -> dict[int, float]:
    """Return the smallest shift of each class's logit with which its median volume is within a margin of the expected.

    Args:
        cases: some unlabeled cases.
        expected_voxels: of each class that has a size; the others are not shifted.
        margin: the median is to lie between the expected volume divided by this and times this.
    """
    shifts = np.zeros(len(cases[0].decided))
    for _ in range(SWEEPS):
        for value, expected in expected_voxels.items():
            shifts[value] = 0.0
            leads = [case.leads(value, shifts) for case in cases]
            shifts[value] = _smallest_shift(value, cases, leads, expected / margin, expected * margin)
    return {value: float(shifts[value]) for value in expected_voxels}


def _smallest_shift(
    value: int, cases: Sequence[CaseVolumes], leads: Sequence[np.ndarray], least: float, most: float
) -> float:
    """Return the smallest shift with which the median volume of a class lies between ``least`` and ``most``."""

    def median_at(shift: float) -> float:
        volumes = [
            case.decided[value] + case.voxels_each * np.count_nonzero(lead > -shift)
            for case, lead in zip(cases, leads, strict=True)
        ]
        return float(np.median(volumes))

    median = median_at(0.0)
    if least <= median <= most:
        return 0.0
    target, low, high = (least, 0.0, MAX_SHIFT) if median < least else (most, -MAX_SHIFT, 0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if median_at(middle) < target else (low, middle)
    return (low + high) / 2
