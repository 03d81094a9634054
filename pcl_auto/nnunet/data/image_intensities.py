"""Gather intensities of whole images, where no label may say what is foreground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from pcl_auto.data.case import Case
from pcl_auto.nnunet.data.images import read_image
from pcl_auto.nnunet.data.store import MAX_INTENSITIES_PER_CASE, intensity_statistics


def image_intensities(cases: Sequence[Case], channels: int) -> dict[str, dict[str, float]]:
    """Return intensity statistics of the nonzero region of images per channel, named as in nnU-Net's fingerprint.

    As many intensities are drawn of each case as nnU-Net draws of the foreground; the same ones every time.

    Args:
        cases: whose images are read; their labels are not opened.
        channels: how many channels the images have.
    """
    per_case = min(MAX_INTENSITIES_PER_CASE, int(10e7 // len(cases)))
    samples: list[list[np.ndarray]] = [[] for _ in range(channels)]
    for number, case in enumerate(cases):
        image, region, _ = crop_to_nonzero(read_image(case.files)[0])
        inside = np.flatnonzero(region[0] >= 0)
        drawn = np.random.default_rng(number).integers(len(inside), size=per_case) if len(inside) > per_case else ...
        for channel, voxels in enumerate(image):
            samples[channel].append(voxels.ravel()[inside[drawn]].astype(np.float32))
    return {str(channel): intensity_statistics(np.concatenate(values)) for channel, values in enumerate(samples)}
