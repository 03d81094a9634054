"""Elastic deformation of training patches: as strong as it may be, image and label alike, and off unless asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from pcl_auto.nnunet.data.elastic import SMOOTHNESS, deform_elastically
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.recipe.load import from_dict

PATCHES = [(40, 56), (24, 32, 28)]


def transforms_of(patch: tuple[int, ...], elastic: float) -> Any:
    """Return what a trainer whose recipe has so much ``elastic`` augments with."""
    trainer = nnUNetTrainerPCL.__new__(nnUNetTrainerPCL)
    recipe = from_dict({"name": "mine", "augmentation": {"elastic": elastic}})
    object.__setattr__(trainer, "settings", SimpleNamespace(recipe=recipe))
    return trainer.get_training_transforms(
        patch, (-0.5, 0.5), None, (0,), do_dummy_2d_data_aug=False, use_mask_for_norm=[False]
    )


def spatial(patch: tuple[int, ...], probability: float) -> SpatialTransform:
    """Return the spatial transform alone, without rotation and scaling."""
    transforms = transforms_of(patch, 0.0)
    deform_elastically(transforms, probability)
    (found,) = (transform for transform in transforms.transforms if isinstance(transform, SpatialTransform))
    found.p_rotation = found.p_scaling = 0.0
    return found


def seeded(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 (what the transforms draw from)
    torch.manual_seed(seed)


@pytest.mark.parametrize("patch", PATCHES)
def test_displacements_are_smooth_and_fold_nothing(patch: tuple[int, ...]) -> None:
    transform = spatial(patch, 1.0)
    largest = []
    for seed in range(10):
        seeded(seed)
        offsets = transform.get_parameters(image=torch.zeros(1, *patch))["elastic_offsets"]
        assert offsets.shape == (*patch, len(patch))
        for axis, size in enumerate(patch):
            along = offsets[..., axis]
            largest.append(float(along.abs().max()) / size)
            # Two neighbors along the axis stay in their order.
            assert float(along.diff(dim=axis).abs().max()) < 1
            assert largest[-1] <= 0.5 * SMOOTHNESS[1] + 1e-6
    assert max(largest) > 0.02


@pytest.mark.parametrize("patch", PATCHES)
def test_image_and_label_are_deformed_alike(patch: tuple[int, ...]) -> None:
    transform = spatial(patch, 1.0)
    axes = torch.meshgrid(*(torch.arange(size) for size in patch), indexing="ij")
    ball = sum((axis - size / 2) ** 2 for axis, size in zip(axes, patch, strict=True)) < (min(patch) / 3) ** 2
    assert isinstance(ball, Tensor)
    changed = []
    for seed in range(5):
        seeded(seed)
        found = transform(image=ball[None].float(), segmentation=ball[None].to(torch.int16))
        deformed = found["segmentation"][0] == 1
        changed.append(int((deformed != ball).sum()))
        # Interpolated halfway on the border: there a voxel may fall to either side.
        assert int(((found["image"][0] > 0.5) != deformed).sum()) <= 2
    assert 0 < max(changed) < int(ball.sum()) / 2


@pytest.mark.parametrize("patch", PATCHES)
def test_the_share_of_patches_that_are_deformed(patch: tuple[int, ...]) -> None:
    transform = spatial(patch, 0.25)
    seeded(0)
    image = torch.zeros(1, *patch)
    deformed = sum(transform.get_parameters(image=image)["elastic_offsets"] is not None for _ in range(200))
    assert 30 <= deformed <= 70


@pytest.mark.parametrize("patch", PATCHES)
def test_without_it_patches_are_those_of_nnunet(patch: tuple[int, ...]) -> None:
    stock = nnUNetTrainer.get_training_transforms(
        patch, (-0.5, 0.5), None, (0,), do_dummy_2d_data_aug=False, use_mask_for_norm=[False]
    )
    images = []
    for elastic in (None, 0.0, 1.0):
        seeded(3)
        transforms = stock if elastic is None else transforms_of(patch, elastic)
        image = torch.linspace(0, 1, torch.Size(patch).numel()).reshape(1, *patch)
        images.append(transforms(image=image, segmentation=(image > 0.5).to(torch.int16))["image"])
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
