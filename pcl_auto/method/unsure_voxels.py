"""Leave out of a pseudo-label what is in doubt, on either side of a class's border.

A network of two labels is sure of itself where it is wrong, and how sure differs from class to class: of one that it
hardly knows no voxel passes a threshold on the probability. The order of voxels within a class tells more. Two rules
say how many of them are in doubt. The first is a share of each class, and as much background beside it (class-balanced
self-training: Zou et al., ECCV 2018). The second goes by how large a class is in the labeled cases: what a pseudo-label
has beyond that is in doubt, and where it has less, as much background as is missing. So no round teaches that a class
is larger than the labels say, or smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Largest by smallest labeled volume up to which a class has a size.
SIZES = 4.0


@dataclass(frozen=True)
class Doubts:
    """Count the voxels of a pseudo-label that are in doubt.

    Args:
        share: of each class, and of as much background.
        expected_voxels: of each class that has a size; what a pseudo-label has beyond or below is in doubt.
    """

    share: float
    expected_voxels: Mapping[int, int]

    def __bool__(self) -> bool:
        """Return True if there are any."""
        return self.share > 0 or bool(self.expected_voxels)

    def counts(self, value: int, voxels: int) -> tuple[int, int]:
        """Return how many ``voxels`` of a class are in doubt, and how many of the background beside it."""
        share, expected = int(self.share * voxels), self.expected_voxels.get(value, voxels)
        return max(share, voxels - expected), max(share, expected - voxels)


def expected_voxels(volumes_ml: Mapping[int, np.ndarray], voxel_ml: float) -> dict[int, int]:
    """Return the geometric mean of the labeled volumes of each class that has a size, in voxels.

    Args:
        volumes_ml: of each class in the labeled cases, shape (cases,).
        voxel_ml: volume of a voxel.
    """
    sized = {value: ml for value, ml in volumes_ml.items() if ml.size and 0 < ml.max() <= SIZES * ml.min()}
    return {value: round(float(np.exp(np.log(ml).mean())) / voxel_ml) for value, ml in sized.items()}


def unsure_voxels(labels: np.ndarray, logits: np.ndarray, doubts: Doubts) -> np.ndarray:
    """Mark the voxels of each class that lead its next best class by the least, and background beside it.

    Background counts to the class that is its next best. Voxels whose label is not what the network itself says have
    been decided by something else, and are not marked.

    Args:
        labels: shape (z, y, x), of values below the number of classes K.
        logits: shape (K, z, y, x).
        doubts: how many.

    Returns:
        Shape (z, y, x), bool.
    """
    flat, scores = labels.reshape(-1), logits.reshape(len(logits), -1)
    # The best class of each voxel but background, one class after the other: many of them would not fit side by side.
    best, rival = scores[1].copy(), np.ones(flat.shape, np.int16)
    for value in range(2, len(logits)):
        better = scores[value] > best
        best[better], rival[better] = scores[value][better], value
    own = flat == np.where(scores[0] >= best, 0, rival)
    unsure = np.zeros(flat.shape, dtype=bool)
    background = own & (flat == 0)
    for value in range(1, len(logits)):
        inside, beside = doubts.counts(value, int((flat == value).sum()))
        place = np.flatnonzero(own & (flat == value))
        others = scores[:, place]
        others[value] = -np.inf
        unsure[_least(place, scores[value, place] - others.max(axis=0), inside)] = True
        place = np.flatnonzero(background & (rival == value))
        unsure[_least(place, scores[0, place] - best[place], beside)] = True
    return unsure.reshape(labels.shape)


def _least(place: np.ndarray, lead: np.ndarray, count: int) -> np.ndarray:
    """Return those ``count`` of the places, or all, that have the smallest lead."""
    return place if count >= len(place) else place[np.argpartition(lead, count)[:count]]
