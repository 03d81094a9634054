"""Augment joint steps: copy-paste between patches, and second views of other brightness and contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# A box in a patch: where it lies along each axis.
Box = tuple[slice, ...]


def draw_box(shape: Sequence[int], share: float, generator: torch.Generator | None = None) -> Box:
    """Draw a random box in a patch.

    Args:
        shape: of the patch, (y, x) or (z, y, x).
        share: the box's share of every axis, in (0, 1); its place is uniform.
        generator: of the place.
    """
    sides = []
    for size in shape:
        length = max(1, round(size * share))
        start = int(torch.randint(size - length + 1, (), generator=generator))
        sides.append(slice(start, start + length))
    return tuple(sides)


def box_at(box: Box, shape: Sequence[int], resampled: Sequence[int]) -> Box:
    """Return ``box``, drawn in a patch of ``shape``, in the patch ``resampled`` to the nearest voxels.

    Voxel i of m takes voxel ⌊(i + 1/2) · n / m⌋ of n, as in nnU-Net's targets for deep supervision: from a number k on
    do those with i ≥ k · m / n - 1/2.
    """

    def place(k: int, n: int, m: int) -> int:
        return -((n - 2 * k * m) // (2 * n))  # rounded up

    sides = zip(box, shape, resampled, strict=True)
    return tuple(slice(place(side.start, n, m), place(side.stop, n, m)) for side, n, m in sides)


def swap_box(first: Tensor, second: Tensor, box: Box) -> None:
    """Exchange what lies in ``box`` between two batches (B, C, *patch), in place: entry by entry.

    Bidirectional copy-paste (Bai et al., CVPR 2023): each image of a pair becomes the other's surroundings, so that
    labeled and unlabeled images share one distribution. For images and label maps alike.

    Raises:
        ValueError: batches of different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"batches of {tuple(first.shape)} and {tuple(second.shape)}")
    inside = (slice(None), slice(None), *box)
    kept = first[inside].clone()
    first[inside] = second[inside]
    second[inside] = kept


def paste_both_ways(labeled: Tensor, unlabeled: Tensor, box: Box) -> Tensor:
    """Return both batches (B, C, *patch), labeled patches first, each with the other's voxels in ``box``.

    Bidirectional copy-paste (Bai et al., CVPR 2023, Section 3): x_l,j ⊙ M + x_u,p ⊙ (1 − M) and
    x_u,q ⊙ M + x_l,i ⊙ (1 − M), where M is 0 in the box. A patch gets the box of the patch across, or of the one after
    that: i ≠ j where there are two. Patches without one across stay as they are.
    """
    pairs = min(len(labeled), len(unlabeled))
    first, second = labeled.clone(), unlabeled.clone()
    inside = (slice(pairs), slice(None), *box)
    first[inside] = unlabeled[inside]
    second[inside] = labeled.roll(-1, 0)[inside]
    return torch.cat([first, second])


# nnU-Net's own range of contrast; brightness in standard deviations of the image.
CONTRAST = (0.75, 1.25)
BRIGHTNESS = (-0.25, 0.25)


def intensity_view(
    images: Tensor, contrast_range: tuple[float, float] = CONTRAST, brightness_range: tuple[float, float] = BRIGHTNESS
) -> Tensor:
    """Give each channel of ``images`` (B, C, *patch) a random contrast about its mean and a random brightness.

    The contrastive batch of Chaitanya et al. (MedIA 2023, Section 4.3) holds such views of its images.
    """
    spatial = list(range(2, images.ndim))
    shape = (*images.shape[:2], *[1] * len(spatial))
    contrast, brightness = (
        torch.empty(shape, device=images.device, dtype=images.dtype).uniform_(*limits)
        for limits in (contrast_range, brightness_range)
    )
    mean = images.mean(spatial, keepdim=True)
    deviation = images.std(spatial, keepdim=True)
    return (images - mean) * contrast + mean + brightness * deviation
