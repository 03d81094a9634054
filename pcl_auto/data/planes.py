"""Show a volume in three planes as radiology does: the head above, and the patient's right on the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Plane(NamedTuple):
    """A plane of the patient, for volumes as :func:`orient` returns them.

    ``axis``: the axis that a slice is cut across. ``rows`` and ``columns``: the axes of its picture. ``left`` and
    ``top``: the letters of the side of the patient at its left and upper edge.
    """

    name: str
    axis: int
    rows: int
    columns: int
    left: str
    top: str


PLANES = (
    Plane("axial", 0, 1, 2, "R", "A"),
    Plane("coronal", 1, 0, 2, "R", "H"),
    Plane("sagittal", 2, 0, 1, "A", "H"),
)


@dataclass(frozen=True)
class Structure:
    """The largest structure of a mask.

    ``center``: along each axis, the slice that shows most of it. ``extent``: along each axis, the first and last slice
    with a voxel of any class. ``voxels``: the number of voxels of each class.
    """

    center: list[int]
    extent: list[tuple[int, int]]
    voxels: list[int]


def to_patient(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the array axes (of z, y, x) nearest to head-foot, front-back and right-left, and which of them to flip.

    Args:
        direction: the directions of x, y and z in (left, back, head), nine cosines, row by row as in ITK.

    Returns:
        The order to transpose the axes into, and the axes in that order to flip.
    """
    # Rows: head, back, left; columns: z, y, x.
    cosines = np.reshape(direction, (3, 3))[::-1, ::-1]
    axes = max(permutations(range(3)), key=lambda order: sum(abs(cosines[row, axis]) for row, axis in enumerate(order)))
    # From the head down, so that it is on top.
    downwards = np.array([-1, 1, 1])
    return axes, tuple(row for row, axis in enumerate(axes) if downwards[row] * cosines[row, axis] < 0)


def orient(volume: np.ndarray, axes: Sequence[int], flips: Sequence[int]) -> np.ndarray:
    """Turn the last three axes of a volume to head-foot, front-back and right-left, as :func:`to_patient` says."""
    leading = volume.ndim - 3
    order = (*range(leading), *(leading + axis for axis in axes))
    return np.flip(volume.transpose(order), tuple(leading + axis for axis in flips))


def find_structure(mask: np.ndarray, classes: Sequence[Sequence[int]]) -> Structure:
    """Find the largest connected part of the class that has the most voxels.

    Args:
        mask: shape (z, y, x), whole numbers.
        classes: the values of each class in the mask.

    Returns:
        The structure; the middle and the whole of the mask where it has no voxel of any class.
    """
    present = [value for values in classes for value in values]
    counts = _count(mask, 1 + max(present, default=0))
    voxels = [int(counts[list(values)].sum()) for values in classes]
    if not any(voxels):
        return Structure([size // 2 for size in mask.shape], [(0, size - 1) for size in mask.shape], voxels)
    inside = np.isin(mask, classes[int(np.argmax(voxels))])
    # In its bounding box: a structure is a small part of a volume.
    (box,) = ndimage.find_objects(inside.view(np.uint8))
    parts, number = ndimage.label(inside[box])
    largest = parts == 1 + np.argmax(_count(parts, 1 + number)[1:])
    foreground = np.isin(mask, present)
    center, extent = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        center.append(int(box[axis].start + np.argmax(largest.sum(axis=others))))
        occupied = np.flatnonzero(foreground.any(axis=others))
        extent.append((int(occupied[0]), int(occupied[-1])))
    return Structure(center, extent, voxels)


def _count(labels: np.ndarray, values: int) -> np.ndarray:
    """Count the voxels of each value below ``values``."""
    counts = np.zeros(values + 1, np.int64)
    for labels_2d in labels:  # slice by slice: counting takes eight bytes for each voxel
        counts += np.bincount(labels_2d.astype(np.int64).clip(0, values).ravel(), minlength=values + 1)
    return counts[:values]
