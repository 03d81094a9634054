"""Perturb patches on top of nnU-Net's augmentation: noise, strong views, and boxes of other patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pcl_auto.method.augmentation import draw_box, intensity_view

# UniMatch (Yang et al., CVPR 2023, their supplement): jitter of ±0.5 in four of five images, blur in every second one.
STRONG_CONTRAST, STRONG_BRIGHTNESS, JITTERED = (0.5, 1.5), (-0.5, 0.5), 0.8
BLUR_VOXELS, BLURRED = (0.1, 2.0), 0.5
# CutMix as there: a box of this share of the patch in every second image.
BOX_OF_PATCH, PASTED = (0.02, 0.4), 0.5
# Of features, in UniMatch and in noisy student's last layer (Xie et al., CVPR 2020).
DROPPED_CHANNELS = 0.5


def noisy(images: Tensor, deviation: float) -> Tensor:
    """Add Gaussian noise, cut off at twice its ``deviation``, to ``images`` (B, C, *patch), as UA-MT does."""
    return images + (torch.randn_like(images) * deviation).clamp(-2 * deviation, 2 * deviation)


def strong_view(images: Tensor) -> Tensor:
    """Perturb the intensities of ``images`` (B, C, *patch) strongly: contrast, brightness and blur, each image its own.

    Scans have no color: contrast and brightness are what is left of the papers' color jitter.
    """
    jittered = intensity_view(images, STRONG_CONTRAST, STRONG_BRIGHTNESS)
    chosen = (torch.rand(len(images)) < JITTERED).to(images.device)
    views = torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), jittered, images)
    deviations = torch.empty(len(images)).uniform_(*BLUR_VOXELS).tolist()
    blurred = (torch.rand(len(images)) < BLURRED).tolist()
    return torch.stack(
        [
            blur(view, deviation) if chosen else view
            for view, deviation, chosen in zip(views, deviations, blurred, strict=True)
        ]
    )


def blur(image: Tensor, deviation: float) -> Tensor:
    """Convolve ``image`` (C, *patch) with a Gaussian along its last two axes, in which scans are finest."""
    radius = max(1, int(3 * deviation + 0.5))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = (-0.5 * (offsets / deviation).square()).exp()
    kernel = kernel / kernel.sum()
    planes = image.reshape(-1, 1, *image.shape[-2:])
    for axis in (2, 3):
        shape = [1, 1, 1, 1]
        shape[axis] = len(kernel)
        margin = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)  # F.pad counts from the last axis
        planes = functional.conv2d(functional.pad(planes, margin, mode="replicate"), kernel.view(shape))
    return planes.reshape(image.shape)


def random_boxes(images: int, shape: Sequence[int]) -> Tensor:
    """Draw a box for every second image or so, as a boolean mask (B, 1, *patch): CutMix, as UniMatch has it."""
    masks = torch.zeros(images, 1, *shape, dtype=torch.bool)
    for mask in masks:
        share = float(torch.empty(()).uniform_(*BOX_OF_PATCH)) ** (1 / len(shape))
        box = draw_box(shape, share)
        if float(torch.rand(())) < PASTED:
            mask[0][box] = True
    return masks


def paste_from_next(values: Tensor, boxes: Tensor) -> Tensor:
    """Return ``values`` (B, C, *patch) with what the next image has in its box; of one image nothing changes."""
    return torch.where(boxes.to(values.device), values.roll(-1, 0), values)
