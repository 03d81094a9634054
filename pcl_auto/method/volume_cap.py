"""Keep a class in a pseudo-label from growing beyond what the labeled cases show.

A network of two labels finds too much of a class rather than too little, and a round that learns from it finds more
still: nothing in its losses says how large an organ is. The labeled cases do. What the network is least sure of goes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def max_voxels(volumes_ml: Mapping[int, np.ndarray], voxel_ml: float, times: float) -> dict[int, int]:
    """Return how many voxels each class may have: ``times`` its largest labeled volume.

    Classes that no labeled case shows are not bounded.

    Args:
        volumes_ml: of each class in the labeled cases, shape (cases,).
        voxel_ml: volume of a voxel.
        times: the bound, in largest labeled volumes.
    """
    largest = {value: float(volumes.max(initial=0.0)) for value, volumes in volumes_ml.items()}
    return {value: round(times * volume / voxel_ml) for value, volume in largest.items() if volume > 0}


def cap_volumes(labels: np.ndarray, logits: np.ndarray, voxels: Mapping[int, int]) -> np.ndarray:
    """Return ``labels`` with at most so many ``voxels`` of each class; the surplus goes to the next best class.

    It goes from where the class leads the next best one by the least, to none of the classes bounded before it.

    Args:
        labels: shape (z, y, x), of values below the number of classes K.
        logits: shape (K, z, y, x).
        voxels: by value; values that are not there are not bounded.
    """
    capped: np.ndarray = labels.copy()
    flat, scores = capped.reshape(-1), logits.reshape(len(logits), -1)
    bounded: list[int] = []
    for value, most in voxels.items():
        bounded.append(value)
        place = np.flatnonzero(flat == value)
        if len(place) > most:
            others = scores[:, place]
            others[bounded] = -np.inf
            lead = scores[value, place] - others.max(axis=0)
            lost = np.argsort(lead, kind="stable")[: len(place) - most]
            flat[place[lost]] = others[:, lost].argmax(axis=0)
    return capped
