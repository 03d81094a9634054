"""Make the pseudo-labels that a training begins with: masks that it was given, or labels carried over by registration.

They teach beside the labels in the supervised epochs; the network of round one replaces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pcl_auto.data.labels import all_values, ignore_value
from pcl_auto.data.split import Split, order_of_draw
from pcl_auto.method.atlas_fusion import Atlas, Fusion, fuse_atlases, most_similar
from pcl_auto.method.mirroring import thumbnail
from pcl_auto.method.pseudo_labels import LedgerRow, drop_unregistered
from pcl_auto.method.registration import Scan
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data.cases import StoredCases, reading
from pcl_auto.nnunet.data.labeled_cases import LabeledCases
from pcl_auto.nnunet.data.pseudo_label_files import (
    AGREEMENT_KEY,
    RoundFolder,
    keep_pseudo_label,
    read_agreement,
    read_labels,
)
from pcl_auto.nnunet.data.store_records import is_stored
from pcl_auto.nnunet.data.stored_scans import read_scan, read_stored_image, registering_device

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

# Where atlases agree in none of so many cases, the others are not worth the time.
FIRST_CASES = 8


class InitialPseudoLabels:
    """The pseudo-labels of round 0, before any network."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised, split: Split, labeled: LabeledCases, store: Path) -> None:
        """Work for ``trainer``, on the unlabeled cases of ``split``, whose images are in ``store``."""
        self._trainer = trainer
        self._split = split
        self._labeled = labeled
        self._store = store
        self._settings = trainer.recipe.registration
        given = trainer.settings.initial_masks
        self._given = trainer.data.path / given if given else None

    def cases(self) -> list[str]:
        """Return the cases that get a pseudo-label: those with a mask, or some that the seed draws."""
        if self._given is not None:
            return sorted(StoredCases.get_identifiers(str(self._given)))
        return order_of_draw(self._split.unlabeled, self._split.seed)[: self._settings.max_cases]

    def make(self, folder: RoundFolder) -> list[str]:
        """Put the pseudo-labels into ``folder`` and return their cases; what an interrupted try has made is kept."""
        cases = self.cases()
        if self._given is None:
            first = cases[:FIRST_CASES]
            self._keep_all(first, folder)
            distributed.wait()
            found = [read_agreement(folder.cases, case) or 0.0 for case in first]
            if max(found) < self._settings.min_agreement:
                return sorted(first)
        self._keep_all(cases, folder)
        return sorted(cases)

    def labels_of(self, case: str) -> Fusion:
        """Return the mask of a case, or labels of the labeled cases that look most like it, carried over to it."""
        if self._given is not None:
            return Fusion(read_labels(self._given, case), None)
        labels = self._trainer.dataset_json["labels"]
        values = [value for value in all_values(labels) if value != ignore_value(labels)]
        thumbnails = [small for _, small in self._atlases]
        nearest = most_similar(self._thumbnail(case), thumbnails, self._settings.atlases)
        atlases = [self._atlases[index][0] for index in nearest]
        return fuse_atlases(self._scan(case), atlases, values, self._labeled.classes)

    def choose(self, rows: list[LedgerRow]) -> list[LedgerRow]:
        """Mark the pseudo-labels that are not to be used, and say where all of them come from."""
        if self._given is not None:
            return [replace(row, source="given") for row in rows]
        chosen = drop_unregistered(rows, self._settings.min_agreement)
        return [replace(row, source="registration") for row in chosen]

    def _keep_all(self, cases: Sequence[str], folder: RoundFolder) -> None:
        """Store the pseudo-labels of ``cases`` that are not there yet; several processes share them."""
        mine, trainer = distributed.share(cases), self._trainer
        stored = StoredCases(str(self._store), list(mine))
        patch_voxels = tuple(trainer.configuration_manager.patch_size)
        for done, case in enumerate(mine, start=1):
            if not is_stored(folder.cases, case):
                found = self.labels_of(case)
                _, region, _, properties = stored.load_case(case)
                with reading(lambda: stored):
                    nonzero = region[:]
                if found.agreement is not None:
                    properties[AGREEMENT_KEY] = found.agreement
                keep_pseudo_label(
                    folder, self._store, case, found.labels[None], nonzero, properties,
                    trainer.label_manager, patch_voxels,
                )  # fmt: skip
            trainer.events.notify("initial_pseudo_label", done=done, total=len(mine))

    def _scan(self, case: str) -> Scan:
        device = registering_device(self._trainer.device, deterministic=self._trainer.settings.deterministic)
        return read_scan(self._store, case, self._trainer.plans_manager.transpose_forward, device)

    def _thumbnail(self, case: str) -> np.ndarray:
        return thumbnail(read_stored_image(self._store, case))

    @cached_property
    def _atlases(self) -> list[tuple[Atlas, np.ndarray]]:
        return [
            (Atlas(self._scan(case), read_labels(self._labeled.folder, case)), self._thumbnail(case))
            for case in sorted(self._labeled.cases)
        ]
