"""Check whether a network segments a scan alike after it was turned, scaled and mirrored.

Chaitanya et al. (MedIA 2023, Section 3.3) keep the pseudo-labels whose segmentations under two random transforms agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pcl_auto.method.label_maps import Classes, mean_dice

# The published ranges.
MAX_DEGREES = 30.0
SCALES = (0.9, 1.1)


@dataclass(frozen=True)
class InPlane:
    """Turn by ``degrees``, scale and mirror within the slices, about their center; slices stay where they are."""

    degrees: float
    scale: float
    mirrored: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Transform an image of shape (C, z, y, x); beyond the border it repeats the border."""
        moved = np.stack([self._resampled(channel, self._matrix(), order=1, mode="nearest") for channel in image])
        return moved.astype(image.dtype, copy=False)

    def undo(self, labels: np.ndarray) -> np.ndarray:
        """Bring a label map (z, y, x) of the transformed image back to the image; background beyond its border."""
        return self._resampled(labels, np.linalg.inv(self._matrix()), order=0, mode="constant")

    def _matrix(self) -> np.ndarray:
        """Return the map from a voxel of the transformed slice to its source, both as (y, x) from the center."""
        angle = np.deg2rad(self.degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        mirror = np.diag([1.0, -1.0 if self.mirrored else 1.0])
        matrix: np.ndarray = turn @ mirror / self.scale
        return matrix

    @staticmethod
    def _resampled(volume: np.ndarray, matrix: np.ndarray, *, order: int, mode: str) -> np.ndarray:
        whole = np.eye(3)
        whole[1:, 1:] = matrix
        center = (np.array(volume.shape) - 1) / 2
        moved: np.ndarray = ndimage.affine_transform(volume, whole, center - whole @ center, order=order, mode=mode)
        return moved


def draw_transforms(case: str, seed: int, *, mirror: bool) -> tuple[InPlane, InPlane]:
    """Draw two random transforms for a case, the same ones for the same ``seed``.

    Args:
        case: the case's id.
        seed: of the run.
        mirror: whether the data set could hold scans mirrored along x.
    """
    rng = np.random.default_rng([seed, *case.encode()])
    first, second = (
        InPlane(
            degrees=float(rng.uniform(-MAX_DEGREES, MAX_DEGREES)),
            scale=float(rng.uniform(*SCALES)),
            mirrored=mirror and bool(rng.integers(2)),
        )
        for _ in range(2)
    )
    return first, second


def agreement(
    segment: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    transforms: tuple[InPlane, InPlane],
    classes: Classes,
) -> float:
    """Return the mean foreground Dice of a scan's segmentations under two transforms; 1 where neither has foreground.

    Args:
        segment: a label map (z, y, x) of an image (C, z, y, x).
        image: the scan, shape (C, z, y, x).
        transforms: applied before the segmentation and undone after it.
        classes: foreground classes or regions.
    """
    first, second = (transform.undo(segment(transform.apply(image))) for transform in transforms)
    return mean_dice(first, second, classes)
