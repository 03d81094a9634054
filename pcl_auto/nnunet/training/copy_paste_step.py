"""Take steps of bidirectional copy-paste with an EMA teacher (Bai et al., CVPR 2023, arXiv 2305.00673)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, autocast, nn
from torch.nn import functional

from pcl_auto.method.augmentation import draw_box, paste_both_ways
from pcl_auto.method.label_maps import keep_largest
from pcl_auto.nnunet.data.patch_streams import scales
from pcl_auto.nnunet.network import unwrapped
from pcl_auto.nnunet.training.joint_clock import JointClock
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.nnunet.training.teacher import Teacher

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

# No class; of voxels that a term of the loss leaves out.
LEFT_OUT = -1


class CopyPasteStep:
    """A step on mixtures of labeled patches and of unlabeled ones, which the EMA teacher labels.

    The loss on a mixture is nnU-Net's own over the voxels of labeled patches, and, weighted, over the others.
    """

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Make teacher and loss for ``trainer``, which has been initialized."""
        self._trainer = trainer
        self._clock = JointClock(trainer.recipe)
        self._teacher = Teacher(unwrapped(trainer.network), trainer.recipe.unlabeled_loss.ema_decay)
        self._left_out: int = trainer.label_manager.ignore_label or LEFT_OUT
        self._loss = masked_loss(trainer, self._left_out)

    def begin_epoch(self, epoch: int) -> None:
        """Count the steps of the epoch from its start; the teacher has no learning rate."""
        self._clock.begin_epoch(epoch)

    def begin_rounds(self) -> None:
        """Start the teacher where the network is."""
        self._teacher.restart(unwrapped(self._trainer.network))

    def learned_labels(self, batch: dict[str, Any]) -> None:
        """Do nothing: the teacher begins with the rounds."""

    def load_start(self, state: dict[str, Any]) -> None:
        """Take nothing from a supervised start."""

    def take(self, labeled: dict[str, Any], unlabeled: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch of each stream; return the losses."""
        trainer = self._trainer
        first, second = (batch["data"].to(trainer.device, non_blocking=True) for batch in (labeled, unlabeled))
        labels = scales(labeled["target"])[0].to(trainer.device, non_blocking=True)
        box = draw_box(first.shape[2:], trainer.recipe.mixing.box_fraction)
        mixed = paste_both_ways(labels.float(), self._pseudo_labels(second), box)
        of_labeled = paste_both_ways(
            torch.ones_like(labels, dtype=torch.bool), torch.zeros_like(second[:, :1]).bool(), box
        )
        trainer.optimizer.zero_grad(set_to_none=True)
        outputs = trainer.forward(paste_both_ways(first, second, box))
        with_labels = self._segmentation_loss(outputs, mixed, of_labeled)
        with_pseudo_labels = self._segmentation_loss(outputs, mixed, ~of_labeled)
        loss = with_labels + self._clock.weight() * with_pseudo_labels
        backward_and_step(loss, [(trainer.optimizer, trainer.network)], trainer.grad_scaler)
        self._teacher.follow(unwrapped(trainer.network))
        self._clock.step()
        return {
            "loss": with_labels.detach().cpu().numpy(),
            "unlabeled": with_pseudo_labels.detach().cpu().numpy(),
        }

    def parts(self) -> dict[str, Any]:
        """Return the teacher; that of pseudo-labels has its own name."""
        return {"online_teacher": self._teacher}

    @torch.no_grad()
    def _pseudo_labels(self, images: Tensor) -> Tensor:
        """Return the teacher's labels of a batch, of each class the largest component, shape (B, 1, *patch)."""
        labels = self._trainer.forward(images, self._teacher.network)[0].argmax(1).cpu().numpy().astype(np.int16)
        classes = self._trainer.label_manager.foreground_labels
        kept = np.stack([keep_largest(patch, classes) for patch in labels])
        return torch.from_numpy(kept)[:, None].float().to(images.device)

    def _segmentation_loss(self, outputs: list[Tensor], labels: Tensor, counted: Tensor) -> Tensor:
        left_out = torch.full_like(labels, self._left_out)
        full = torch.where(counted, labels, left_out)
        targets = [functional.interpolate(full, size=output.shape[2:], mode="nearest-exact") for output in outputs]
        with autocast("cuda", enabled=self._trainer.device.type == "cuda"):
            deep = self._trainer.enable_deep_supervision
            loss: Tensor = self._loss(outputs, targets) if deep else self._loss(outputs[0], targets[0])
            return loss


def masked_loss(trainer: nnUNetTrainerPCLSupervised, left_out: int) -> nn.Module:
    """Make nnU-Net's Dice and cross-entropy over the voxels whose target is not ``left_out``."""
    loss = DC_and_CE_loss(
        {"batch_dice": trainer.configuration_manager.batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        ignore_label=left_out,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    return DeepSupervisionWrapper(loss, trainer.loss.weight_factors) if trainer.enable_deep_supervision else loss  # type: ignore[no-any-return]
