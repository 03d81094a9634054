"""Draw the patches of a step: anywhere in the images, or two views of each partition of a volume.

What a step shows depends on the numbers that it is given to draw with and on nothing else, so that a step can be made
ahead, and a pre-training that was interrupted goes on with the steps that it would have made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pcl_auto.errors import Problem, StateError
from pcl_auto.method.slice_partitions import compose_step, draw_slice
from pcl_auto.nnunet.pretraining.stored_images import StoredImages

# Steps that are made ahead for each thread.
_AHEAD = 2
# How far the second view of an image may lie from the first, as a share of the patch.
_VIEW_SHIFT = 0.25


@dataclass(frozen=True)
class Patches:
    """The patches of a step: ``images`` (N, C, *patch), the ``cases`` that they are of, and perhaps their partition."""

    images: Tensor
    cases: list[str]
    partitions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


class PatchSource(Protocol):
    """Whatever draws the patches of a step."""

    def draw(self, generator: np.random.Generator) -> Patches:
        """Draw the patches of a step."""


class RandomPatches:
    """Patches from anywhere in the images, mirrored along every axis by chance."""

    def __init__(self, images: StoredImages, patch_voxels: Sequence[int], patches: int) -> None:
        """Take so many ``patches`` of that shape, (y, x) or (z, y, x), in a step."""
        self._images, self._patch_voxels, self._patches = images, tuple(patch_voxels), patches
        self._cases = list(images.shapes)

    def draw(self, generator: np.random.Generator) -> Patches:
        """Draw patches, each of any case."""
        cases = [self._cases[index] for index in generator.integers(len(self._cases), size=self._patches)]
        return Patches(torch.from_numpy(np.stack([self._one(case, generator) for case in cases])), cases)

    def _one(self, case: str, generator: np.random.Generator) -> np.ndarray:
        shape = self._images.shapes[case]
        size = in_three_axes(self._patch_voxels)
        start = [_draw_start(whole, length, generator) for whole, length in zip(shape, size, strict=True)]
        patch = self._images.read(case, start, size).reshape(self._images.channels, *self._patch_voxels)
        axes = tuple(axis for axis in range(1, patch.ndim) if generator.random() < 0.5)
        return np.ascontiguousarray(np.flip(patch, axes))


class PartitionViews:
    """Two views each of images of several partitions of several volumes, the first views before the second ones.

    In 2D an image is a slice of its partition. In 3D it is a slab of slices, no longer than a partition where the
    network's stride allows. The places where a slab can begin inside the volume are what is divided into partitions:
    two partitions of a volume never show the same slab, and none shows where the volume ends.
    """

    def __init__(
        self, images: StoredImages, patch_voxels: Sequence[int], patches: int, partitions: int, stride: int
    ) -> None:
        """Prepare to draw so many ``patches`` in a step, half of them second views.

        Args:
            images: those in which the partitions' slabs cannot all begin at slices of their own are left out.
            patch_voxels: shape of a patch, (y, x) or (z, y, x).
            patches: at least four are drawn, two images.
            partitions: into which a volume is divided, S.
            stride: of the encoder along the slices: the slab's slices are a multiple of it.

        Raises:
            StateError: no image has so many slices.
        """
        self._images, self._partitions = images, partitions
        self._patch_voxels = tuple(patch_voxels)
        shortest = stride if len(self._patch_voxels) == 3 else 1
        least = shortest + partitions - 1
        self._cases = [case for case, shape in images.shapes.items() if shape[0] >= least]
        if not self._cases:
            raise StateError(
                Problem(
                    code="pretrain.too-few-slices",
                    what="no image has slices of its own for every partition",
                    where="pretraining.partitions",
                    expected=f"{least} slices or more",
                    found=f"{max(shape[0] for shape in images.shapes.values())} at most",
                    fix="take fewer partitions with --set, or --method masked",
                )
            )
        if len(self._patch_voxels) == 3:
            of_partition = min(images.shapes[case][0] for case in self._cases) // partitions
            slices = min(self._patch_voxels[0], of_partition) // stride * stride
            self._patch_voxels = (max(stride, slices), *self._patch_voxels[1:])
        self._step = compose_step(max(2, patches // 2), partitions, len(self._cases))

    def draw(self, generator: np.random.Generator) -> Patches:
        """Draw volumes and partitions, and two views of each volume's part."""
        volumes = generator.choice(len(self._cases), self._step.volumes, replace=False)
        parts = generator.choice(self._partitions, self._step.partitions, replace=False)
        drawn = [(self._cases[volume], int(part)) for volume in volumes for part in parts]
        pairs = [self._pair(case, part, generator) for case, part in drawn]
        views = np.stack([pair[view] for view in (0, 1) for pair in pairs])
        partitions = torch.tensor([part for _, part in drawn] * 2)
        return Patches(torch.from_numpy(views), [case for case, _ in drawn] * 2, partitions)

    def _pair(self, case: str, part: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shape, size = self._images.shapes[case], in_three_axes(self._patch_voxels)
        first = draw_slice(shape[0] - size[0] + 1, part, self._partitions, generator)
        starts = [_draw_start(whole, length, generator) for whole, length in zip(shape[1:], size[1:], strict=True)]
        moved = [
            _move_start(start, whole, length, generator)
            for start, whole, length in zip(starts, shape[1:], size[1:], strict=True)
        ]
        one, other = (
            self._images.read(case, (first, *place), size).reshape(self._images.channels, *self._patch_voxels)
            for place in (starts, moved)
        )
        return one, other


def in_three_axes(patch_voxels: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a patch along z, y, x: in 2D it is one slice."""
    return (*[1] * (3 - len(patch_voxels)), *patch_voxels)


def _draw_start(whole: int, length: int, generator: np.random.Generator) -> int:
    """Draw where a patch begins along an axis: anywhere inside; around an image that is shorter."""
    return int(generator.integers(whole - length + 1)) if whole > length else (whole - length) // 2


def _move_start(start: int, whole: int, length: int, generator: np.random.Generator) -> int:
    """Move where a patch begins along an axis by a share of the patch at most, and not beyond the image."""
    if whole <= length:
        return start
    reach = int(length * _VIEW_SHIFT)
    return int(generator.integers(max(0, start - reach), min(whole - length, start + reach) + 1))


def iter_steps(source: PatchSource, seeds: Sequence[Sequence[int]], threads: int) -> Iterator[Patches]:
    """Yield the patches of one step after the other, each drawn with the numbers of its seed.

    Args:
        source: draws them.
        seeds: of each step.
        threads: that make steps ahead; 0 for none. They change no step.
    """
    if not threads:
        yield from (source.draw(np.random.default_rng(seed)) for seed in seeds)
        return
    waiting: deque[Future[Patches]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for seed in seeds:
                waiting.append(pool.submit(source.draw, np.random.default_rng(seed)))
                if len(waiting) > threads * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
