"""Draw the voxels that the contrastive loss sees, uniformly per image and foreground class.

The features before the segmentation layer exist at full resolution, but Eq. 3 and 4 of Chaitanya et al.
(MedIA 2023, arXiv 2112.09645) need them only at the voxels of the foreground classes: a few as anchors, and
the rest through a mean. A few hundred voxels per class estimate that mean without bias, so only they are
gathered and projected.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Random keys lie below this value, which marks what must not be drawn. 31 bits: ties are too rare to matter.
_NEVER = torch.iinfo(torch.int32).max


@dataclass(frozen=True)
class VoxelSample:
    """Drawn voxels, ordered by image, then class, then rank; all tensors are int64 of shape (N,)."""

    image: Tensor
    """Index of the image in the batch, 0 to B-1."""
    cls: Tensor
    """Index of the foreground class, 0 to C-1: the label minus one."""
    voxel: Tensor
    """Flat index into the spatial axes (row-major)."""
    rank: Tensor
    """Position 0, 1, ... within the (image, class) group, shuffled: ``rank < k`` is a uniform draw of k."""

    def __len__(self) -> int:
        """Count the drawn voxels, N."""
        return len(self.voxel)

    def anchors(self, per_class: int) -> Tensor:
        """Return the positions (A,) of up to ``per_class`` voxels of every class of every image: S̃_c of Eq. 3.

        The host waits for a GPU.

        Raises:
            ValueError: ``per_class`` is below 1.
        """
        if per_class < 1:
            raise ValueError(f"anchors per class must be at least 1, got {per_class}")
        return (self.rank < per_class).nonzero().squeeze(1)

    def split(self, images: int) -> tuple[VoxelSample, VoxelSample]:
        """Split into the voxels of the first ``images`` images and the others, whose images count from 0 again."""
        first = int(torch.searchsorted(self.image, images))
        return (
            VoxelSample(self.image[:first], self.cls[:first], self.voxel[:first], self.rank[:first]),
            VoxelSample(self.image[first:] - images, self.cls[first:], self.voxel[first:], self.rank[first:]),
        )


def sample_voxels(
    labels: Tensor, n_classes: int, per_class: int, generator: torch.Generator | None = None, *, least: int = 1
) -> VoxelSample:
    """Draw up to ``per_class`` voxels of every class of every image, uniformly and without replacement.

    The set drawn for class c of image x stands for S_c(x) of Eq. 3. The host waits for a GPU once.

    Args:
        labels: Integer labels, shape (B, *spatial): 0 is background, 1 to C are the classes; anything else
            (an ignore label, padding) is never drawn.
        n_classes: Number of foreground classes, C.
        per_class: Voxels per image and class; all of them where there are fewer. 0 draws every voxel.
        generator: Source of randomness, on the device of ``labels``.
        least: A class of which fewer voxels of an image would be drawn is not drawn from there: their mean says little.

    Returns:
        The drawn voxels; empty where no image holds a foreground class.

    Raises:
        ValueError: If the labels are not integers, have no spatial axis, or a count is out of range.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.ndim < 2:
        raise ValueError(f"labels must have shape (B, *spatial), got {tuple(labels.shape)}")
    if n_classes < 1:
        raise ValueError(f"n_classes must be at least 1, got {n_classes}")
    if per_class < 0:
        raise ValueError(f"per_class must be at least 0 (0 draws every voxel), got {per_class}")
    flat = labels.flatten(1)  # (B, V)
    if per_class == 0:
        return _every_voxel(flat, n_classes, generator, least)
    return _few_voxels(flat, n_classes, min(per_class, flat.shape[1]), generator, least)


def gather_features(features: Tensor, sample: VoxelSample) -> Tensor:
    """Take the feature vectors at the drawn voxels; differentiable.

    Args:
        features: Feature map, shape (B, F, *spatial) with the spatial axes of the sampled labels. It is read
            in place, contiguous or channels-last.
        sample: The N drawn voxels.

    Returns:
        Feature vectors, shape (N, F).

    Raises:
        ValueError: If the map has no spatial axis.
    """
    if features.ndim < 3:
        raise ValueError(f"features must have shape (B, F, *spatial), got {tuple(features.shape)}")
    # flatten(2) is a view in both memory formats (a test holds it to that), so only N x F numbers are read.
    vectors: Tensor = features.flatten(2)[sample.image, :, sample.voxel]
    return vectors


def _few_voxels(
    flat: Tensor, n_classes: int, per_class: int, generator: torch.Generator | None, least: int
) -> VoxelSample:
    """Draw by the lowest random keys: shapes are known beforehand, only ``nonzero`` waits for the device."""
    keys = torch.randint(_NEVER, flat.shape, generator=generator, dtype=torch.int32, device=flat.device)
    lowest = [
        keys.masked_fill(flat != label, _NEVER).topk(per_class, dim=1, largest=False, sorted=True)
        for label in range(1, n_classes + 1)
    ]
    drawn = torch.stack([values for values, _ in lowest], dim=1) != _NEVER  # (B, C, per_class)
    drawn &= drawn.sum(2, keepdim=True) >= least
    voxels = torch.stack([indices for _, indices in lowest], dim=1)  # (B, C, per_class)
    image, cls, rank = drawn.nonzero(as_tuple=True)
    return VoxelSample(image=image, cls=cls, voxel=voxels[image, cls, rank], rank=rank)


def _every_voxel(flat: Tensor, n_classes: int, generator: torch.Generator | None, least: int) -> VoxelSample:
    """Draw all voxels: shuffle them, then sort by group; the sort is stable, so each group stays shuffled."""
    image, voxel = ((flat >= 1) & (flat <= n_classes)).nonzero(as_tuple=True)
    shuffle = torch.randperm(len(image), generator=generator, device=flat.device)
    image, voxel = image[shuffle], voxel[shuffle]
    group, order = (image * n_classes + flat[image, voxel].long() - 1).sort(stable=True)
    bounds = torch.searchsorted(group, torch.arange(flat.shape[0] * n_classes + 1, device=flat.device))
    rank = torch.arange(len(group), device=flat.device) - bounds[group]
    enough = (bounds.diff() >= least)[group]
    kept = order[enough]
    return VoxelSample(image=image[kept], cls=group[enough] % n_classes, voxel=voxel[kept], rank=rank[enough])
