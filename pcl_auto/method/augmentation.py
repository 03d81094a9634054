"""Augment joint steps: copy-paste between patches, and second views of other brightness and contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def box_mask(shape: Sequence[int], share: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw a random box in a patch, as a boolean mask of ``shape``.

    Args:
        shape: of the patch, (y, x) or (z, y, x).
        share: the box's share of every axis, in (0, 1); its place is uniform.
        generator: of the place.
    """
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    inside = []
    for size in shape:
        length = max(1, round(size * share))
        start = int(torch.randint(size - length + 1, (), generator=generator))
        inside.append(slice(start, start + length))
    mask[tuple(inside)] = True
    return mask


def nearest(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a boolean mask to ``shape``, from the same voxels as nnU-Net's targets for deep supervision."""
    resized = functional.interpolate(mask[None, None].float(), size=tuple(shape), mode="nearest-exact")
    return resized[0, 0].bool()


def swap_pairs(batches: Sequence[Tensor], mask: Tensor, pairs: int) -> None:
    """Exchange what lies under ``mask`` between the first ``pairs`` entries of two batches (B, C, *patch), in place.

    Bidirectional copy-paste (Bai et al., CVPR 2023): each image of a pair becomes the other's surroundings, so that
    labeled and unlabeled images share one distribution. For images and label maps alike.

    Raises:
        ValueError: a mask that is not the patch's, or fewer entries than pairs.
    """
    first, second = batches
    if not first.shape[2:] == second.shape[2:] == mask.shape:
        raise ValueError(f"mask of {tuple(mask.shape)} for {tuple(first.shape[2:])} and {tuple(second.shape[2:])}")
    if pairs > min(len(first), len(second)):
        raise ValueError(f"{pairs} pairs in batches of {len(first)} and {len(second)}")
    kept = first[:pairs, :, mask].clone()
    first[:pairs, :, mask] = second[:pairs, :, mask]
    second[:pairs, :, mask] = kept


# nnU-Net's own range of contrast; brightness in standard deviations of the image.
CONTRAST = (0.75, 1.25)
BRIGHTNESS = (-0.25, 0.25)


def intensity_view(images: Tensor) -> Tensor:
    """Give each channel of ``images`` (B, C, *patch) a random contrast about its mean and a random brightness.

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
