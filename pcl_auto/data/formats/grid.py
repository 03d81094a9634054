"""Voxel grids: where the voxels of a volume lie in space, and whether two volumes share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Affine = tuple[tuple[float, ...], ...]
# The order in which axes are taken, and which of them are then reversed.
Turn = tuple[tuple[int, ...], tuple[bool, ...]]

# How far apart, in voxels along any axis, the same corner of two grids may lie.
# Files of a training set: their voxels are paired by index, so only the rounding of headers is let pass.
TRAINING_TOLERANCE_VOXELS = 0.02
# Masks to score: other programs write coarser headers; a real shift is far larger than a tenth of a voxel.
SCORING_TOLERANCE_VOXELS = 0.1
# Channels of a scan to segment: a scanner places each series by itself; within half a voxel the nearest is the same.
CHANNEL_TOLERANCE_VOXELS = 0.5
# Beyond these nothing is a scan of a body: sizes of voxels, the way from the scanner's origin.
MIN_SPACING_MM, MAX_SPACING_MM = 1e-4, 100.0
MAX_POSITION_MM = 1e6
# float32 headers lose this share of a distance from the origin.
_RELATIVE_NOISE = 2e-6


@dataclass(frozen=True)
class Geometry:
    """Spacing and origin in mm, and nine direction cosines row by row, in LPS as ITK has them; axes x, y, z."""

    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]

    def grid(self, shape: Sequence[int]) -> Grid:
        """Return the grid of a volume of this shape (x, y, z)."""
        return Grid.of_itk(shape, self.spacing_mm, self.origin_mm, self.direction)


@dataclass(frozen=True)
class Grid:
    """The voxels of a volume in space: ``shape`` per axis, and the ``affine`` from indices to mm in RAS.

    For n axes (2 or 3) the affine is (n + 1, n + 1), as in nibabel.
    """

    shape: tuple[int, ...]
    affine: Affine

    @classmethod
    def of_itk(
        cls, shape: Sequence[int], spacing_mm: Sequence[float], origin_mm: Sequence[float], direction: Sequence[float]
    ) -> Grid:
        """Build a grid from ITK's geometry, which is in LPS; ``direction`` holds the cosines row by row."""
        axes = len(shape)
        affine = np.eye(axes + 1)
        affine[:axes, :axes] = np.reshape(direction, (axes, axes)) * np.asarray(spacing_mm)
        affine[:axes, axes] = origin_mm
        affine[:2] *= -1
        return cls(tuple(shape), tuple(tuple(map(float, row)) for row in affine))

    def difference(self, other: Grid, tolerance_voxels: float) -> Literal["shape", "position"] | None:
        """Name what keeps ``other`` from being this grid, within a tolerance and the noise of float32 headers."""
        if self.shape != other.shape:
            return "shape"
        axes = len(self.shape)
        affine = np.asarray(self.affine)[:axes]
        apart_voxels = np.abs(np.linalg.solve(affine[:, :axes], self._apart_mm(other))).max()
        reach_mm = np.abs(affine) @ np.array([*self.shape, 1])
        noise_voxels = _RELATIVE_NOISE * reach_mm.max() / np.linalg.norm(affine[:, :axes], axis=0).min()
        return "position" if apart_voxels > tolerance_voxels + noise_voxels else None

    def turned(self, turn: Turn) -> Grid:
        """Return the grid of the same voxels in space, stored along other axes."""
        axes, reverse = turn
        count = len(axes)
        affine = np.array(self.affine)
        affine[:count, :count] = affine[:count, axes]
        shape = tuple(self.shape[axis] for axis in axes)
        for axis in np.flatnonzero(reverse):
            affine[:count, count] += affine[:count, axis] * (shape[axis] - 1)
            affine[:count, axis] *= -1
        return Grid(shape, tuple(tuple(map(float, row)) for row in affine))

    def turn_onto(self, other: Grid, tolerance_voxels: float) -> Turn | None:
        """Return how the axes are to be turned for the voxels to be those of ``other``; None if they lie elsewhere."""
        count = len(self.shape)
        turns = product(permutations(range(count)), product((False, True), repeat=count))
        return next((turn for turn in turns if not other.difference(self.turned(turn), tolerance_voxels)), None)

    def runs_along(self, other: Grid) -> bool:
        """Tell whether each axis runs most nearly along the same axis of ``other``, in the same sense."""
        count = len(self.shape)
        ours, theirs = (np.asarray(grid.affine)[:count, :count] for grid in (self, other))
        cosines = (theirs / np.linalg.norm(theirs, axis=0)).T @ (ours / np.linalg.norm(ours, axis=0))
        nearest = np.abs(cosines).argmax(axis=0)
        return bool((nearest == np.arange(count)).all() and (np.diag(cosines) > 0).all())

    @property
    def is_unplaced(self) -> bool:
        """True of the place that arrays get which are saved without one: from the origin along the axes of the body."""
        count = len(self.shape)
        affine = np.asarray(self.affine)[:count]
        return not affine[:, count].any() and not np.any(affine[:, :count] - np.diag(np.diag(affine)))

    def distance_mm(self, other: Grid) -> float:
        """Return how far apart the same corner of two grids of one shape lies at most."""
        return float(np.linalg.norm(self._apart_mm(other), axis=0).max())

    def _apart_mm(self, other: Grid) -> npt.NDArray[np.float64]:
        """Return the way from every corner to that of ``other``, shape (axes, corners)."""
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in self.shape))]).T
        apart: npt.NDArray[Any] = (np.asarray(other.affine) - np.asarray(self.affine))[:-1] @ corners
        return apart

    def __str__(self) -> str:
        """Return shape and affine for a message."""
        rows = "; ".join(" ".join(f"{value:.5g}" for value in row) for row in self.affine[:-1])
        return f"{format_shape(self.shape)} voxels, affine [{rows}]"


def difference_of(
    ours: Sequence[Grid], theirs: Sequence[Grid], tolerance_voxels: float
) -> Literal["shape", "position"] | None:
    """Name what keeps two volumes off one grid; None if any place that one header states is stated by the other too.

    A header may state two places, and a program that saves a mask beside a scan copies the one that it reads. The first
    is the one that ITK reads. By it, voxels that are paired by any other must not be those of a mirrored anatomy.
    """
    found = {(i, j): a.difference(b, tolerance_voxels) for i, a in enumerate(ours) for j, b in enumerate(theirs)}
    if found[0, 0] is None:
        return None
    first, turn = theirs[0], theirs[0].turn_onto(ours[0], tolerance_voxels)
    for (_, j), difference in found.items():
        if difference is None and not turn and (j == 0 or first.runs_along(ours[0])):
            return None
    return found[0, 0]


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape for a message: 40 x 50 x 20."""
    return " x ".join(map(str, shape))
