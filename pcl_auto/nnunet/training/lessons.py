"""Lessons for unlabeled patches: what the network sees of them, and the loss that a network of the moment teaches."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, autocast

from pcl_auto.method import consistency
from pcl_auto.method.perturbation import DROPPED_CHANNELS, noisy, paste_from_next, random_boxes, strong_view
from pcl_auto.nnunet.data.patch_streams import scales, split_patches
from pcl_auto.nnunet.network import FeatureDropout, draw_anew, restart_segmentation_head, unwrapped
from pcl_auto.nnunet.training.optimizers import add_gradients, backward_and_step
from pcl_auto.nnunet.training.teacher import Teacher

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


class Lesson:
    """Teach a network with the unlabeled patches of a joint step; a published method overrides what it needs."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Prepare lessons for the network of ``trainer``, which has been initialized."""
        self._trainer = trainer
        self._settings = trainer.recipe.unlabeled_loss

    def begin_epoch(self, epoch: int) -> None:
        """Decay the learning rate of a second network."""

    def begin_rounds(self) -> None:
        """Begin a teacher or a second network anew, before the first joint step."""

    def learned_labels(self, batch: dict[str, Any]) -> None:
        """Train a second network on a batch of labels alone, which the network has been trained on."""

    def prepare(self, images: Tensor, labeled: int, *, weight: float, progress: float) -> Tensor:
        """Return what the network is to see of a step's images (B, C, *patch), of which the first are labeled."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labeled: int) -> Tensor:
        """Return the loss of the prepared lesson, from the network's logits (B, K, *patch), float32."""
        raise NotImplementedError

    def finish(self, images: Tensor, targets: list[Tensor], logits: Tensor, *, weight: float) -> None:
        """Update a teacher or a second network after the network's step, whose forward pass gave ``logits``."""

    def parts(self) -> dict[str, Any]:
        """Return what is kept in checkpoints, by its name there."""
        return {}

    def parts_of_start(self) -> dict[str, Any]:
        """Return those parts that a supervised start has trained."""
        return {}

    @torch.no_grad()
    def _probabilities(self, images: Tensor, network: torch.nn.Module | None = None) -> Tensor:
        logits = self._trainer.forward(images, network)[0]
        with autocast(self._trainer.device.type, enabled=False):
            return logits.float().softmax(1)


class MeanTeacher(Lesson):
    """Agree with an exponential moving average of the network, which sees other noise."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Make the teacher."""
        super().__init__(trainer)
        self._teacher = Teacher(unwrapped(trainer.network), self._settings.ema_decay)
        self._taught = torch.empty(0)

    def begin_rounds(self) -> None:
        """Restart the teacher as a copy of the network."""
        self._teacher.restart(unwrapped(self._trainer.network))

    def prepare(self, images: Tensor, labeled: int, *, weight: float, progress: float) -> Tensor:
        """Ask the teacher about all images, labeled ones too; the network sees them as they are."""
        del labeled, weight, progress
        self._taught = self._noisy_pass(images)
        return images

    def loss(self, logits: Tensor, labeled: int) -> Tensor:
        """Return the mean squared distance of the two predictions."""
        del labeled
        return consistency.mean_teacher_loss(logits, self._taught)

    def finish(self, images: Tensor, targets: list[Tensor], logits: Tensor, *, weight: float) -> None:
        """Move the teacher towards the network."""
        del images, targets, logits, weight
        self._teacher.follow(unwrapped(self._trainer.network))

    def parts(self) -> dict[str, Any]:
        """Return the teacher; that of pseudo-labels has its own name."""
        return {"online_teacher": self._teacher}

    def _noisy_pass(self, images: Tensor) -> Tensor:
        return self._probabilities(noisy(images, self._settings.noise), self._teacher.network)


class UncertaintyMeanTeacher(MeanTeacher):
    """Agree with the teacher where its predictions under noise agree with each other."""

    def prepare(self, images: Tensor, labeled: int, *, weight: float, progress: float) -> Tensor:
        """Ask the teacher, and measure its uncertainty over several noisy passes."""
        passes = self._settings.noisy_passes
        mean = self._noisy_pass(images)
        for _ in range(passes - 1):  # one after the other: a GPU need not hold them all
            mean += self._noisy_pass(images)
        mean /= passes
        self._uncertainty = consistency.entropy(mean)
        self._limit = consistency.entropy_limit(progress, mean.shape[1])
        return super().prepare(images, labeled, weight=weight, progress=progress)

    def loss(self, logits: Tensor, labeled: int) -> Tensor:
        """Return the mean squared distance over the voxels that the teacher is certain of."""
        del labeled
        return consistency.uncertainty_aware_loss(logits, self._taught, self._uncertainty, self._limit)


class FixMatch(Lesson):
    """Predict under strong perturbation what the network itself predicts, with confidence, without."""

    def prepare(self, images: Tensor, labeled: int, *, weight: float, progress: float) -> Tensor:
        """Predict the unlabeled images as they are; the network sees strong views with boxes of each other."""
        del weight, progress
        unlabeled = images[labeled:]
        self._taught, view = self._strong(unlabeled, self._probabilities(unlabeled))
        return torch.cat([images[:labeled], view])

    def loss(self, logits: Tensor, labeled: int) -> Tensor:
        """Return the cross-entropy of the strong views with the confident predictions."""
        return self._cross_entropy(logits[labeled:], self._taught)

    def _strong(self, images: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and images of a strong view, boxes of both from the next image."""
        boxes = random_boxes(len(images), images.shape[2:])
        return paste_from_next(probabilities, boxes), paste_from_next(strong_view(images), boxes)

    def _cross_entropy(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        return consistency.confident_cross_entropy(logits, probabilities, self._settings.min_confidence)


class UniMatch(FixMatch):
    """FixMatch with two strong views, and a stream of the images as they are with perturbed features."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Make the perturbation of features."""
        super().__init__(trainer)
        self._dropout = FeatureDropout(trainer.network, DROPPED_CHANNELS)

    def prepare(self, images: Tensor, labeled: int, *, weight: float, progress: float) -> Tensor:
        """Learn the second view and the stream of features at once: never are all in memory together."""
        del progress
        unlabeled = images[labeled:]
        probabilities = self._probabilities(unlabeled)
        self._taught, first = self._strong(unlabeled, probabilities)
        taught, second = self._strong(unlabeled, probabilities)
        with self._dropout.from_image(len(second)):
            logits = self._trainer.forward(torch.cat([second, unlabeled]))[0]
        with autocast(self._trainer.device.type, enabled=False):
            logits = logits.float()
            loss = consistency.STRONG_STREAM * self._cross_entropy(logits[: len(second)], taught)
            loss = loss + consistency.FEATURE_STREAM * self._cross_entropy(logits[len(second) :], probabilities)
        add_gradients(weight * loss, self._trainer.grad_scaler)
        self._of_other_streams = loss.detach()
        return torch.cat([images[:labeled], first])

    def loss(self, logits: Tensor, labeled: int) -> Tensor:
        """Return the loss of all three streams; gradients of the other two are there already."""
        return consistency.STRONG_STREAM * super().loss(logits, labeled) + self._of_other_streams


class CrossSupervision(Lesson):
    """Learn the hard labels of a second network, which learns those of the first; the first one is the model."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Draw the second network."""
        super().__init__(trainer)
        self._second = copy.deepcopy(unwrapped(trainer.network))
        draw_anew(self._second, trainer.settings.seed + 1)
        self._optimizer, self._lr_scheduler = trainer.optimizer_of(self._second)

    def begin_epoch(self, epoch: int) -> None:
        """Decay the second network's learning rate with the first one's."""
        self._second.train()
        self._lr_scheduler.step(epoch)

    def begin_rounds(self) -> None:
        """Copy the first network where there was no supervised start, but draw another segmentation head."""
        if not self._trainer.recipe.schedule.supervised_epochs:
            self._second.load_state_dict(unwrapped(self._trainer.network).state_dict())
            restart_segmentation_head(self._second, self._optimizer, self._trainer.settings.seed + 1)

    def learned_labels(self, batch: dict[str, Any]) -> None:
        """Learn the labels that the first network has learned."""
        device = self._trainer.device
        targets = [target.to(device, non_blocking=True) for target in scales(batch["target"])]
        self._learn(batch["data"].to(device, non_blocking=True), targets, None, 0.0)

    def prepare(self, images: Tensor, labeled: int, *, weight: float, progress: float) -> Tensor:
        """Ask the second network about all images, labeled ones too."""
        del labeled, weight, progress
        with torch.no_grad():
            self._taught = self._trainer.forward(images, self._second)[0]
        return images

    def loss(self, logits: Tensor, labeled: int) -> Tensor:
        """Return the cross-entropy with the second network's labels."""
        del labeled
        return consistency.cross_supervision_loss(logits, self._taught)

    def finish(self, images: Tensor, targets: list[Tensor], logits: Tensor, *, weight: float) -> None:
        """Take the second network's step, taught by the first one from before its own."""
        self._learn(images, targets, logits, weight)

    def parts(self) -> dict[str, Any]:
        """Return the second network and its optimizer."""
        return {"second_network": self._second, "second_optimizer": self._optimizer}

    def parts_of_start(self) -> dict[str, Any]:
        """Return the second network and its optimizer: both learn from the first step on."""
        return self.parts()

    def _learn(self, images: Tensor, targets: list[Tensor], taught: Tensor | None, weight: float) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        outputs = self._trainer.forward(images, self._second)
        loss = self._trainer.segmentation_loss(split_patches(outputs, len(targets[0]))[0], targets)
        if taught is not None:
            with autocast(self._trainer.device.type, enabled=False):
                loss = loss + weight * consistency.cross_supervision_loss(outputs[0].float(), taught)
        backward_and_step(loss, [(self._optimizer, self._second)], self._trainer.grad_scaler)


_LESSONS: dict[str, type[Lesson]] = {
    "mean_teacher": MeanTeacher,
    "uncertainty_mean_teacher": UncertaintyMeanTeacher,
    "fixmatch": FixMatch,
    "unimatch": UniMatch,
    "cross_supervision": CrossSupervision,
}


def lesson_of(trainer: nnUNetTrainerPCLSupervised) -> Lesson:
    """Return the lessons that the recipe of ``trainer`` names."""
    return _LESSONS[trainer.recipe.unlabeled_loss.method](trainer)
