"""Where the folds of a cross-validation meet: the pseudo-labels of a round come from all of their networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcl_auto.nnunet import distributed as ranks
from pcl_auto.nnunet.data import pseudo_labels
from pcl_auto.nnunet.data.store import case_files, is_stored
from pcl_auto.workspace.files import link_relative

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL


class WaitsForFolds(Exception):  # noqa: N818 (nothing is wrong)
    """A fold has come to the pseudo-labels of a round, which the others have a part in."""

    def __init__(self, round_number: int) -> None:
        super().__init__(round_number)
        self.round_number = round_number


def have_met(run: Path, round_number: int, cases: Sequence[str]) -> bool:
    """Whether the pseudo-labels of a round are there for the fold in folder ``run``."""
    folder = pseudo_labels.round_folder(run, round_number).cases
    return all(is_stored(folder, case) for case in cases)


def meet(trainers: Sequence[nnUNetTrainerPCL], round_number: int) -> None:
    """Segment the unlabeled cases with the mean of the folds' logits, as nnU-Net predicts, once for all of them.

    Each fold gets links to the result and judges it against its own labeled cases.
    """
    first = trainers[0]
    shared = pseudo_labels.round_folder(first.run_folder.parent, round_number)
    segmenters = [trainer.segmenter_of_round(round_number) for trainer in trainers]

    def segment(image: Tensor) -> Tensor:
        return torch.stack([its_segment(image).float() for its_segment in segmenters]).mean(0)

    cases = list(first.split.unlabeled)
    first.segment_into(shared, segment, ranks.share(cases), round_number)
    with ranks.rank_zero_first() as alone:
        for trainer in trainers if alone else ():
            folder = pseudo_labels.round_folder(trainer.run_folder, round_number).cases
            for case in cases:
                for target, source in zip(case_files(folder, case), case_files(shared.cases, case), strict=True):
                    link_relative(target, source)
