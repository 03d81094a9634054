"""Tell how far the joint rounds are, and the weight that the unlabeled loss has there."""

from __future__ import annotations

from pcl_auto.method.consistency import ramp_up
from pcl_auto.recipe.settings import Recipe


class JointClock:
    """The progress of the joint rounds; it follows from the epoch, so that a resumed run goes on with it."""

    def __init__(self, recipe: Recipe) -> None:
        """Tell the time of ``recipe``."""
        self._schedule, self._settings = recipe.schedule, recipe.unlabeled_loss
        self._steps_done = 0

    def begin_epoch(self, epoch: int) -> None:
        """Set the clock to the start of ``epoch``, counted from 0 over the whole run."""
        self._steps_done = (epoch - self._schedule.supervised_epochs) * self._schedule.steps_per_epoch

    def step(self) -> None:
        """Count a step."""
        self._steps_done += 1

    @property
    def progress(self) -> float:
        """Share of the joint steps that are done."""
        epochs = self._schedule.epochs - self._schedule.supervised_epochs
        return self._steps_done / max(1, epochs * self._schedule.steps_per_epoch)

    def weight(self) -> float:
        """Return the weight of the unlabeled loss at this step."""
        share = self._settings.ramp_up
        return self._settings.weight * (ramp_up(self.progress / share) if share else 1.0)
