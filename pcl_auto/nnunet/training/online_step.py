"""Take joint steps whose unlabeled patches are taught by a network of the moment, not by stored pseudo-labels.

docs/methods.md has the papers, and what departs from them here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, autocast

from pcl_auto.method.consistency import ramp_up
from pcl_auto.nnunet.data.patch_streams import scales, split_patches
from pcl_auto.nnunet.training.lessons import Lesson, lesson_of
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.recipe.settings import Recipe

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


class OnlineStep:
    """A step on labeled patches with their labels, and on unlabeled ones with a lesson for them.

    The loss on labels has deep supervision, the unlabeled one looks at full resolution alone.
    """

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Make what a step of ``trainer``, which has been initialized, needs beside the network."""
        self._trainer = trainer
        self._clock = JointClock(trainer.recipe)
        self._lesson: Lesson = lesson_of(trainer)

    def begin_epoch(self, epoch: int) -> None:
        """Decay learning rates with the network's, and count the steps of the epoch from its start."""
        self._clock.begin_epoch(epoch)
        self._lesson.begin_epoch(epoch)

    def begin_rounds(self) -> None:
        """Start what follows the network where the network is."""
        self._lesson.begin_rounds()

    def learned_labels(self, batch: dict[str, Any]) -> None:
        """Let what learns beside the network learn a batch that the network has learned: one of labels alone."""
        self._lesson.learned_labels(batch)

    def take(self, labeled: dict[str, Any], unlabeled: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch of each stream; return the losses."""
        trainer, count = self._trainer, len(labeled["data"])
        images = torch.cat([labeled["data"], unlabeled["data"]]).to(trainer.device, non_blocking=True)
        targets = [target.to(trainer.device, non_blocking=True) for target in scales(labeled["target"])]
        trainer.optimizer.zero_grad(set_to_none=True)
        weight, progress = self._clock.weight(), self._clock.progress
        seen = self._lesson.prepare(images, count, weight=weight, progress=progress)
        outputs = trainer.forward(seen)
        segmentation = trainer.segmentation_loss(split_patches(outputs, count)[0], targets)
        with autocast(trainer.device.type, enabled=False):
            unlabeled_loss = self._lesson.loss(outputs[0].float(), count)
        trained = [(trainer.optimizer, trainer.network)]
        backward_and_step(segmentation + weight * unlabeled_loss, trained, trainer.grad_scaler)
        self._lesson.finish(images, targets, outputs[0].detach(), weight=weight)
        self._clock.step()
        return {name: value.detach().cpu().numpy() for name, value in _losses(segmentation, unlabeled_loss).items()}

    def parts(self) -> dict[str, Any]:
        """Return what a step trains beside the network, by the names that it has in checkpoints."""
        return self._lesson.parts()

    def load_start(self, state: dict[str, Any]) -> None:
        """Take from a supervised start, kept by another run, what learned beside the network in it."""
        for name, part in self._lesson.parts_of_start().items():
            part.load_state_dict(state[name])


def _losses(segmentation: Tensor, unlabeled: Tensor) -> dict[str, Tensor]:
    return {"loss": segmentation, "unlabeled": unlabeled}


class JointClock:
    """The progress of the joint rounds, told from the epoch: a run that is resumed begins with one."""

    def __init__(self, recipe: Recipe) -> None:
        """Tell the time of ``recipe``."""
        self._schedule, self._settings = recipe.schedule, recipe.unlabeled_loss
        self._steps_done = 0

    def begin_epoch(self, epoch: int) -> None:
        """Be at the start of ``epoch``, counted from 0 over the whole run."""
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
