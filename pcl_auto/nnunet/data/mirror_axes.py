"""Measure the symmetry of a data set on its stored scans; no label is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pcl_auto.method.mirroring import AxisSymmetry, axis_symmetries, thumbnail
from pcl_auto.nnunet.data.cases import StoredCases, reading

# Reading whole scans takes time, and the nearest of so many is near.
MAX_CASES = 48


def stored_symmetries(store: Path, cases: Sequence[str]) -> list[AxisSymmetry]:
    """Measure the symmetry of the stored scans along the axes (z, y, x) of the store; at most 48 scans are read."""
    chosen = sorted(cases)
    if len(chosen) > MAX_CASES:
        chosen = [chosen[index] for index in np.linspace(0, len(chosen) - 1, MAX_CASES).round().astype(int)]
    scans = StoredCases(str(store), chosen)
    with reading(lambda: scans):
        return axis_symmetries([thumbnail(scans.load_case(case)[0][:]) for case in chosen])


def mirror_axes(symmetries: Sequence[AxisSymmetry], dimensions: int) -> tuple[int, ...] | None:
    """Choose the axes of a patch (2 or 3 dimensions) to mirror along; None, as nnU-Net, where nothing was measured.

    A 2D patch is a slice of the store, without its first axis.
    """
    if not symmetries:
        return None
    skipped = len(symmetries) - dimensions
    return tuple(entry.axis - skipped for entry in symmetries if entry.symmetric and entry.axis >= skipped)
