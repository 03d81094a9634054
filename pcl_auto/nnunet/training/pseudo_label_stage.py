"""Segment the unlabeled cases at the start of a round, and choose the pseudo-labels that are worth training on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor, nn

from pcl_auto.data.split import Split
from pcl_auto.method.collapse import unusable_reasons
from pcl_auto.method.label_maps import keep_largest
from pcl_auto.method.pseudo_labels import LedgerRow, filter_rows
from pcl_auto.method.volume_matching import case_volumes, matching_shifts
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.nnunet.data.cases import StoredCases, reading
from pcl_auto.nnunet.data.labeled_cases import LabeledCases, stored_voxel_ml
from pcl_auto.nnunet.data.pseudo_label_files import AGREEMENT_KEY, RoundFolder, keep_pseudo_label
from pcl_auto.nnunet.data.store_records import is_stored
from pcl_auto.nnunet.inference.export import labels_from
from pcl_auto.nnunet.inference.sliding_window import AgreementCheck, Segmenter, agreement_check, segmenter
from pcl_auto.nnunet.network import full_resolution_only
from pcl_auto.nnunet.training.initial_pseudo_labels import InitialPseudoLabels
from pcl_auto.nnunet.training.round_guard import RoundGuard
from pcl_auto.recipe.settings import PseudoLabelFilter
from pcl_auto.workspace.files import read_json, write_json

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

# Volumes are matched on so many of the unlabeled cases, which are segmented twice for it.
CASES_TO_MATCH = 16


@dataclass(frozen=True)
class Segmented:
    """The ledger's rows of pseudo-labels, on the process that writes it, and the seconds that segmenting took."""

    rows: list[LedgerRow]
    seconds: float


def labeled_cases(trainer: nnUNetTrainerPCLSupervised) -> LabeledCases:
    """Return the labeled cases that ``trainer`` learns from."""
    return LabeledCases(
        trainer.data.labeled_view(trainer.settings.split, trainer.configuration_name),
        trainer.do_split()[0],
        trainer.dataset_json["labels"],
        stored_voxel_ml(trainer.configuration_manager.spacing, trainer.plans_manager.plans),
    )


class PseudoLabelStage:
    """The pseudo-labels of a training: made with its networks, judged against its labeled cases."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised, split: Split, guard: RoundGuard) -> None:
        """Work for ``trainer``, on the unlabeled cases of ``split``; ``guard`` knows which rounds count."""
        self._trainer = trainer
        self._filter = trainer.recipe.pseudo_label_filter
        self._guard = guard
        self._split = split
        self._store = trainer.data.store(trainer.settings.store)
        self.labeled = labeled_cases(trainer)

    def segmenter(self, network: nn.Module) -> Segmenter:
        """Return what turns a preprocessed image into logits, with ``network``."""
        return segmenter(self._trainer, network, mirroring=self._trainer.recipe.pseudo_labels.mirroring)

    def label(self, segment: Segmenter, cases: Sequence[str], folder: RoundFolder, number: int) -> Segmented:
        """Segment ``cases`` into the folder of round ``number`` and write its ledger; processes share the work."""
        begun = monotonic()
        rounds = self._trainer.recipe.schedule.rounds
        with full_resolution_only(self._trainer):
            # Nothing is trained on what is segmented after the last round.
            if self._trainer.recipe.pseudo_labels.match_volumes and number <= rounds:
                segment = self._matched(segment, cases, folder, number)
            predict_round(
                segment,
                distributed.share(cases),
                self._store,
                folder,
                patch_voxels=tuple(self._trainer.configuration_manager.patch_size),
                labels_of=self._trainer.label_manager,
                one_piece=self.labeled.one_piece() if self._filter.largest_component else [],
                check=agreement_check(self._trainer, segment)
                if self._filter.min_agreement and number <= rounds
                else None,
                progress=lambda done, total: self._trainer.events.notify(
                    "pseudo_label", round=min(number, rounds), done=done, total=total
                ),
            )
        seconds = monotonic() - begun
        with distributed.rank_zero_first() as first:
            return Segmented(self._judge(cases, folder, number) if first else [], seconds)

    def _matched(self, segment: Segmenter, cases: Sequence[str], folder: RoundFolder, number: int) -> Segmenter:
        """Return ``segment`` with its logits shifted so that volumes are about those of the labeled cases.

        Rank 0 measures the shifts, on some of the cases, and keeps them for an interrupted round.
        """
        labels = self._trainer.dataset_json["labels"]
        with distributed.rank_zero_first() as first:
            if first and not folder.shifts.is_file():
                margin, seed = self._trainer.recipe.pseudo_labels.match_volumes, self._trainer.settings.seed
                rng, expected = np.random.default_rng([seed, number]), self.labeled.expected_voxels()
                found = measure_shifts(segment, cases, self._store, expected, margin, rng)
                named = {name: found[value] for name, value in labels.items() if value in found}
                folder.path.mkdir(parents=True, exist_ok=True)
                write_json(folder.shifts, named)
                self._trainer.events.emit("volumes_matched", round=number, logit_shifts=named)
        shifts = torch.zeros(len(self._trainer.label_manager.all_labels))
        for name, shift in read_json(folder.shifts).items():
            shifts[labels[name]] = shift
        return lambda image: add_shifts(segment(image), shifts)

    def _judge(self, cases: Sequence[str], folder: RoundFolder, number: int) -> list[LedgerRow]:
        # Nothing is trained on what is segmented after the last round.
        last = number > self._trainer.recipe.schedule.rounds
        chosen = PseudoLabelFilter() if last else self._filter
        previous = self._guard.labels_of(number - 1)
        return self._keep_ledger(cases, folder, previous, partial(filter_rows, settings=chosen))

    def _keep_ledger(
        self,
        cases: Sequence[str],
        folder: RoundFolder,
        previous: RoundFolder | None,
        choose: Callable[[list[LedgerRow]], list[LedgerRow]],
    ) -> list[LedgerRow]:
        return pseudo_label_files.keep_ledger(
            folder,
            previous,
            cases,
            self.labeled.volumes_ml(),
            classes=self.labeled.classes,
            voxel_ml=self.labeled.voxel_ml,
            margin=self._filter.range_margin,
            choose=choose,
        )

    # --- before any network -----------------------------------------------------------------------------------

    @property
    def has_initial(self) -> bool:
        """True if training is to begin with pseudo-labels: it was given masks, or may register labeled cases."""
        registers = self._trainer.recipe.pseudo_labels.start == "registration" and len(self.labeled.cases) > 1
        return bool(self._trainer.settings.initial_masks) or registers

    def initial(self) -> InitialPseudoLabels:
        """Return what makes the pseudo-labels that training begins with."""
        return InitialPseudoLabels(self._trainer, self._split, self.labeled, self._store)

    def make_initial(self, folder: RoundFolder) -> Segmented:
        """Make the pseudo-labels that training begins with, as round 0, and write their ledger."""
        begun, initial = monotonic(), self.initial()
        cases = initial.make(folder)
        seconds = monotonic() - begun
        with distributed.rank_zero_first() as first:
            if not first:
                return Segmented([], seconds)
            # Agreement of a network's predictions is not what registered labels have.
            chosen = replace(self._filter, min_agreement=0.0)
            rows = self._keep_ledger(cases, folder, None, lambda rows: initial.choose(filter_rows(rows, chosen)))
            if not any(row.used for row in rows):
                shutil.rmtree(folder.cases)  # the ledger stays, as a record
            return Segmented(rows, seconds)

    def used(self, folder: RoundFolder) -> tuple[list[str], list[str]]:
        """Return the cases that a round trains on, and why their pseudo-labels are not worth it, if they are not.

        Both follow from the ledger, so that a resumed run uses the same ones.
        """
        used = pseudo_label_files.used_cases(folder, {*self._split.labeled, *self._split.validation})
        volumes = pseudo_label_files.volumes_ml(folder, self.labeled.classes)
        margin = self._trainer.recipe.collapse_guard.volume_margin
        chosen = {case: volumes[case] for case in used}
        return used, unusable_reasons(chosen, self.labeled.volumes_ml(), margin=margin)


def measure_shifts(
    segment: Segmenter,
    cases: Sequence[str],
    store: Path,
    expected_voxels: Mapping[int, int],
    margin: float,
    rng: np.random.Generator,
) -> dict[int, float]:
    """Return the shift of each class's logit with which volumes match, by segmenting some of ``cases``."""
    drawn = sorted(rng.choice(cases, min(len(cases), CASES_TO_MATCH), replace=False).tolist())
    images = StoredCases(str(store), drawn)
    volumes = []
    for case in drawn:
        image = images.load_case(case)[0]
        with reading(lambda: images):
            logits = segment(torch.from_numpy(image[:]))
        volumes.append(case_volumes(logits.float().cpu().numpy(), rng))
    return matching_shifts(volumes, expected_voxels, max(1.0, margin))


def add_shifts(logits: Tensor, shifts: Tensor) -> Tensor:
    """Return logits (K, z, y, x) with the shift of each class (K,) added."""
    return logits + shifts.to(logits)[:, None, None, None]


def predict_round(
    segment: Segmenter,
    cases: Sequence[str],
    store: Path,
    folder: RoundFolder,
    *,
    patch_voxels: tuple[int, ...],
    labels_of: LabelManager,
    one_piece: Sequence[int],
    check: AgreementCheck | None,
    progress: Callable[[int, int], None],
) -> None:
    """Pseudo-label ``cases`` from the case store; those that an interrupted try has finished are kept.

    Stored are label maps, with regions too: nnU-Net makes regions of them as of labels.

    Of the classes ``one_piece`` only the largest connected component stays. What ``check`` finds is kept with the case.
    """
    images = StoredCases(str(store), list(cases))
    for index, case in enumerate(cases):
        if not is_stored(folder.cases, case):
            data, region, _, properties = images.load_case(case)
            with reading(lambda: images):
                image = data[:]
            labels = keep_largest(labels_from(labels_of, segment(torch.from_numpy(image))), one_piece)
            if check is not None:
                properties[AGREEMENT_KEY] = check(case, image)
            with reading(lambda: images):
                keep_pseudo_label(folder, store, case, labels[None], region[:], properties, labels_of, patch_voxels)
        progress(index + 1, len(cases))
