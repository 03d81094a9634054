"""The fingerprint of a data set, from its images alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pcl_auto.data.nifti import Volume

ZYX = (2, 1, 0)


def make_fingerprint(images: Mapping[str, Volume], spacings_zyx_mm: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    """nnU-Net's fingerprint of ``images``: geometry of every case, labelled or not; no intensity, no label.

    Args:
        images: what the checks found of each case's image.
        spacings_zyx_mm: voxel spacing of each case as nnU-Net reads it, in mm, axes z, y, x.
    """
    shapes, relative_sizes = [], []
    for case in sorted(images):
        image = images[case]
        # nnU-Net crops to the nonzero region with its holes filled; filling moves no border.
        box = [image.nonzero_box[axis] for axis in ZYX]
        shape = [max(high - low, 1) for low, high in box]
        shapes.append(shape)
        relative_sizes.append(float(np.prod(shape) / np.prod(image.shape)))
    return {
        "spacings": [list(spacings_zyx_mm[case]) for case in sorted(images)],
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": float(np.median(relative_sizes)),
    }
