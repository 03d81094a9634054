"""Split overlapping regions into disjoint cells, which the contrastive loss can contrast.

The contrastive loss pulls voxels towards the mean of their class and away from the means of the others. Classes that
overlap would be pulled both ways, so with regions it contrasts the label values that the regions are made of: the
tumor core without its enhancing part, not the core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_auto.method.label_maps import Values

# Which of the regions hold a voxel.
Pattern = tuple[bool, ...]


def patterns_of(regions: Sequence[Values], values: Sequence[int]) -> list[Pattern]:
    """List the pattern of each cell, in the order of ``values``; values that the same regions hold are one cell."""
    sets = [(region,) if isinstance(region, int) else region for region in regions]
    patterns = (tuple(value in each for each in sets) for value in values)
    return list(dict.fromkeys(pattern for pattern in patterns if any(pattern)))


def disjoint_classes(targets: Tensor, patterns: Sequence[Pattern]) -> Tensor:
    """Return the classes to contrast in nnU-Net's targets (B, C, *spatial), shape (B, *spatial), int64.

    Without patterns the first channel is a label map, whose ignored voxels have a value beyond those of all classes.
    With patterns the channels are regions, see :func:`cells`, and ignored voxels are background.
    """
    return cells(targets, patterns) if patterns else targets[:, 0].long()


def cells(targets: Tensor, patterns: Sequence[Pattern]) -> Tensor:
    """Give each voxel the number of its cell, from the regions that it lies in.

    Args:
        targets: whether a voxel lies in a region, shape (B, R, *spatial), of any type. Further channels are not looked
            at: nnU-Net appends one for ignored voxels, which lie in no region.
        patterns: of the cells 1, 2, …, each of R.

    Returns:
        Shape (B, *spatial), int64: 0 where a voxel lies in no region, or in a combination that is no pattern.
    """
    numbers = torch.zeros_like(targets[:, 0], dtype=torch.int64)
    for number, pattern in enumerate(patterns, start=1):
        fits = torch.ones_like(numbers, dtype=torch.bool)
        for channel, inside in enumerate(pattern):
            fits &= (targets[:, channel] > 0) == inside
        numbers[fits] = number
    return numbers
