"""The collapse guard of a run: what it compares, the way back, and which rounds were rolled back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcl_auto.method.collapse import collapse, validation_collapse
from pcl_auto.method.rounds import joint_rounds
from pcl_auto.nnunet.checkpoint_files import read_checkpoint, write_checkpoint
from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.recipe.settings import Recipe

# The first collapse is answered with a second try, the second one with the end of training.
TRIES = 2
# The network that came out of the last round is checked on so many unlabeled cases.
CASES_OF_LAST_CHECK = 8


class RoundGuard:
    """Tells a collapse from the ledgers of a run and knows the way back.

    ``collapsed`` holds the numbers of the rounds that were rolled back. Whatever it decides follows from files, the
    training curves and that list, so that an interrupted run decides the same again.
    """

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self.run = run
        self.settings = recipe.collapse_guard
        self.range_margin = recipe.pseudo_label_filter.range_margin
        self.rounds = {entry.number: entry for entry in joint_rounds(recipe.schedule)}
        self.collapsed: list[int] = []

    @property
    def goes_on(self) -> bool:
        """True if another round is worth a try."""
        return len(self.collapsed) < TRIES

    def source(self, number: int) -> int:
        """Return the round whose pseudo-labels round ``number`` has: its own, or those from before a roll-back."""
        while number - 1 in self.collapsed:
            number -= 1
        return number

    def labels_of(self, number: int) -> pseudo_label_files.RoundFolder:
        """Return the pseudo-labels that round ``number`` trains on."""
        return pseudo_label_files.round_folder(self.run, self.source(number))

    def labels_after(self, number: int) -> pseudo_label_files.RoundFolder:
        """Return the pseudo-labels of the network that came out of round ``number``."""
        if number == len(self.rounds):
            return pseudo_label_files.last_check_folder(self.run)
        return pseudo_label_files.round_folder(self.run, number + 1)

    def reasons(
        self, number: int, labeled_volumes_ml: Mapping[str, np.ndarray], validation_dice: Sequence[float] | None
    ) -> list[str]:
        """List why round ``number`` ended in a collapse; empty where it did not.

        Args:
            number: the round.
            labeled_volumes_ml: volumes of each class in the labeled cases.
            validation_dice: of every epoch so far, where there are validation cases.
        """
        before = pseudo_label_files.volumes_ml(self.labels_of(number), labeled_volumes_ml)
        after = pseudo_label_files.volumes_ml(self.labels_after(number), labeled_volumes_ml)
        reasons = collapse(before, after, labeled_volumes_ml, margin=self.range_margin)
        if validation_dice is not None:
            # A second try began where the first one did.
            begun = self.rounds[self.source(number)].first_epoch
            this = self.rounds[number]
            reasons += validation_collapse(
                validation_dice, begun, this.first_epoch, this.last_epoch, drop=self.settings.validation_drop
            )
        return reasons

    def start_file(self, number: int) -> Path:
        """Return the file of the state at the start of round ``number``, which is there while the round lasts."""
        return self.run / f"round_{number}_start.pth"

    def keep_start(self, number: int, parts: Mapping[str, Any]) -> None:
        """Keep the state of ``parts`` (``network_weights`` among them), the way back from round ``number``."""
        write_checkpoint(self.start_file(number), {name: part.state_dict() for name, part in parts.items()})
        self._forget(number)

    def undecided(self, number: int) -> bool:
        """Tell if there is a way back from round ``number`` that was not taken; from step one (0) there is none."""
        return number not in self.collapsed and self.start_file(number).is_file()

    def roll_back(self, number: int, parts: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Give ``parts`` the state they had at the start of round ``number``; returns what is said of it."""
        state = read_checkpoint(self.start_file(number), device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        back_to = self.rounds[self.source(number)].first_epoch
        self.collapsed.append(number)
        return {"back_to_epoch": back_to, "training_ends": not self.goes_on or number == len(self.rounds)}

    def forget_starts(self) -> None:
        """Remove the ways back: training is over."""
        self._forget(None)

    def _forget(self, but: int | None) -> None:
        for number in self.rounds:
            if number != but:
                self.start_file(number).unlink(missing_ok=True)
