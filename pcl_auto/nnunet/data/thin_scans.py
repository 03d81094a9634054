"""Keep a voxel of scans so thin that nnU-Net's resampling would leave nothing of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


def spacing_to_keep(
    image: np.ndarray, spacing_mm: Sequence[float], plans: PlansManager, configuration: ConfigurationManager
) -> list[float]:
    """Return the spacing to resample an image from: its own, but as thick as one voxel where less would be left.

    nnU-Net rounds the thickness of what it does not crop away to voxels of the network: a slice of 0.5 mm becomes none
    of 2 mm, and an array of nothing.

    Args:
        image: shape (C, z, y, x).
        spacing_mm: of its voxels, along z, y and x.
        plans: how nnU-Net turns the axes of a scan.
        configuration: with the spacing of the network; a 2D one leaves the first axis as it is.
    """
    kept = list(spacing_mm)
    axes = plans.transpose_forward[len(plans.transpose_forward) - len(configuration.spacing) :]
    for axis, wanted_mm in zip(axes, configuration.spacing, strict=True):
        size = image.shape[1 + axis]
        if _resampled(1, kept[axis], wanted_mm):
            continue  # one voxel suffices, so any number does
        # What nnU-Net crops to: where some channel is not 0.
        others = tuple(each for each in range(image.ndim) if each != 1 + axis)
        occupied = np.flatnonzero(np.any(image, axis=others))
        size = int(occupied[-1] - occupied[0]) + 1 if occupied.size else size
        if not _resampled(size, kept[axis], wanted_mm):
            kept[axis] = wanted_mm / size
    return kept


def _resampled(size: int, spacing_mm: float, wanted_mm: float) -> int:
    """Return how many voxels nnU-Net makes of so many."""
    return int(compute_new_shape([size], [spacing_mm], [wanted_mm])[0])
