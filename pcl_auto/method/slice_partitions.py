"""Partitions of a volume along its slices, and which slices a step of global contrast is made of.

Chaitanya, Erdil, Karani, Konukoglu: *Contrastive learning of global and local features for medical image segmentation
with limited annotations*, NeurIPS 2020, arXiv 2006.10511, Section 3.1: volumes of one kind of scan are roughly aligned,
so that their s-th of S parts show the same anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Composition:
    """The images of a step: each of ``volumes`` volumes shows each of ``partitions`` partitions."""

    volumes: int
    partitions: int


def compose_step(images: int, partitions: int, volumes: int) -> Composition:
    """Choose how a step of at most ``images`` images is composed.

    Two partitions at least, as each is the negative of the other; then a second volume, whose images are positives
    (variant G^D of the paper); then more partitions, then more volumes.

    Args:
        images: of the step, two or more.
        partitions: S, into which a volume is divided.
        volumes: that there are.

    Raises:
        ValueError: fewer than two images or partitions, or no volume.
    """
    if images < 2 or partitions < 2 or volumes < 1:
        raise ValueError(f"no contrast between {images} images of {partitions} partitions of {volumes} volumes")
    shown = min(partitions, max(2, images // min(2, volumes)))
    return Composition(min(volumes, max(1, images // shown)), shown)


def draw_slice(depth: int, partition: int, partitions: int, generator: np.random.Generator) -> int:
    """Draw a slice of a partition, each with equal chance.

    Args:
        depth: slices of the volume, at least as many as partitions.
        partition: s, from 0.
        partitions: S.
        generator: of the draw.
    """
    first, end = (part * depth // partitions for part in (partition, partition + 1))
    return int(generator.integers(first, end))
