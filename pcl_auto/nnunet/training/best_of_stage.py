"""The weights of the best validation Dice in a stage of a training: the supervised start, or a round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class BestOfStage:
    """Keeps the weights of the epoch with the best validation Dice, until the next stage begins.

    They lie in the checkpoint of every epoch, so that a run that was interrupted between two stages chooses the same.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] | None = None

    def see(self, epoch: int, patch_dice: float, modules: Mapping[str, nn.Module]) -> None:
        """Keep the weights of ``modules`` after ``epoch``, if no earlier epoch of the stage was as good."""
        if self._kept is None or patch_dice > self._kept["patch_dice"]:
            weights = {
                name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
                for name, module in modules.items()
            }
            self._kept = {"epoch": epoch, "patch_dice": patch_dice, "weights": weights}

    def restore(self, modules: Mapping[str, nn.Module]) -> dict[str, Any] | None:
        """Give ``modules`` the weights that were kept; return their epoch and Dice, or None where none are kept."""
        if self._kept is None:
            return None
        for name, module in modules.items():
            module.load_state_dict(self._kept["weights"][name])
        return {key: self._kept[key] for key in ("epoch", "patch_dice")}

    def forget(self) -> None:
        """Keep nothing: another stage begins, or training is over."""
        self._kept = None

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state that :meth:`load_state_dict` resumes."""
        return self._kept

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a kept state."""
        self._kept = state
