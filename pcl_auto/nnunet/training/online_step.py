"""Take joint steps whose unlabeled patches are taught by a network of the moment, not by stored pseudo-labels.

docs/methods.md has the papers, and what departs from them here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, autocast

from pcl_auto.nnunet.data.patch_streams import scales, split_patches
from pcl_auto.nnunet.training.joint_clock import JointClock
from pcl_auto.nnunet.training.lessons import Lesson, lesson_of
from pcl_auto.nnunet.training.optimizers import backward_and_step

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
        """Begin a teacher or a second network anew, before the first joint step."""
        self._lesson.begin_rounds()

    def learned_labels(self, batch: dict[str, Any]) -> None:
        """Train a second network on a batch of labels alone, which the network has been trained on."""
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
