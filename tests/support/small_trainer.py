"""A trainer of a few weights, as the steps of a training see one: nnU-Net's network and loss, no data, no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from pcl_auto.nnunet.training.optimizers import make_lr_scheduler, make_optimizer
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised
from pcl_auto.recipe.settings import Recipe

CLASSES = 3
PATCH = (16, 16)
WEIGHTS = (0.75, 0.25)


def small_network(seed: int = 0) -> PlainConvUNet:
    """Return a 2D U-Net of two stages and two outputs."""
    torch.manual_seed(seed)
    return PlainConvUNet(
        1, 3, [4, 6, 8], nn.Conv2d, 3, [1, 2, 2], 1, CLASSES, 1, conv_bias=True, norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


class SmallTrainer:
    """A trainer of :func:`small_network` on a CPU."""

    device = torch.device("cpu")
    enable_deep_supervision = True
    initial_lr = 0.05
    label_manager = SimpleNamespace(
        all_regions=None, ignore_label=None, foreground_labels=[1, 2], all_labels=[0, 1, 2], has_regions=False
    )
    configuration_manager = SimpleNamespace(batch_dice=False)

    def __init__(self, recipe: Recipe, seed: int = 0) -> None:
        """Draw the network."""
        self.recipe = recipe
        self.settings = SimpleNamespace(seed=seed)
        self.grad_scaler: torch.amp.GradScaler | None = None
        self.num_epochs = recipe.schedule.epochs
        self.network = small_network(seed)
        self.optimizer = torch.optim.SGD(self.network.parameters(), self.initial_lr)
        self.loss = self.loss_with(1.0)

    def forward(self, images: Tensor, network: nn.Module | None = None) -> list[Tensor]:
        """Return logits as the trainer does."""
        outputs: Any = (self.network if network is None else network)(images)
        return outputs if isinstance(outputs, list) else [outputs]

    def loss_with(self, dice_weight: float) -> nn.Module:
        """Build nnU-Net's loss as the trainer does."""
        dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
        loss = DC_and_CE_loss(dice, {}, weight_dice=dice_weight, dice_class=MemoryEfficientSoftDiceLoss)
        wrapped: nn.Module = DeepSupervisionWrapper(loss, WEIGHTS)
        return wrapped

    def segmentation_loss(self, outputs: list[Tensor], targets: list[Tensor], loss: nn.Module | None = None) -> Tensor:
        """Return nnU-Net's loss, or another of its kind."""
        value: Tensor = (self.loss if loss is None else loss)(outputs, targets)
        return value

    def optimizer_of(self, network: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
        """Make an optimizer and its schedule as the trainer does."""
        optimizer = make_optimizer(network.parameters(), self.recipe.optimizer)
        return optimizer, make_lr_scheduler(optimizer, self.recipe.optimizer, self.num_epochs)

    @property
    def trainer(self) -> nnUNetTrainerPCLSupervised:
        """The trainer, as what it stands for."""
        return cast("nnUNetTrainerPCLSupervised", self)


def small_batch(patches: int, seed: int) -> dict[str, Any]:
    """Return a batch of patches with targets at both scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (patches, 1, *PATCH), generator=generator)
    images = labels + 0.3 * torch.randn(patches, 1, *PATCH, generator=generator)
    return {"data": images, "target": [labels, labels[:, :, ::2, ::2].clone()], "keys": ["case"] * patches}
