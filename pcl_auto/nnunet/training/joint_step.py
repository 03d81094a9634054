"""Take steps on labeled and pseudo-labeled patches together: step two of the method (Chaitanya et al., Eq. 2)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcl_auto.method.augmentation import box_at, draw_box, swap_box
from pcl_auto.method.perturbation import DROPPED_CHANNELS, strong_view
from pcl_auto.nnunet.data.patch_streams import scales, split_patches
from pcl_auto.nnunet.network import FeatureDropout
from pcl_auto.nnunet.training.contrastive_branch import ContrastiveBranch
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.nnunet.training.pseudo_label_stage import labeled_cases
from pcl_auto.recipe.settings import Mixing

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


def has_contrast(trainer: nnUNetTrainerPCLSupervised) -> bool:
    """Tell whether the contrastive loss counts, and whether it has classes to tell apart in the labeled cases."""
    settings = trainer.recipe.contrast
    if not settings.weight or not settings.min_touching:
        return bool(settings.weight)
    touching = labeled_cases(trainer).touching_share()
    if touching < settings.min_touching:
        trainer.events.emit("contrast_off", touching=touching, least=settings.min_touching)
    return touching >= settings.min_touching


def mixing_of(trainer: nnUNetTrainerPCLSupervised) -> Mixing:
    """Return the recipe's mixtures, without copy-paste where a patch covers too little of the median image."""
    mixing = trainer.recipe.mixing
    if not mixing.copy_paste or not mixing.min_coverage:
        return mixing
    planned = trainer.configuration_manager
    sizes = zip(planned.patch_size, planned.median_image_size_in_voxels, strict=True)
    coverage = math.prod(min(1.0, patch / image) for patch, image in sizes)
    if coverage >= mixing.min_coverage:
        return mixing
    trainer.events.emit("copy_paste_off", coverage=coverage, least=mixing.min_coverage)
    return replace(mixing, copy_paste=False)


class JointStep:
    """A step of a joint round, with the contrastive branch that it needs beside the network, if its loss counts."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Make what a step of ``trainer``, which has been initialized, needs beside the network."""
        self._trainer = trainer
        self._recipe = trainer.recipe
        self._mixing = mixing_of(trainer)
        self.contrast = ContrastiveBranch(trainer) if has_contrast(trainer) else None
        dice_weight = trainer.recipe.pseudo_labels.dice_weight
        self._pseudo_loss = trainer.loss if dice_weight == 1 else trainer.loss_with(dice_weight)
        noise = trainer.recipe.pseudo_labels.student_noise
        self._dropout = FeatureDropout(trainer.network, DROPPED_CHANNELS, deepest_only=True) if noise else None

    def begin_epoch(self, epoch: int) -> None:
        """Decay learning rates with the network's."""
        if self.contrast is not None:
            self.contrast.begin_epoch(epoch)

    def begin_rounds(self) -> None:
        """Do nothing: what a step trains beside the network begins with it."""

    def learned_labels(self, batch: dict[str, Any]) -> None:
        """Do nothing: what a step trains beside the network learns in the rounds alone."""

    def load_start(self, state: dict[str, Any]) -> None:
        """Take nothing from a supervised start."""

    def take(self, labeled: dict[str, Any], unlabeled: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch of each stream; return the losses."""
        trainer, recipe, count = self._trainer, self._recipe, len(labeled["data"])
        images, targets = join_patches(labeled, unlabeled, self._mixing, trainer.device)
        drawn = None if self.contrast is None else self.contrast.draw(images, targets[0])
        trainer.optimizer.zero_grad(set_to_none=True)
        outputs, pseudo_outputs = split_patches(self._forward(images), count)
        targets, pseudo_targets = split_patches(targets, count)
        loss = segmentation = trainer.segmentation_loss(outputs, targets)
        if recipe.pseudo_labels.segmentation_weight:
            pseudo = trainer.segmentation_loss(pseudo_outputs, pseudo_targets, self._pseudo_loss)
            weight = recipe.pseudo_labels.segmentation_weight
            loss = (loss + weight * pseudo) / (1 + weight * recipe.pseudo_labels.divide_loss)
        trained = [(trainer.optimizer, trainer.network)]
        losses = {"loss": segmentation}
        if self.contrast is not None and drawn is not None:
            losses["contrast"] = self.contrast.loss(drawn)
            loss = loss + recipe.contrast.weight * losses["contrast"]
            trained.append((self.contrast.optimizer, self.contrast.head))
        backward_and_step(loss, trained, trainer.grad_scaler)
        # Together: a GPU is waited for once.
        values = torch.stack(list(losses.values())).detach().cpu()
        return {name: value.numpy() for name, value in zip(losses, values, strict=True)}

    def _forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits, of a noisy student under noise (Xie et al., CVPR 2020, Algorithm 1)."""
        if self._dropout is None:
            return self._trainer.forward(images)
        with self._dropout.from_image(0):
            return self._trainer.forward(strong_view(images))

    def parts(self) -> dict[str, Any]:
        """Return what a step trains beside the network, by the names that it has in checkpoints."""
        if self.contrast is None:
            return {}
        return {"head": self.contrast.head, "head_optimizer": self.contrast.optimizer}


def join_patches(
    labeled: dict[str, Any], unlabeled: dict[str, Any], mixing: Mixing, device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """Join two batches to one, labeled patches first, with boxes copied between them if the recipe says so.

    All of it happens on ``device``: what the loader has pinned goes there by itself, and the processor is left to the
    workers.

    Returns:
        Images (B, C, *patch) and targets, from full resolution down.
    """
    parts = zip(*([batch["data"], *scales(batch["target"])] for batch in (labeled, unlabeled)), strict=True)
    images, *targets = [torch.cat([part.to(device, non_blocking=True) for part in both]) for both in parts]
    if mixing.copy_paste:
        count = len(labeled["data"])
        pairs = min(count, len(images) - count)
        box = draw_box(images.shape[2:], mixing.box_fraction)
        for batch in (images, *targets):
            place = box_at(box, images.shape[2:], batch.shape[2:])
            swap_box(batch[:pairs], batch[count : count + pairs], place)
    return images, targets
