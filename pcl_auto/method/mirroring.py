"""Along which axes mirroring a scan gives another scan that the data set could hold.

nnU-Net mirrors its training patches along every axis. With many labels that does no harm; with two, a network that has
to know every organ upside down knows none of them well. Unlabeled scans tell which mirrored scans exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

# Voxels of a thumbnail along every axis: enough for the large structures, few enough that small shifts do not matter.
THUMBNAIL = 12
# With fewer scans there is no telling what the data set could hold.
MIN_CASES = 8
# Mirrored scans of a symmetric anatomy are as near to other scans as the scans themselves: a share of one half.
MIN_SHARE = 0.25


@dataclass(frozen=True)
class MeasuredAxis:
    """A measure along one axis; whether patches are to be ``mirrored`` along it."""

    axis: int
    measure: float
    mirrored: bool


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink ``image`` (C, z, y, x) to shape (C, 12, 12, 12), with mean 0 and length 1."""
    small = functional.adaptive_avg_pool3d(torch.from_numpy(np.asarray(image, dtype=np.float32)), THUMBNAIL).numpy()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    unit: np.ndarray = small / length if length > 0 else small
    return unit


def axis_symmetries(thumbnails: Sequence[np.ndarray]) -> list[MeasuredAxis]:
    """Measure what mirroring along each spatial axis does to a data set; of fewer than 8 scans nothing.

    The measure is how often a mirrored scan is nearer to its nearest other scan than a scan as it is to its own, over
    all pairs of the two; one half where mirroring makes no difference, 0 where mirrored scans look like none.

    Args:
        thumbnails: one per scan, from :func:`thumbnail`; all of one shape (C, z, y, x).
    """
    if len(thumbnails) < MIN_CASES:
        return []
    scans = np.stack(thumbnails)
    plain = _nearest(scans, scans)
    mirrored = [_nearest(np.flip(scans, axis + 2), scans) for axis in range(scans.ndim - 2)]
    shares = [float(np.mean(each[:, None] >= plain[None, :])) for each in mirrored]
    return [MeasuredAxis(axis, share, share >= MIN_SHARE) for axis, share in enumerate(shares)]


def _nearest(these: np.ndarray, scans: np.ndarray) -> np.ndarray:
    """Return the correlation of each of ``these`` with the most similar of the other scans, shape (cases,)."""
    similar = these.reshape(len(these), -1) @ scans.reshape(len(scans), -1).T
    np.fill_diagonal(similar, -np.inf)
    nearest: np.ndarray = similar.max(axis=1)
    return nearest
