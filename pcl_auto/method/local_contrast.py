"""Local contrast: a region of an image is more like itself in another view than like other regions of the image.

Chaitanya, Erdil, Karani, Konukoglu: *Contrastive learning of global and local features for medical image segmentation
with limited annotations*, NeurIPS 2020, arXiv 2006.10511, Section 3.2, Eq. 3 and 4, variant L^R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def fit_regions(features_voxels: Sequence[int], wanted_voxels: int) -> tuple[int, ...]:
    """Return the length of a region along each axis of a feature map: the one wanted, or half of the axis.

    Args:
        features_voxels: shape of the feature map.
        wanted_voxels: length of a region, K, in voxels of the feature map.
    """
    return tuple(max(1, min(wanted_voxels, size // 2)) for size in features_voxels)


def cut_regions(features: Tensor, region_voxels: Sequence[int]) -> Tensor:
    """Cut a feature map into regions that do not overlap.

    Args:
        features: shape (B, F, *features).
        region_voxels: shape of a region; what is left over at the end of an axis is in none.

    Returns:
        Features of the V voxels of each of R regions, shape (B, R, V, F).
    """
    for axis, size in enumerate(region_voxels, start=2):
        features = features.unfold(axis, size, size)  # (B, F, *regions, *region)
    dimensions = len(region_voxels)
    return features.flatten(2, 1 + dimensions).flatten(3).permute(0, 2, 3, 1)


def draw_regions(images: int, regions: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Draw ``wanted`` different regions of each image, or all where there are fewer, shape (B, A).

    Args:
        images: B.
        regions: of an image, R.
        wanted: A.
        generator: of the draw.
    """
    return torch.rand(images, regions, generator=generator).argsort(1)[:, : min(wanted, regions)]


def take_regions(regions: Tensor, drawn: Tensor) -> Tensor:
    """Take drawn regions of each image.

    Args:
        regions: as of :func:`cut_regions`, shape (B, R, V, F).
        drawn: numbers of regions of each image, shape (B, A).

    Returns:
        Shape (B, A, V, F).
    """
    index = drawn.view(*drawn.shape, 1, 1).expand(-1, -1, *regions.shape[2:])
    return regions.gather(1, index)


def local_contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Pull a region in two views together and push it away from other regions of the image.

    Eq. 3 for every region u of each image: −log( e^{sim(f_u, f'_u)/τ} / (e^{sim(f_u, f'_u)/τ} + Σ e^{sim(f_u,
    f'_v)/τ}) ), the sum over the other regions v in the other view; sim is the cosine. Eq. 4 is the mean over regions,
    images and both directions.

    Args:
        first: regions of the first views, f, shape (B, A, D).
        second: the same regions of the second views, f', shape (B, A, D).
        temperature: τ.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"regions of shape {tuple(first.shape)} and {tuple(second.shape)}")
    # Autocast would round the cosines to half precision, and the division by τ magnifies that error.
    with torch.autocast(first.device.type, enabled=False):
        directions = [functional.normalize(view.float(), dim=2) for view in (first, second)]
        logits = directions[0] @ directions[1].transpose(1, 2) / temperature  # (B, A, A)
    own = logits.diagonal(dim1=1, dim2=2)  # (B, A)
    return (logits.logsumexp(2) + logits.logsumexp(1) - 2 * own).sum() / (2 * math.prod(own.shape))
