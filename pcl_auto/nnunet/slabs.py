"""A scan that does not fit into the memory, cut into slabs that are segmented one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager


@dataclass(frozen=True)
class Slab:
    """Rows ``begin <= row < end`` of a scan's first axis, of which the mask keeps ``first <= row < last``."""

    begin: int
    end: int
    first: int
    last: int


def slabs(rows: int, count: int, margin: int) -> list[Slab]:
    """``rows`` cut into ``count`` slabs of about the same size, with so many rows of ``margin`` on either side."""
    edges = [round(number * rows / count) for number in range(count + 1)]
    return [Slab(max(0, first - margin), min(rows, last + margin), first, last) for first, last in pairwise(edges)]


def margin_rows(configuration: ConfigurationManager, spacing_mm: Sequence[float]) -> int:
    """Half a patch, in rows of a scan: what a network sees around a voxel; none between slices for one of 2D.

    Args:
        configuration: with patch and spacing of the network.
        spacing_mm: of the scan's voxels, in the order of the network's axes.
    """
    if len(configuration.patch_size) < len(spacing_mm):
        return 0
    half_mm: float = configuration.patch_size[0] / 2 * configuration.spacing[0]
    return math.ceil(half_mm / spacing_mm[0])


def most_slabs(rows: int, margin: int) -> int:
    """So many that no slab keeps less than it has around it, or a single row."""
    return max(1, rows // max(1, 2 * margin))
