"""Take steps on labeled and pseudo-labeled patches together: step two of the method (Chaitanya et al., Eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, autocast

from pcl_auto.method.augmentation import box_at, draw_box, intensity_view, swap_box
from pcl_auto.method.contrastive_loss import ContrastHead, local_contrastive_loss
from pcl_auto.method.regions import disjoint_classes, patterns_of
from pcl_auto.method.sampling import VoxelSample, gather_features, sample_voxels
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data.patch_streams import patches_of, scales
from pcl_auto.nnunet.network import DecoderFeatures
from pcl_auto.nnunet.training.optimizers import backward_and_step, make_lr_scheduler, make_optimizer
from pcl_auto.recipe.settings import Mixing

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


class JointStep:
    """A step of a joint round, with the contrastive head h_φ that it needs beside the network.

    The head has an optimizer of its own, so that nnU-Net can resume the network's by itself.
    """

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Draw the head for the network of ``trainer``, which has been initialized."""
        self._trainer = trainer
        self._recipe = trainer.recipe
        self._patterns = patterns_of(trainer.label_manager.all_regions or [], trainer.label_manager.foreground_labels)
        self.features = DecoderFeatures(trainer.network, self._recipe.contrast.head_convolutions)
        contrast = self._recipe.contrast
        head = ContrastHead(self.features.width, contrast.dimensions, batch_norm=contrast.batch_norm)
        self.head = head.to(trainer.device)
        self._head_in_step = distributed.wrap_ddp(self.head, trainer.device)
        self.optimizer = make_optimizer(self.head.parameters(), self._recipe.optimizer)
        self._lr_scheduler = make_lr_scheduler(self.optimizer, self._recipe.optimizer, trainer.num_epochs)

    def begin_epoch(self, epoch: int) -> None:
        """Decay the head's learning rate with the network's."""
        self.head.train()
        self._lr_scheduler.step(epoch)

    def take(self, labeled: dict[str, Any], unlabeled: dict[str, Any]) -> dict[str, Any]:
        """Train network and head on a batch of each stream; return the losses."""
        trainer, recipe, count = self._trainer, self._recipe, len(labeled["data"])
        images, targets = join_patches(labeled, unlabeled, recipe.mixing, trainer.device)
        labels = disjoint_classes(targets[0], self._patterns)  # (B, *patch)
        views = 2 if recipe.contrast.intensity_views else 1
        # Drawn before the forward pass: on a GPU the draw waits for what was started before it.
        sample = sample_voxels(torch.cat([labels] * views), self._n_classes, recipe.contrast.mean_voxels)
        first, second = sample.split(len(images))

        trainer.optimizer.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)
        seconds = [self._view_vectors(intensity_view(images), second)] if views == 2 else []
        outputs = trainer.forward(images)
        loss = segmentation = trainer.segmentation_loss(patches_of(outputs, 0, count), patches_of(targets, 0, count))
        if recipe.pseudo_labels.segmentation_weight:
            pseudo = trainer.segmentation_loss(patches_of(outputs, count, None), patches_of(targets, count, None))
            loss = loss + recipe.pseudo_labels.segmentation_weight * pseudo
        vectors = torch.cat([gather_features(self.features.take(), first), *seconds])
        contrast = self._contrast(vectors, sample, views * len(images))
        trained = [(trainer.optimizer, trainer.network), (self.optimizer, self.head)]
        backward_and_step(loss + recipe.contrast.weight * contrast, trained, trainer.grad_scaler)
        return {"loss": segmentation.detach().cpu().numpy(), "contrast": contrast.detach().cpu().numpy()}

    @property
    def _n_classes(self) -> int:
        return len(self._trainer.label_manager.foreground_labels)

    def _view_vectors(self, images: Tensor, sample: VoxelSample) -> Tensor:
        """Return the feature vectors of a second view; on a GPU the memory is planned for the images of a step once."""
        on_gpu = self._trainer.device.type == "cuda"
        gather = self.features.recomputed_vectors if on_gpu else self.features.vectors
        return gather(self._trainer.forward, images, sample)

    def _contrast(self, vectors: Tensor, sample: VoxelSample, patches: int) -> Tensor:
        """Return L_cont of a step over its labeled and unlabeled patches, from the features (N, F) of drawn voxels."""
        settings = self._recipe.contrast
        # In float32 also where the network runs in half precision: e^(1/τ) leaves no room for rounding.
        with autocast(self._trainer.device.type, enabled=False):
            embeddings = distributed.gather_through(
                self._head_in_step, vectors.float(), over_all_rows=settings.batch_norm
            )
            return local_contrastive_loss(
                embeddings,
                distributed.gather_sample(sample, patches),
                n_images=patches * distributed.ranks(),
                n_classes=self._n_classes,
                n_anchors=settings.anchors,
                temperature=settings.temperature,
                matching=settings.matching,
            )


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
