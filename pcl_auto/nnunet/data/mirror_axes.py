"""Measure the symmetry of a data set on its stored scans, and the order of its classes on its labeled cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pcl_auto.data.labels import ignore_value
from pcl_auto.method.class_order import axis_orders
from pcl_auto.method.mirroring import MeasuredAxis, axis_symmetries, thumbnail
from pcl_auto.nnunet.data.cases import StoredCases, reading
from pcl_auto.nnunet.data.pseudo_label_files import read_labels

# Reading whole scans takes time, and the nearest of so many is near.
MAX_CASES = 48


def stored_symmetries(store: Path, cases: Sequence[str]) -> list[MeasuredAxis]:
    """Measure the symmetry of the stored scans along the axes (z, y, x) of the store; at most 48 scans are read.

    No label is looked at.
    """
    chosen = sorted(cases)
    if len(chosen) > MAX_CASES:
        chosen = [chosen[index] for index in np.linspace(0, len(chosen) - 1, MAX_CASES).round().astype(int)]
    scans = StoredCases(str(store), chosen)
    with reading(lambda: scans):
        return axis_symmetries([thumbnail(scans.load_case(case)[0][:]) for case in chosen])


def stored_orders(view: Path, labeled: Sequence[str], labels: Mapping[str, int | Sequence[int]]) -> list[MeasuredAxis]:
    """Measure the order of the classes in the labeled cases of ``view`` along the axes (z, y, x) of the store.

    Args:
        view: nnU-Net's folder of the stored cases of a split.
        labeled: the cases whose labels are learned from.
        labels: of dataset.json.
    """
    return axis_orders((read_labels(view, case) for case in labeled), ignore_value(labels))


def mirror_axes(found: Sequence[MeasuredAxis], dimensions: int) -> tuple[int, ...] | None:
    """Choose the axes of a patch (2 or 3 dimensions) to mirror along; None, as nnU-Net, where nothing was measured.

    A 2D patch is a slice of the store, without its first axis.
    """
    if not found:
        return None
    skipped = len(found) - dimensions
    return tuple(entry.axis - skipped for entry in found if entry.mirrored and entry.axis >= skipped)
