"""A second view of an image: the same anatomy under another brightness and contrast."""

from __future__ import annotations

import torch
from torch import Tensor

# nnU-Net's own range of contrast; brightness in standard deviations of the image.
CONTRAST = (0.75, 1.25)
BRIGHTNESS = (-0.25, 0.25)


def intensity_view(images: Tensor) -> Tensor:
    """``images`` (B, C, *patch), each channel with a random contrast about its mean and a random brightness.

    The contrastive batch of Chaitanya et al. (MedIA 2023, Section 4.3) holds such views of its images.
    """
    spatial = list(range(2, images.ndim))
    shape = (*images.shape[:2], *[1] * len(spatial))
    contrast, brightness = (
        torch.empty(shape, device=images.device, dtype=images.dtype).uniform_(*limits)
        for limits in (CONTRAST, BRIGHTNESS)
    )
    mean = images.mean(spatial, keepdim=True)
    deviation = images.std(spatial, keepdim=True)
    return (images - mean) * contrast + mean + brightness * deviation
