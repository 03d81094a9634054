"""Leave out of a pseudo-label what the network is least sure of, as much on either side of a border.

A network of two labels is sure of itself where it is wrong, and how sure differs from class to class: of one that it
hardly knows no voxel passes a threshold on the probability. The order of the voxels within a class tells more. So a
share of each class is left out (class-balanced self-training: Zou et al., ECCV 2018), and as many voxels of the
background beside it: neither side of a border is learned from more than the other.
"""

from __future__ import annotations

import numpy as np


def unsure_voxels(labels: np.ndarray, logits: np.ndarray, share: float) -> np.ndarray:
    """Mark the ``share`` of each class that leads its next best class by the least, and as much background.

    Background counts to the class that is its next best. Voxels whose label is not what the network itself says have
    been decided by something else, and are not marked.

    Args:
        labels: shape (z, y, x), of values below the number of classes K.
        logits: shape (K, z, y, x).
        share: of the voxels of each class, 0 to 1.

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
        place = np.flatnonzero(own & (flat == value))
        others = scores[:, place]
        others[value] = -np.inf
        count = int(share * len(place))
        unsure[_least(place, scores[value, place] - others.max(axis=0), count)] = True
        place = np.flatnonzero(background & (rival == value))
        unsure[_least(place, scores[0, place] - best[place], count)] = True
    return unsure.reshape(labels.shape)


def _least(place: np.ndarray, lead: np.ndarray, count: int) -> np.ndarray:
    """Return those ``count`` of the places, or all, that have the smallest lead."""
    return place if count >= len(place) else place[np.argpartition(lead, count)[:count]]
