"""Mix the labeled patches of a step on labels alone: mixup, and copy-paste between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcl_auto.method.augmentation import box_at, draw_box, swap_box
from pcl_auto.method.consistency import mixup_loss
from pcl_auto.nnunet.data.patch_streams import scales
from pcl_auto.nnunet.training.optimizers import backward_and_step

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


def paste_between_labeled(batch: dict[str, Any], box_fraction: float) -> None:
    """Exchange a box between the first and the second half of a batch and of its targets, in place.

    As in the pre-training of Bai et al. (CVPR 2023).
    """
    images: Tensor = batch["data"]
    pairs = len(images) // 2
    box = draw_box(images.shape[2:], box_fraction)
    for patches in (images, *scales(batch["target"])):
        swap_box(patches[:pairs], patches[pairs : 2 * pairs], box_at(box, images.shape[2:], patches.shape[2:]))


def mixup_step(trainer: nnUNetTrainerPCLSupervised, batch: dict[str, Any]) -> dict[str, Any]:
    """Take a step on mixtures of the labeled patches (Zhang et al., ICLR 2018); return the loss.

    As in the authors' code the loss is mixed instead of the labels, which for cross-entropy is the same.
    """
    alpha = trainer.recipe.mixing.mixup_alpha
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    images = batch["data"].to(trainer.device, non_blocking=True)
    partner = torch.randperm(len(images))
    targets = [target.to(trainer.device, non_blocking=True) for target in scales(batch["target"])]
    trainer.optimizer.zero_grad(set_to_none=True)
    outputs = trainer.forward(share * images + (1 - share) * images[partner])
    loss = mixup_loss(
        lambda second: trainer.segmentation_loss(
            outputs, [target[partner] if second else target for target in targets]
        ),
        share,
    )
    backward_and_step(loss, [(trainer.optimizer, trainer.network)], trainer.grad_scaler)
    return {"loss": loss.detach().cpu().numpy()}
