"""Images and targets of a joint step stay together when boxes of them change places; its losses are the recipe's."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from torch import Tensor, nn

from pcl_auto.nnunet.training.joint_step import JointStep, join_patches
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.recipe.load import load_recipe
from pcl_auto.recipe.settings import Mixing, Recipe

SCALES = (1, 0.5, 0.25)


def patches(first: int, count: int, shape: tuple[int, ...]) -> Tensor:
    """Return patches (count, 1, *shape) whose voxels hold numbers from ``first`` on, each once."""
    size = torch.Size(shape).numel()
    return torch.arange(first, first + count * size, dtype=torch.float).reshape(count, 1, *shape)


def targets_of(images: Tensor) -> list[Tensor]:
    """Return the images as nnU-Net's targets at every scale: each voxel holds the number that it was taken from."""
    each = [DownsampleSegForDSTransform(SCALES)(segmentation=image)["segmentation"] for image in images]
    return [torch.stack(scale) for scale in zip(*each, strict=True)]


def joined(labeled: Tensor, unlabeled: Tensor, *, copy_paste: bool) -> tuple[Tensor, list[Tensor]]:
    first, second = ({"data": images.clone(), "target": targets_of(images)} for images in (labeled, unlabeled))
    return join_patches(first, second, Mixing(copy_paste=copy_paste, box_fraction=0.4), torch.device("cpu"))


@pytest.mark.parametrize("shape", [(12, 20), (8, 12, 16)])
@pytest.mark.parametrize("seed", range(5))
def test_every_target_is_that_of_the_voxel_above_it(shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    labeled, unlabeled = patches(0, 2, shape), patches(100_000, 3, shape)
    images, targets = joined(labeled, unlabeled, copy_paste=True)
    for scale, expected in zip(targets, targets_of(images), strict=True):
        assert torch.equal(scale, expected)
    # Some voxels of each of the two pairs have changed places, none is lost, and the third patch is as it was.
    changed = (images >= 100_000).flatten(1).float().mean(1)
    assert all(0 < share < 0.5 for share in changed[:2])
    assert torch.equal(changed[2:4], 1 - changed[:2])
    assert torch.equal(images.flatten().sort().values, torch.cat([labeled, unlabeled]).flatten())
    assert torch.equal(images[4], unlabeled[2])


def test_without_copy_paste_nothing_changes_places() -> None:
    labeled, unlabeled = patches(0, 2, (8, 8)), patches(1000, 3, (8, 8))
    images, targets = joined(labeled, unlabeled, copy_paste=False)
    assert torch.equal(images, torch.cat([labeled, unlabeled]))
    for scale, expected in zip(targets, targets_of(images), strict=True):
        assert torch.equal(scale, expected)


class SmallTrainer:
    """A trainer of one convolution, with the squared distance to the target as segmentation loss."""

    grad_scaler = None
    device = torch.device("cpu")

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.network = nn.Conv2d(1, 1, 3, padding=1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.network(images)]

    def segmentation_loss(self, outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        return (outputs[0] - targets[0]).square().mean()


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_self_training_learns_from_the_segmentation_losses_and_draws_nothing(weight: float) -> None:
    recipe = load_recipe("self_training")
    recipe = replace(recipe, pseudo_labels=replace(recipe.pseudo_labels, segmentation_weight=weight))
    trainer, alone = SmallTrainer(recipe), SmallTrainer(recipe)
    labeled, unlabeled = ({"data": torch.rand(n, 1, 6, 6), "target": torch.rand(n, 1, 6, 6)} for n in (2, 3))
    step = JointStep(cast("nnUNetTrainerPCL", trainer))
    state = torch.get_rng_state()
    losses = step.take(labeled, unlabeled)
    assert torch.equal(torch.get_rng_state(), state)
    assert step.parts() == {}

    supervised, pseudo = (
        (alone.network(batch["data"]) - batch["target"]).square().mean() for batch in (labeled, unlabeled)
    )
    torch.autograd.backward(supervised + weight * pseudo)
    alone.optimizer.step()
    assert losses == {"loss": pytest.approx(supervised.item())}
    for found, expected in zip(trainer.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.allclose(found, expected)
