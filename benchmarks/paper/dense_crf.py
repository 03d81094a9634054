"""Refinement of a segmentation by a dense conditional random field: voxels alike in place and intensity get one class.

Krähenbühl and Koltun (NeurIPS 2011), as Chaitanya et al. (MedIA 2023) refine pseudo-labels with it. Their kernel looks
at a hundredth of a pixel and never at the image, which changes nothing but specks; ours measure places in millimeters
and look at the image too. The field itself is that of the optional package pydensecrf2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pcl_auto.nnunet.inference.sliding_window import Segmenter

# The kernels' weights, and their standard deviations: of places, and of intensities as shares of the image's range.
SMOOTH_WEIGHT, SMOOTH_MM = 1.0, 2.0
ALIKE_WEIGHT, ALIKE_MM, ALIKE_INTENSITY = 3.0, 10.0, 0.1
STEPS = 5
# Surer than this no network is; the logarithm of zero would outvote any neighborhood.
MIN_PROBABILITY = 1e-5
# The range of intensities: a few voxels beyond it do not count.
PERCENTILES = (1.0, 99.0)


def refine(probabilities: np.ndarray, image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Refine class probabilities by mean-field inference in a dense conditional random field.

    Only the neighborhood of the foreground, as far as the kernels reach, is looked at: the rest stays as it is, all of
    it where there is no foreground. A million voxels of it take about a second and 0.3 GB.

    Args:
        probabilities: of the network, shape (K, z, y, x), sum 1 over the classes; 0 is the background.
        image: shape (C, z, y, x).
        spacing_mm: of the voxels, along z, y and x.

    Raises:
        ValueError: shapes that do not fit.
    """
    if probabilities.ndim != 4 or image.shape[1:] != probabilities.shape[1:] or len(spacing_mm) != 3:
        raise ValueError(f"probabilities {probabilities.shape}, image {image.shape}, spacing {tuple(spacing_mm)}")
    box = _neighborhood(probabilities.argmax(0) > 0, spacing_mm)
    if box is None:
        return probabilities
    features = [alike_features(image, spacing_mm, box), smooth_features(image.shape[1:], spacing_mm, box)]
    inside = (slice(None), *box)
    part = probabilities[inside]
    refined: np.ndarray = probabilities.copy()
    refined[inside] = _mean_field(part, features).reshape(part.shape)
    return refined


def smooth_features(shape: Sequence[int], spacing_mm: Sequence[float], box: tuple[slice, ...]) -> np.ndarray:
    """Return the positions of the voxels in ``box``, shape (3, N), in standard deviations of the kernel."""
    return _positions_mm(shape, spacing_mm, box) / SMOOTH_MM


def alike_features(image: np.ndarray, spacing_mm: Sequence[float], box: tuple[slice, ...]) -> np.ndarray:
    """Return positions and intensities of the voxels in ``box``, (3 + C, N), in standard deviations of the kernel."""
    low, high = np.percentile(image, PERCENTILES, axis=(1, 2, 3))  # (C,)
    span = np.maximum(high - low, np.finfo(np.float32).tiny)
    boxed = (slice(None), *box)
    inside = image[boxed].reshape(len(image), -1)  # (C, N)
    intensities = (inside - low[:, None]) / span[:, None]
    positions = _positions_mm(image.shape[1:], spacing_mm, box) / ALIKE_MM
    return np.concatenate([positions, np.clip(intensities, 0, 1) / ALIKE_INTENSITY])


def _positions_mm(shape: Sequence[int], spacing_mm: Sequence[float], box: tuple[slice, ...]) -> np.ndarray:
    axes = [np.arange(size)[part] * step for size, part, step in zip(shape, box, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)


def _neighborhood(foreground: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, ...] | None:
    """Return the box of the foreground and two standard deviations of the wider kernel; None without foreground."""
    if not foreground.any():
        return None
    box = []
    for axis, step in enumerate(spacing_mm):
        (held,) = foreground.any(tuple(other for other in range(3) if other != axis)).nonzero()
        margin = int(np.ceil(2 * ALIKE_MM / step))
        box.append(slice(max(0, int(held[0]) - margin), int(held[-1]) + margin + 1))
    return tuple(box)


def _mean_field(probabilities: np.ndarray, features: Sequence[np.ndarray]) -> np.ndarray:
    """Infer class probabilities (K, N) of the field with Potts potentials and a Gaussian kernel per feature map."""
    # Here, as it is an extra of the installation: nothing else needs it.
    from pydensecrf.densecrf import DenseCRF

    classes = len(probabilities)
    unary = -np.log(np.clip(probabilities.reshape(classes, -1), MIN_PROBABILITY, 1))
    field = DenseCRF(unary.shape[1], classes)
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    for values, weight in zip(features, (ALIKE_WEIGHT, SMOOTH_WEIGHT), strict=True):
        field.addPairwiseEnergy(np.ascontiguousarray(values, dtype=np.float32), compat=weight)
    refined: np.ndarray = np.array(field.inference(STEPS), dtype=probabilities.dtype)
    return refined


def refined(segment: Segmenter, spacing_mm: Sequence[float]) -> Segmenter:
    """Make ``segment`` return refined probabilities instead of logits; a voxel's class is still its largest value.

    Args:
        segment: logits (K, z, y, x) of a preprocessed image (C, z, y, x).
        spacing_mm: of stored voxels, along z, y and x.
    """

    def segment_and_refine(image: Tensor) -> Tensor:
        # Logits come in half precision: a probability does not fit into it.
        probabilities = segment(image).float().softmax(0).cpu().numpy()
        return torch.from_numpy(refine(probabilities, image.cpu().numpy(), spacing_mm))

    return segment_and_refine
