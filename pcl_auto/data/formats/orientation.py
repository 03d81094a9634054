"""Which way up a scan is shown: as in radiology, the patient's head above, and right on the left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

# Axes of the volume, patient-wise: 0 foot to head, 1 front to back, 2 right to left; (rows, columns) of each picture.
PLANES = {"axial": (0, (1, 2)), "coronal": (1, (0, 2)), "sagittal": (2, (0, 1))}
# What is right of and above each picture's left and upper edge; the patient's right is on the left, as in radiology.
EDGES = {"axial": ("R", "A"), "coronal": ("R", "H"), "sagittal": ("A", "H")}


def to_patient(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which array axes (of z, y, x) go most nearly from head to foot, front to back and right to left, and flips.

    Args:
        direction: where x, y and z point to (left, back, head), nine cosines, row by row as ITK has them.

    Returns:
        the order to transpose the axes into, and then which of the axes in that order to flip.
    """
    # Rows: head, back, left; columns: z, y, x.
    cosines = np.reshape(direction, (3, 3))[::-1, ::-1]
    axes = max(permutations(range(3)), key=lambda order: sum(abs(cosines[row, axis]) for row, axis in enumerate(order)))
    # From the head down, so that it is on top.
    downwards = np.array([-1, 1, 1])
    return axes, tuple(row for row, axis in enumerate(axes) if downwards[row] * cosines[row, axis] < 0)
