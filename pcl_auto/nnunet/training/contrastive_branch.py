"""The contrastive branch of a joint step: the head h_φ beside the network, and its loss (Chaitanya et al., Eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, autocast

from pcl_auto.method.augmentation import intensity_view
from pcl_auto.method.contrastive_loss import ContrastHead, local_contrastive_loss
from pcl_auto.method.regions import disjoint_classes, patterns_of
from pcl_auto.method.sampling import VoxelSample, gather_features, sample_voxels
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.network import DecoderFeatures
from pcl_auto.nnunet.training.optimizers import make_lr_scheduler, make_optimizer

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


@dataclass(frozen=True)
class Drawn:
    """The voxels drawn for a step.

    ``voxels`` and ``anchors`` among them are those of all processes, ``in_images`` those of this one's images,
    ``second_view`` the features (N, F) of a second view, if there is one.
    """

    voxels: VoxelSample
    anchors: Tensor
    in_images: VoxelSample
    second_view: list[Tensor]
    patches: int


class ContrastiveBranch:
    """The contrastive head h_φ and its loss over the voxels of a step.

    The head has an optimizer of its own, so that nnU-Net can resume the network's by itself.
    """

    def __init__(self, trainer: nnUNetTrainerPCLSupervised) -> None:
        """Draw the head for the network of ``trainer``, which has been initialized."""
        self._trainer = trainer
        self.settings = trainer.recipe.contrast
        self._patterns = patterns_of(trainer.label_manager.all_regions or [], trainer.label_manager.foreground_labels)
        self.features = DecoderFeatures(trainer.network, self.settings.head_convolutions)
        head = ContrastHead(self.features.width, self.settings.dimensions, batch_norm=self.settings.batch_norm)
        self.head = head.to(trainer.device)
        self._head_in_step = distributed.wrap_ddp(self.head, trainer.device)
        self.optimizer = make_optimizer(self.head.parameters(), trainer.recipe.optimizer)
        self._lr_scheduler = make_lr_scheduler(self.optimizer, trainer.recipe.optimizer, trainer.num_epochs)

    def begin_epoch(self, epoch: int) -> None:
        """Decay the head's learning rate with the network's."""
        self.head.train()
        self._lr_scheduler.step(epoch)

    def draw(self, images: Tensor, targets: Tensor) -> Drawn:
        """Draw the voxels of a step, before its forward pass: on a GPU the draw waits for what was started before it.

        A second view of the images, where the recipe asks for one, goes through the network here.
        """
        labels = disjoint_classes(targets, self._patterns)  # (B, *patch)
        views = 2 if self.settings.intensity_views else 1
        voxels = sample_voxels(
            torch.cat([labels] * views), self._n_classes, self.settings.mean_voxels, least=self.settings.min_voxels
        )
        first, *second = voxels.split(len(images)) if views == 2 else [voxels]
        voxels = distributed.gather_sample(voxels, views * len(images))
        anchors = voxels.anchors(self.settings.anchors)
        self.optimizer.zero_grad(set_to_none=True)
        seconds = [self._view_vectors(intensity_view(images), sample) for sample in second]
        return Drawn(voxels, anchors, first, seconds, views * len(images))

    def loss(self, drawn: Drawn) -> Tensor:
        """Return L_cont over the voxels ``drawn`` for a step, after its forward pass, whose features it takes."""
        vectors = torch.cat([gather_features(self.features.take(), drawn.in_images), *drawn.second_view])
        # In float32 also where the network runs in half precision: e^(1/τ) leaves no room for rounding.
        with autocast(self._trainer.device.type, enabled=False):
            embeddings = distributed.gather_through(
                self._head_in_step, vectors.float(), over_all_rows=self.settings.batch_norm
            )
            return local_contrastive_loss(
                embeddings,
                drawn.voxels,
                drawn.anchors,
                n_images=drawn.patches * distributed.ranks(),
                n_classes=self._n_classes,
                temperature=self.settings.temperature,
                matching=self.settings.matching,
            )

    @property
    def _n_classes(self) -> int:
        return len(self._trainer.label_manager.foreground_labels)

    def _view_vectors(self, images: Tensor, sample: VoxelSample) -> Tensor:
        """Return the feature vectors of a second view; on a GPU the memory is planned for the images of a step once."""
        on_gpu = self._trainer.device.type == "cuda"
        gather = self.features.recomputed_vectors if on_gpu else self.features.vectors
        return gather(self._trainer.forward, images, sample)
