"""Along which axes the place of a class among the others tells it apart, so that mirroring would confuse it.

A mirrored left kidney is a right one, and the mirrored head of a hippocampus lies where its tail should: a network that
learns from mirrored patches cannot know such classes by their place any more. Along axes in which the labeled cases
show no order, mirroring doubles the few labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pcl_auto.method.mirroring import MeasuredAxis

# Classes are in order from here on: the halves of a box are 3.5 apart along the side that is cut, a ring and what it
# encloses 0.
MIN_DISTANCE = 1.0
# Variance of a voxel along its own side: classes of one voxel have an extent, too.
_OF_A_VOXEL = 1 / 12


def axis_orders(label_maps: Iterable[np.ndarray], ignored: int | None = None) -> list[MeasuredAxis]:
    """Measure the order of the foreground classes along each axis of the label maps.

    The measure is the distance between the centers of two classes along the axis, in standard deviations of their
    voxels there (root mean square of both): in the case where it is smallest, of the two classes for which it is
    greatest. It is 0 where every two classes change sides from case to case, and where there is one class.

    Args:
        label_maps: of the labeled cases, each (z, y, x); 0 and less is background.
        ignored: value of voxels that nobody labeled.
    """
    cases = [_extents(labels, ignored) for labels in label_maps]
    classes = sorted({value for case in cases for value in case})
    distances = np.zeros(3)
    for one in classes:
        for other in classes[: classes.index(one)]:
            apart = [_distances(case[one], case[other]) for case in cases if one in case and other in case]
            if apart:
                one_sided = abs(np.sign(apart).sum(axis=0)) == len(apart)
                distances = np.maximum(distances, np.where(one_sided, np.abs(apart).min(axis=0), 0.0))
    return [MeasuredAxis(axis, far, far < MIN_DISTANCE) for axis, far in enumerate(distances.tolist())]


@dataclass(frozen=True)
class _Extent:
    """Center and variance of a class's voxels along each axis, shape (3,), in voxels."""

    center: np.ndarray
    variance: np.ndarray


def _extents(labels: np.ndarray, ignored: int | None) -> dict[int, _Extent]:
    found = {}
    for value in np.unique(labels[labels > 0]).tolist():
        if value != ignored:
            places = np.argwhere(labels == value)
            found[value] = _Extent(places.mean(axis=0), places.var(axis=0) + _OF_A_VOXEL)
    return found


def _distances(one: _Extent, other: _Extent) -> np.ndarray:
    """Return how far ``one`` lies behind ``other`` along each axis, in standard deviations."""
    apart: np.ndarray = (one.center - other.center) / np.sqrt((one.variance + other.variance) / 2)
    return apart
