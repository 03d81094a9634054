"""Carry labels over to a scan that has none: register labeled scans, the atlases, to it, and let their labels vote.

An atlas counts for more where it matches better (Artaechevarria et al., IEEE TMI 28 (2009) 1266). How far the atlases
agree with each other tells how good the result is, before any network has learned: where registration fails, it fails
differently for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcl_auto.method.label_maps import Classes, mean_dice
from pcl_auto.method.registration import Scan, local_correlation, move, register

# Local correlation to this power is the weight of a vote, over windows of 2 * VOTE_RADIUS + 1 voxels along every axis.
VOTE_POWER, VOTE_RADIUS = 4, 4
# Where no atlas matches, all of them vote.
_LEAST_WEIGHT = 1e-4


@dataclass(frozen=True)
class Atlas:
    """A labeled scan; ``labels`` (z, y, x) are on its grid."""

    scan: Scan
    labels: np.ndarray


@dataclass(frozen=True)
class Fusion:
    """Labels (z, y, x) that atlases have voted for, and the mean Dice of every two atlases; None of a single one."""

    labels: np.ndarray
    agreement: float | None


def fuse_atlases(fixed: Scan, atlases: Sequence[Atlas], values: Sequence[int], classes: Classes) -> Fusion:
    """Register every atlas to a scan and let their labels vote.

    Args:
        fixed: the scan.
        atlases: at least one; voxels of other values than ``values`` do not vote.
        values: that a voxel may have, background (0) first; of equal votes the first one wins.
        classes: foreground classes or regions, which agreement is about.
    """
    votes = torch.zeros(len(values), *fixed.image.shape[1:], device=fixed.image.device)
    alone = []
    for atlas in atlases:
        places = register(fixed, atlas.scan)
        match = local_correlation(fixed.image, move(atlas.scan.image, places), VOTE_RADIUS)
        moved = move(_indicators(atlas.labels, values).to(votes.device), places)
        votes += (match.clamp_min(0) ** VOTE_POWER + _LEAST_WEIGHT) * moved
        alone.append(_winners(moved, values))
    pairs = [mean_dice(first, second, classes) for n, first in enumerate(alone) for second in alone[n + 1 :]]
    return Fusion(_winners(votes, values), float(np.mean(pairs)) if pairs else None)


def move_labels(labels: np.ndarray, places: Tensor, values: Sequence[int]) -> np.ndarray:
    """Bring a label map (z, y, x) to the fixed scan; see :func:`pcl_auto.method.registration.move`.

    Args:
        labels: on the grid of the moving scan.
        places: from :func:`pcl_auto.method.registration.register`.
        values: that a voxel may have.
    """
    return _winners(move(_indicators(labels, values).to(places.device), places), values)


def most_similar(thumbnail: np.ndarray, thumbnails: Sequence[np.ndarray], count: int) -> list[int]:
    """Return the indices of the ``count`` thumbnails that correlate best with one, the best first.

    All are from :func:`pcl_auto.method.mirroring.thumbnail`.
    """
    order = np.argsort([-float(np.sum(thumbnail * each)) for each in thumbnails], kind="stable")
    return [int(index) for index in order[:count]]


def _indicators(labels: np.ndarray, values: Sequence[int]) -> Tensor:
    """Return an image (K, z, y, x) for each of K values: 1 where the labels have it, 0 elsewhere."""
    return torch.stack([torch.from_numpy(np.asarray(labels == value, dtype=np.float32)) for value in values])


def _winners(votes: Tensor, values: Sequence[int]) -> np.ndarray:
    chosen: np.ndarray = np.asarray(values, dtype=np.int16)[votes.argmax(0).cpu().numpy()]
    return chosen
