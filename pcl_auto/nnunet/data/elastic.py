"""Elastic deformation of training patches, which nnU-Net's augmentation can do and leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

# How coarse a deformation is: the standard deviation of what smooths it, as shares of the patch's edges.
SMOOTHNESS = (0.05, 0.15)
# The largest displacement over that standard deviation. Up to one half no voxel passes its neighbor: nothing folds.
MAX_STEEPNESS = 0.5


def max_displacement_voxels(*, dim: int, patch_size: Sequence[int], deformation_scale: float, **_rest: Any) -> float:
    """Draw the largest displacement along an axis of a patch that is deformed so coarsely."""
    return float(np.random.uniform(0, MAX_STEEPNESS) * deformation_scale * patch_size[dim])  # noqa: NPY002 (nnU-Net's)


def deform_elastically(transforms: Any, probability: float) -> None:
    """Let nnU-Net's training ``transforms`` deform a patch elastically with this ``probability``.

    Image and label are resampled once, by the deformation, rotation and scaling together.
    """
    (spatial,) = (transform for transform in transforms.transforms if isinstance(transform, SpatialTransform))
    spatial.p_elastic_deform = probability
    spatial.elastic_deform_scale = SMOOTHNESS
    spatial.p_synchronize_def_scale_across_axes = 1
    spatial.elastic_deform_magnitude = max_displacement_voxels
