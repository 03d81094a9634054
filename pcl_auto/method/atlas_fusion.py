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
from scipy import ndimage
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
    shape, device = fixed.image.shape[1:], fixed.image.device
    places = [register(fixed, atlas.scan) for atlas in atlases]
    weights = [_weight(fixed, atlas.scan, found) for atlas, found in zip(atlases, places, strict=True)]
    together, *alone = (_Election(shape, device) for _ in range(len(atlases) + 1))
    # Value by value: a scan of many classes would not fit into memory once for each of them.
    for value in values:
        votes = torch.zeros(shape, device=device)
        for atlas, found, weight, election in zip(atlases, places, weights, alone, strict=True):
            moved = move_indicator(atlas.labels == value, found)
            election.count(value, moved)
            votes += weight * moved
        together.count(value, votes)
    winners = [each.winners() for each in alone]
    pairs = [mean_dice(first, second, classes) for n, first in enumerate(winners) for second in winners[n + 1 :]]
    return Fusion(together.winners(), float(np.mean(pairs)) if pairs else None)


def _weight(fixed: Scan, moving: Scan, places: Tensor) -> Tensor:
    """Return the weight (z, y, x) of a scan's votes: how well its intensities match about each voxel."""
    match = local_correlation(fixed.image, move(moving.image, places), VOTE_RADIUS)
    return match.clamp_min(0) ** VOTE_POWER + _LEAST_WEIGHT


class _Election:
    """The value with the most votes in each voxel, as values are counted one after the other."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self._most = torch.full(tuple(shape), -1.0, device=device)
        self._values = torch.zeros(tuple(shape), dtype=torch.int16, device=device)

    def count(self, value: int, votes: Tensor) -> None:
        """Count the votes (z, y, x) for a value; of equal votes the value counted first wins."""
        more = votes > self._most
        self._most[more] = votes[more]
        self._values[more] = value

    def winners(self) -> np.ndarray:
        labels: np.ndarray = self._values.cpu().numpy()
        return labels


def move_labels(labels: np.ndarray, places: Tensor, values: Sequence[int]) -> np.ndarray:
    """Bring a label map (z, y, x) to the fixed scan; see :func:`pcl_auto.method.registration.move`.

    Args:
        labels: on the grid of the moving scan.
        places: from :func:`pcl_auto.method.registration.register`.
        values: that a voxel may have.
    """
    election = _Election(places.shape[1:4], places.device)
    for value in values:
        election.count(value, move_indicator(labels == value, places))
    return election.winners()


def move_indicator(mask: np.ndarray, places: Tensor) -> Tensor:
    """Bring a mask (z, y, x) to the fixed scan as :func:`pcl_auto.method.registration.move` brings an image of 0 and 1.

    Only the places about the mask are looked at: an organ is a small part of a scan.
    """
    moved = torch.zeros(places.shape[1:4], device=places.device)
    if not mask.any():
        return moved
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    start = [max(0, side.start - 1) for side in box]
    cut = mask[tuple(slice(first, side.stop + 1) for first, side in zip(start, box, strict=True))]
    sizes, cut_sizes, first = (
        torch.tensor(each[::-1], dtype=torch.float32, device=places.device) for each in (mask.shape, cut.shape, start)
    )
    # In voxels along x, y, z from the first one of the cut; beyond the border of the scan it repeats the border.
    voxels = (((places[0] + 1) * sizes - 1) / 2).clamp_min(0).minimum(sizes - 1) - first
    about = ((voxels >= 0) & (voxels <= cut_sizes - 1)).all(-1)
    inside = ((2 * voxels[about] + 1) / cut_sizes - 1).view(1, 1, 1, -1, 3)
    image = torch.from_numpy(cut.astype(np.float32)).to(places.device)
    moved[about] = move(image[None], inside).flatten()
    return moved


def most_similar(thumbnail: np.ndarray, thumbnails: Sequence[np.ndarray], count: int) -> list[int]:
    """Return the indices of the ``count`` thumbnails that correlate best with one, the best first.

    All are from :func:`pcl_auto.method.mirroring.thumbnail`.
    """
    order = np.argsort([-float(np.sum(thumbnail * each)) for each in thumbnails], kind="stable")
    return [int(index) for index in order[:count]]
