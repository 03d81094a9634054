"""Estimate what the segmentation of a scan takes before it is begun: memory, slabs, and patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, determine_do_sep_z_and_axis
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from pcl_auto.errors import Problem, ResourceError
from pcl_auto.workspace.resources import available_memory_mb

# --- A scan that does not fit into the memory, cut into slabs that are segmented one after the other.


@dataclass(frozen=True)
class Slab:
    """Rows ``begin <= row < end`` of a scan's first axis, of which the mask keeps ``first <= row < last``."""

    begin: int
    end: int
    first: int
    last: int


def split_into_slabs(rows: int, count: int, margin: int) -> list[Slab]:
    """Cut ``rows`` into ``count`` slabs of about the same size, with ``margin`` rows more on either side."""
    edges = [round(number * rows / count) for number in range(count + 1)]
    return [Slab(max(0, first - margin), min(rows, last + margin), first, last) for first, last in pairwise(edges)]


def margin_rows(configuration: ConfigurationManager, spacing_mm: Sequence[float]) -> int:
    """Return the rows of half a patch, which a network sees around a voxel; 0 for a 2D network, which sees slices.

    Args:
        configuration: with patch and spacing of the network.
        spacing_mm: of the scan's voxels, in the order of the network's axes.
    """
    if len(configuration.patch_size) < len(spacing_mm):
        return 0
    half_mm: float = configuration.patch_size[0] / 2 * configuration.spacing[0]
    return math.ceil(half_mm / spacing_mm[0])


def most_slabs(rows: int, margin: int) -> int:
    """Return the most slabs of which none keeps fewer rows than it has around it, or less than one."""
    return max(1, rows // max(1, 2 * margin))


# --- The memory and the patches of a scan.

# A patch on its way through the last, widest stage: the skip connection, its concatenation, what two convolutions make.
_WIDEST_FEATURES = 7
# What allocators keep, and what libraries load when they are first used.
_MARGIN, _LIBRARIES_MB = 1.2, 50
_TILE_STEP = 0.5  # nnU-Net's


class InferenceDemand:
    """Memory and patches of a scan's segmentation, as a whole or in slabs."""

    def __init__(
        self,
        image: np.ndarray,
        spacing_mm: Sequence[float],
        plans: PlansManager,
        configuration: ConfigurationManager,
        heads: int,
    ) -> None:
        """Measure a scan.

        Args:
            image: shape (C, z, y, x), before preprocessing.
            spacing_mm: of its voxels, along z, y and x.
            plans: how nnU-Net turns the axes of a scan.
            configuration: with the spacing of the network.
            heads: classes, the background among them, or regions.
        """
        self._channels, self._voxels, self._heads = len(image), int(image[0].size), heads
        self._shape: list[int] = [_nonzero_shape(image)[axis] for axis in plans.transpose_forward]
        self._spacing_mm = [spacing_mm[axis] for axis in plans.transpose_forward]
        kept = len(self._spacing_mm) - len(configuration.spacing)
        self._target_mm = [*self._spacing_mm[:kept], *configuration.spacing]
        self._edges: list[int] = list(configuration.patch_size)
        self._patch = [*[1] * kept, *self._edges]
        self._separate, _ = determine_do_sep_z_and_axis(None, self._spacing_mm, self._target_mm)
        self._width: int = configuration.network_arch_init_kwargs["features_per_stage"][0]
        self.margin_rows = margin_rows(configuration, self._spacing_mm)

    def needed_mb(self, count: int = 1) -> int:
        """Return the most memory beside the image in MB (2^20 bytes), in ``count`` slabs."""
        cropped = math.prod(self._shape)
        if count == 1:
            preparing = self._channels * (4 * self._voxels + 8 * cropped)
            return _with_margin(max(preparing + self._preparing(self._shape), self._segmenting(self._shape)))
        # The whole scan with its normalized intensities, and where it is nonzero; then that, mask and slab.
        whole = self._channels * (4 * self._voxels + 8 * cropped) + 3 * cropped
        rows = max(slab.end - slab.begin for slab in split_into_slabs(self._shape[0], count, self.margin_rows))
        slab = [rows, *self._shape[1:]]
        beside = 4 * self._channels * cropped + 2 * cropped + 2 * self._voxels
        return _with_margin(max(whole, beside + max(self._preparing(slab), self._segmenting(slab))))

    def slabs_that_fit(self, where: str) -> int:
        """Return the fewest slabs for which the free memory suffices.

        Raises:
            ResourceError: it does not suffice for any.
        """
        free_mb = available_memory_mb()
        most = most_slabs(self._shape[0], self.margin_rows)
        for count in range(1, most + 1):
            if self.needed_mb(count) <= free_mb:
                return count
        raise ResourceError(
            Problem(
                code="memory.too-small",
                what="the memory does not suffice for this scan",
                where=where,
                expected=f"{self.needed_mb(most)} MB free" + (f", in {most} slabs" if most > 1 else ""),
                found=f"{free_mb} MB free",
                fix="close other programs, take a machine with more memory, or cut the scan to the region of interest",
            )
        )

    def patches(self, count: int = 1) -> int:
        """Return in how many patches the network sees the scan, in ``count`` slabs."""
        cut = split_into_slabs(self._shape[0], count, self.margin_rows)
        grids = [self._grid([slab.end - slab.begin, *self._shape[1:]]) for slab in cut]
        return sum(patches_in(grid, self._edges) for grid in grids)

    def _grid(self, shape: Sequence[int]) -> list[int]:
        """Return the shape of a part on the grid of the network, padded to a patch."""
        sizes = compute_new_shape(shape, self._spacing_mm, self._target_mm)
        return [max(int(size), least) for size, least in zip(sizes, self._patch, strict=True)]

    def _resampled(self, shape: Sequence[int]) -> int:
        """Return the voxels of a part on the grid of the network."""
        return math.prod(self._grid(shape))

    def _resampling(self, before: int, after: int) -> int:
        # In float64: three copies of a volume, or of thick slices the coordinates of every new voxel, twice over.
        return 8 * before + 60 * after if self._separate else 24 * max(before, after)

    def _preparing(self, shape: Sequence[int]) -> int:
        """Return the bytes that bringing a part of a normalized scan to the grid of the network takes."""
        resampled = self._resampled(shape)
        return 4 * self._channels * resampled + self._resampling(math.prod(shape), resampled)

    def _segmenting(self, shape: Sequence[int]) -> int:
        """Return the bytes that segmenting a part on the grid of the network takes."""
        cropped, resampled = math.prod(shape), self._resampled(shape)
        # The image, float16 logits with the weights of their patches, the search for infinite ones (a copy, a mask).
        network = (
            4 * self._channels * resampled
            + (2 * (self._heads + 1) + 3 * self._heads) * resampled
            + 4 * _WIDEST_FEATURES * self._width * math.prod(self._patch)
        )
        # The image and the logits still, one class, the best so far and the mask.
        export = (4 * self._channels + 2 * self._heads) * resampled + self._resampling(resampled, cropped) + 6 * cropped
        return max(network, export + 2 * self._voxels)


def patches_in(shape: Sequence[int], patch: Sequence[int]) -> int:
    """Return in how many patches nnU-Net's sliding window sees an image on the grid of the network.

    Args:
        shape: of the image (z, y, x).
        patch: along all of its axes, or of a 2D network along the last two.
    """
    slices, rest = shape[: len(shape) - len(patch)], shape[-len(patch) :]
    padded = tuple(max(size, edge) for size, edge in zip(rest, patch, strict=True))
    return math.prod([*slices, *map(len, compute_steps_for_sliding_window(padded, tuple(patch), _TILE_STEP))])


def _with_margin(needed: float) -> int:
    return _LIBRARIES_MB + math.ceil(_MARGIN * needed / 2**20)


def _nonzero_shape(image: np.ndarray) -> tuple[int, ...]:
    """Return the shape (z, y, x) of the box to which nnU-Net crops."""
    occupied = np.any(image, axis=0)
    sides = []
    for axis in range(occupied.ndim):
        found = np.flatnonzero(occupied.any(axis=tuple(other for other in range(occupied.ndim) if other != axis)))
        sides.append(int(found[-1] - found[0]) + 1 if found.size else occupied.shape[axis])
    return tuple(sides)
