"""Masked autoencoding: hide blocks of an image and fill them in.

He, Chen, Xie, Li, Dollár, Girshick: *Masked autoencoders are scalable vision learners*, CVPR 2022, arXiv 2111.06377,
Section 3; for convolutional networks on volumes Wald et al.: *Revisiting MAE pre-training for 3D medical image
segmentation*, CVPR 2025, arXiv 2410.23132. The whole patch with its hidden voxels set to 0 goes through the network,
whose encoder and decoder are both kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def fit_blocks(patch_voxels: Sequence[int], wanted_voxels: int) -> tuple[int, ...]:
    """Return the length of a block along each axis of a patch: the one wanted, or a quarter of the axis.

    nnU-Net pools an axis only as long as four voxels of it are left: a quarter is at least what one voxel of the
    deepest features covers.

    Args:
        patch_voxels: shape of the patch.
        wanted_voxels: length of a block in voxels.
    """
    return tuple(max(1, min(wanted_voxels, size // 4)) for size in patch_voxels)


def draw_block_mask(
    images: int,
    patch_voxels: Sequence[int],
    block_voxels: Sequence[int],
    masked_share: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw which blocks of each image are hidden: the same number of them in every image.

    Args:
        images: how many, B.
        patch_voxels: shape of the patch.
        block_voxels: shape of a block; the last one along an axis may be cut off.
        masked_share: share of the blocks that is hidden; at least one is, and one is not, where there are two.
        generator: of the draw.

    Returns:
        True where a voxel is hidden, shape (B, 1, *patch).
    """
    grid = [math.ceil(size / block) for size, block in zip(patch_voxels, block_voxels, strict=True)]
    blocks = math.prod(grid)
    hidden = max(1, min(round(blocks * masked_share), blocks - 1))
    order = torch.rand(images, blocks, generator=generator).argsort(1)
    chosen = torch.zeros(images, blocks, dtype=torch.bool).scatter(1, order[:, :hidden], value=True)
    mask = chosen.view(images, 1, *grid)
    for axis, (block, size) in enumerate(zip(block_voxels, patch_voxels, strict=True), start=2):
        mask = mask.repeat_interleave(block, axis).narrow(axis, 0, size)
    return mask


def hide(images: Tensor, mask: Tensor) -> Tensor:
    """Return ``images`` (B, C, *patch) with 0, the mean of a normalized image, where ``mask`` (B, 1, *patch) says."""
    return images.masked_fill(mask, 0.0)


def reconstruction_loss(predicted: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error on the hidden voxels alone (He et al., Section 3, "Reconstruction target").

    Args:
        predicted: what the network makes of the image, shape (B, C, *patch).
        images: the whole images, shape (B, C, *patch).
        mask: True where a voxel was hidden, shape (B, 1, *patch); at least one was.

    Returns:
        Scalar, float32.
    """
    squared = (predicted.float() - images.float()).square()
    return squared.masked_fill(~mask, 0.0).sum() / (mask.sum() * images.shape[1])
