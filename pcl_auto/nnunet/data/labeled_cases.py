"""Measure the anatomy in the labeled cases of a split: volumes, and classes that are in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.data.labels import foreground, ignore_value
from pcl_auto.method.label_maps import Classes, class_mask, one_piece_classes, touching_share
from pcl_auto.method.volume_matching import expected_voxels
from pcl_auto.nnunet.data.pseudo_label_files import read_labels


def stored_spacing_mm(spacing_mm: Sequence[float], plans: Mapping[str, Any]) -> list[float]:
    """Return the spacing of stored voxels along z, y, x; in 2D the planned slice distance stands in for the case's."""
    if len(spacing_mm) == 2:
        return [plans["original_median_spacing_after_transp"][0], *spacing_mm]
    return [*spacing_mm]


def stored_voxel_ml(spacing_mm: Sequence[float], plans: Mapping[str, Any]) -> float:
    """Return the volume of a stored voxel in milliliters."""
    return float(np.prod(stored_spacing_mm(spacing_mm, plans))) / 1000


@dataclass(frozen=True)
class LabeledCases:
    """The stored labels of ``cases`` in ``folder``.

    ``labels`` are those of nnU-Net's dataset.json. Cases with ignored voxels say nothing of anatomy: there may be more
    of a class than they show.
    """

    folder: Path
    cases: Sequence[str]
    labels: Mapping[str, int | Sequence[int]]
    voxel_ml: float

    @property
    def classes(self) -> Classes:
        """The foreground's classes or regions."""
        return foreground(self.labels)

    def volumes_ml(self) -> dict[str, np.ndarray]:
        """Return the volume of each class in each case that is labeled throughout, shape (cases,), in milliliters."""
        counts = [[np.count_nonzero(class_mask(labels, v)) for v in self.classes.values()] for labels in self._maps()]
        volumes = np.array(counts, dtype=np.float64).reshape(-1, len(self.classes)) * self.voxel_ml
        return {name: volumes[:, index] for index, name in enumerate(self.classes)}

    def expected_voxels(self) -> dict[int, int]:
        """Return how many voxels a pseudo-label is expected to have of each class that has a size; of no regions."""
        volumes = self.volumes_ml()
        of_values = {value: volumes[name] for name, value in self.classes.items() if isinstance(value, int)}
        return expected_voxels(of_values, self.voxel_ml)

    def one_piece(self) -> list[int]:
        """List the classes that are one connected component in every case that is labeled throughout; no regions."""
        return one_piece_classes(self._maps(), [value for value in self.classes.values() if isinstance(value, int)])

    def touching_share(self) -> float:
        """Return the share of the foreground's border that touches another class, in all cases together."""
        maps = (read_labels(self.folder, case) for case in self.cases)
        return touching_share(maps, ignore_value(self.labels))

    def _maps(self) -> Iterator[np.ndarray]:
        maps = (read_labels(self.folder, case) for case in self.cases)
        ignored = ignore_value(self.labels)
        return (labels for labels in maps if ignored is None or not (labels == ignored).any())
