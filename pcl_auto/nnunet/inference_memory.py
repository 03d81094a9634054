"""The memory that the segmentation of a scan takes, told before it is begun."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from pcl_auto.errors import Problem, ResourceError
from pcl_auto.run.memory import available_memory_mb

# A patch on its way through the last, widest stage: the skip connection, its concatenation, what two convolutions make.
_WIDEST_FEATURES = 7
# What allocators keep, and what libraries load when they are first used.
_MARGIN, _LIBRARIES_MB = 1.2, 50


def needed_memory_mb(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    plans: PlansManager,
    configuration: ConfigurationManager,
    heads: int,
) -> int:
    """The memory that segmenting ``image`` takes beside it at its peak, in MB (2^20 bytes).

    Args:
        image: shape (C, z, y, x), before preprocessing.
        spacing_mm: of its voxels, along z, y and x.
        plans: how nnU-Net turns the axes of a scan.
        configuration: with the spacing of the network.
        heads: classes, the background among them, or regions.
    """
    channels, voxels = len(image), int(image[0].size)
    shape: list[int] = [_nonzero_shape(image)[axis] for axis in plans.transpose_forward]
    spacing = [spacing_mm[axis] for axis in plans.transpose_forward]
    target = [*spacing[: len(spacing) - len(configuration.spacing)], *configuration.spacing]
    patch: list[int] = [*[1] * (len(shape) - len(configuration.patch_size)), *configuration.patch_size]
    cropped: int = math.prod(shape)
    resampled: int = math.prod(
        max(int(size), least) for size, least in zip(compute_new_shape(shape, spacing, target), patch, strict=True)
    )
    separate, _ = determine_do_sep_z_and_axis(None, spacing, target)

    def resampling(before: int, after: int) -> int:
        # In float64: three copies of a volume, or of thick slices the coordinates of every new voxel, twice over.
        return 8 * before + 60 * after if separate else 24 * max(before, after)

    preprocessing = channels * (4 * voxels + 8 * cropped + 4 * resampled) + resampling(cropped, resampled)
    width: int = configuration.network_arch_init_kwargs["features_per_stage"][0]
    # The image, float16 logits with the weights of their patches, and the search for infinite ones (a copy, a mask).
    network = (
        4 * channels * resampled
        + (2 * (heads + 1) + 3 * heads) * resampled
        + 4 * _WIDEST_FEATURES * width * math.prod(patch)
    )
    # The image and the logits still, one class, the best so far and the mask.
    export = (4 * channels + 2 * heads) * resampled + resampling(resampled, cropped) + 6 * cropped + 2 * voxels
    return _LIBRARIES_MB + math.ceil(_MARGIN * max(preprocessing, network, export) / 2**20)


def _nonzero_shape(image: np.ndarray) -> tuple[int, ...]:
    """The size of the box, in (z, y, x), to which nnU-Net crops."""
    occupied = np.any(image, axis=0)
    sides = []
    for axis in range(occupied.ndim):
        found = np.flatnonzero(occupied.any(axis=tuple(other for other in range(occupied.ndim) if other != axis)))
        sides.append(int(found[-1] - found[0]) + 1 if found.size else occupied.shape[axis])
    return tuple(sides)


def require_memory(needed_mb: int, where: str) -> None:
    """Make sure that so much memory is free; nothing where the system does not tell.

    Raises:
        ResourceError: it is not.
    """
    free_mb = available_memory_mb()
    if free_mb is not None and needed_mb > free_mb:
        raise ResourceError(
            Problem(
                what="the memory does not suffice for this scan",
                where=where,
                expected=f"{needed_mb} MB free",
                found=f"{free_mb} MB free",
                fix="close other programs, take a machine with more memory, or cut the scan to the region of interest",
            )
        )
