"""A dense conditional random field over a pseudo-label: alike and near voxels should have one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Standard deviations of the two terms: of smoothness, in voxels of the slice; of likeness, in those and in shares of
# the intensities' range. The published code's spatial term is far below a voxel and its image term is off, so that
# it only erases what is small: these are ours.
SMOOTH_VOXELS, ALIKE_VOXELS, ALIKE_INTENSITY = 1.0, 10.0, 0.1
ITERATIONS = 5
# Only the surroundings of what may be foreground are looked at.
LEAST_PROBABILITY, MARGIN_VOXELS = 0.01, 10


def refine(probabilities: np.ndarray, image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """The labels (z, y, x) that a dense CRF makes of ``probabilities``, int16; needs the package pydensecrf2.

    The refinement of pseudo-labels of Chaitanya et al. (MedIA 2023, Section 3.3), by mean-field inference
    (Krähenbühl and Koltun, NeurIPS 2011).

    Args:
        probabilities: of every class, shape (K, z, y, x), background first.
        image: the preprocessed scan, shape (C, z, y, x).
        spacing_mm: of the voxels, (z, y, x).
    """
    from pydensecrf.densecrf import DenseCRF
    from pydensecrf.utils import unary_from_softmax

    labels: np.ndarray = probabilities.argmax(0).astype(np.int16)
    box = _surroundings(1 - probabilities[0] > LEAST_PROBABILITY)
    if box is None:
        return labels
    in_box = (slice(None), *box)
    inside, voxels = probabilities[in_box], image[in_box]
    # In voxels of the slice along every axis: thick slices lie farther apart.
    relative = np.array(spacing_mm, dtype=np.float32) / spacing_mm[-1]
    place = np.indices(inside.shape[1:], dtype=np.float32).reshape(3, -1) * relative[:, None]
    field = DenseCRF(place.shape[1], len(inside))
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(inside.astype(np.float32).reshape(len(inside), -1))))
    field.addPairwiseEnergy(np.ascontiguousarray(place / SMOOTH_VOXELS), compat=1.0)
    alike = np.concatenate([place / ALIKE_VOXELS, _in_range(voxels).reshape(len(voxels), -1) / ALIKE_INTENSITY])
    field.addPairwiseEnergy(np.ascontiguousarray(alike), compat=1.0)
    labels[box] = np.array(field.inference(ITERATIONS)).reshape(inside.shape).argmax(0)
    return labels


def _surroundings(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The box around ``mask`` with its margin; None where it is empty."""
    found = np.argwhere(mask)
    if not len(found):
        return None
    first, last = found.min(0) - MARGIN_VOXELS, found.max(0) + MARGIN_VOXELS + 1
    return tuple(slice(max(0, int(a)), int(b)) for a, b in zip(first, last, strict=True))


def _in_range(voxels: np.ndarray) -> np.ndarray:
    """Every channel with its percentiles 1 and 99 at 0 and 1, as in the paper's preprocessing."""
    flat = voxels.reshape(len(voxels), -1).astype(np.float32)
    low, high = np.percentile(flat, [1, 99], axis=1, keepdims=True)
    scaled: np.ndarray = ((flat - low) / np.maximum(high - low, 1e-6)).astype(np.float32).reshape(voxels.shape)
    return scaled
