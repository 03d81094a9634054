"""Images and targets of a joint step stay together when boxes of them change places; its losses are the recipe's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from small_trainer import WEIGHTS, SmallTrainer, small_batch, small_network
from torch import Tensor
from torch.nn import functional

from pcl_auto.nnunet.network import FeatureDropout
from pcl_auto.nnunet.training import joint_step
from pcl_auto.nnunet.training.joint_step import JointStep, join_patches
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.nnunet.training.teacher import Teacher
from pcl_auto.recipe.load import load_recipe
from pcl_auto.recipe.settings import Mixing

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


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_self_training_learns_from_the_segmentation_losses_and_draws_nothing(weight: float) -> None:
    recipe = load_recipe("self_training")
    recipe = replace(recipe, pseudo_labels=replace(recipe.pseudo_labels, segmentation_weight=weight))
    trainer, alone = SmallTrainer(recipe), SmallTrainer(recipe)
    labeled, unlabeled = small_batch(2, seed=1), small_batch(3, seed=2)
    step = JointStep(trainer.trainer)
    state = torch.get_rng_state()
    losses = step.take(labeled, unlabeled)
    assert torch.equal(torch.get_rng_state(), state)
    assert step.parts() == {}

    supervised, pseudo = (
        alone.segmentation_loss(alone.forward(batch["data"]), batch["target"]) for batch in (labeled, unlabeled)
    )
    backward_and_step(supervised + weight * pseudo, [(alone.optimizer, alone.network)], None)
    assert losses == {"loss": pytest.approx(supervised.item())}
    require_same_weights(trainer, alone)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_averaged_losses_step_as_far_as_one(weight: float) -> None:
    recipe = load_recipe("self_training")
    settings = replace(recipe.pseudo_labels, segmentation_weight=weight, divide_loss=True)
    trainer, alone = (SmallTrainer(replace(recipe, pseudo_labels=settings)) for _ in range(2))
    labeled, unlabeled = small_batch(2, seed=1), small_batch(3, seed=2)
    JointStep(trainer.trainer).take(labeled, unlabeled)
    supervised, pseudo = (
        alone.segmentation_loss(alone.forward(batch["data"]), batch["target"]) for batch in (labeled, unlabeled)
    )
    backward_and_step((supervised + weight * pseudo) / (1 + weight), [(alone.optimizer, alone.network)], None)
    require_same_weights(trainer, alone)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_pseudo_labels_are_learned_with_their_own_weight_of_the_dice_term(weight: float) -> None:
    recipe = load_recipe("self_training")
    settings = replace(recipe.pseudo_labels, dice_weight=weight)
    trainer, alone = (SmallTrainer(replace(recipe, pseudo_labels=settings)) for _ in range(2))
    labeled, unlabeled = small_batch(2, seed=1), small_batch(3, seed=2)
    JointStep(trainer.trainer).take(labeled, unlabeled)
    loss = alone.segmentation_loss(alone.forward(labeled["data"]), labeled["target"])
    outputs = alone.forward(unlabeled["data"])
    for share, logits, target in zip(WEIGHTS, outputs, unlabeled["target"], strict=True):
        found, true = logits.softmax(1), functional.one_hot(target[:, 0].long(), logits.shape[1]).permute(0, 3, 1, 2)
        both, either = (each.sum((2, 3))[:, 1:] for each in (found * true, found + true))
        dice = ((2 * both + 1e-5) / (either + 1e-5)).mean()
        loss = loss + share * (functional.cross_entropy(logits, target[:, 0].long()) - weight * dice)
    backward_and_step(loss, [(alone.optimizer, alone.network)], None)
    require_same_weights(trainer, alone)


@pytest.mark.parametrize(("least", "counts"), [(0.0, True), (0.02, True), (0.05, False)])
def test_contrast_is_left_out_where_classes_do_not_touch(
    least: float, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("default")
    trainer: Any = SmallTrainer(replace(recipe, contrast=replace(recipe.contrast, min_touching=least)))
    told: list[tuple[str, dict[str, Any]]] = []
    trainer.events = SimpleNamespace(emit=lambda event, **values: told.append((event, values)))
    monkeypatch.setattr(joint_step, "labeled_cases", lambda _trainer: SimpleNamespace(touching_share=lambda: 0.03))
    assert joint_step.has_contrast(trainer) is counts
    assert told == ([] if counts else [("contrast_off", {"touching": 0.03, "least": 0.05})])


@pytest.mark.parametrize(("least", "copies"), [(0.0, True), (0.3, True), (0.5, False)])
def test_boxes_are_copied_where_a_patch_covers_enough_of_the_median_image(least: float, copies: bool) -> None:
    recipe = load_recipe("default")
    trainer: Any = SmallTrainer(replace(recipe, mixing=replace(recipe.mixing, min_coverage=least)))
    told: list[tuple[str, dict[str, Any]]] = []
    trainer.events = SimpleNamespace(emit=lambda event, **values: told.append((event, values)))
    # Larger than the image along the first axis, which does not make up for the others.
    trainer.configuration_manager = SimpleNamespace(
        patch_size=[32, 40, 80], median_image_size_in_voxels=[20.0, 50.0, 160.0]
    )
    assert joint_step.mixing_of(trainer) == replace(trainer.recipe.mixing, copy_paste=copies)
    assert told == ([] if copies else [("copy_paste_off", {"coverage": 0.4, "least": 0.5})])


def test_what_copies_no_boxes_asks_for_no_coverage() -> None:
    recipe = load_recipe("self_training")
    recipe = replace(recipe, mixing=replace(recipe.mixing, min_coverage=0.5))
    assert joint_step.mixing_of(SmallTrainer(recipe).trainer) == recipe.mixing


def test_contrast_without_weight_is_left_out_without_a_word() -> None:
    assert not joint_step.has_contrast(SmallTrainer(load_recipe("self_training")).trainer)


def test_a_teacher_from_the_first_step_goes_on_in_round_one() -> None:
    recipe = load_recipe("default")
    for from_start in (True, False):
        trainer: Any = SmallTrainer(replace(recipe, teacher=replace(recipe.teacher, from_start=from_start)))
        trainer._guards, trainer.guard = False, SimpleNamespace(source=lambda number: number)
        trainer.joint_step = SimpleNamespace(begin_rounds=lambda: None)
        trainer.teacher = Teacher(small_network(seed=9), 0.9)
        before = [parameter.detach().clone() for parameter in trainer.teacher.network.parameters()]
        nnUNetTrainerPCL._begin_round(trainer, 1)
        after = trainer.teacher.network.parameters()
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True)) is from_start


def test_a_noisy_student_sees_strong_views_without_some_of_the_deepest_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint_step, "strong_view", lambda images: images + 0.5)
    trainer, alone = (SmallTrainer(load_recipe("noisy_student")) for _ in range(2))
    labeled, unlabeled = small_batch(2, seed=1), small_batch(3, seed=2)
    step = JointStep(trainer.trainer)
    torch.manual_seed(3)
    losses = step.take(labeled, unlabeled)

    dropout = FeatureDropout(alone.network, 0.5, deepest_only=True)
    torch.manual_seed(3)
    with dropout.from_image(0):
        outputs = alone.forward(torch.cat([labeled["data"], unlabeled["data"]]) + 0.5)
    supervised = alone.segmentation_loss([output[:2] for output in outputs], labeled["target"])
    pseudo = alone.segmentation_loss([output[2:] for output in outputs], unlabeled["target"])
    backward_and_step(supervised + pseudo, [(alone.optimizer, alone.network)], None)
    assert losses == {"loss": pytest.approx(supervised.item())}
    require_same_weights(trainer, alone)


def require_same_weights(first: SmallTrainer, second: SmallTrainer) -> None:
    for found, expected in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_noisy_student_is_a_new_network_in_every_round() -> None:
    trainer: Any = SmallTrainer(load_recipe("noisy_student"), seed=7)
    trainer._guards, trainer.guard, trainer.teacher = False, SimpleNamespace(source=lambda number: number), None
    trainer.joint_step = JointStep(trainer)
    trainer.joint_step.take(small_batch(2, seed=1), small_batch(3, seed=2))
    drawn = []
    for number in (1, 2, 2):
        trainer.optimizer.state[next(trainer.network.parameters())]["momentum_buffer"] = torch.ones(1)
        nnUNetTrainerPCL._begin_round(trainer, number)
        assert not trainer.optimizer.state
        drawn.append([parameter.detach().clone() for parameter in trainer.network.parameters()])
    convolutions = [number for number, weights in enumerate(drawn[0]) if weights.ndim > 1]
    assert convolutions
    assert not any(torch.equal(drawn[0][number], drawn[1][number]) for number in convolutions)
    # A round that is begun again after an interruption begins with the same network.
    assert all(torch.equal(*pair) for pair in zip(drawn[1], drawn[2], strict=True))
    # Normalization and biases as nnU-Net begins with them.
    network = small_network(seed=5)
    fresh = list(network.apply(network.initialize).parameters())
    assert all(torch.equal(*pair) for n, pair in enumerate(zip(drawn[2], fresh, strict=True)) if n not in convolutions)


def test_the_average_of_a_new_network_begins_with_it() -> None:
    trainer: Any = SmallTrainer(load_recipe("noisy_student"))
    trainer._guards, trainer.guard, trainer.joint_step = False, SimpleNamespace(source=lambda number: number), None
    trainer.teacher = Teacher(trainer.network, 0.9)
    nnUNetTrainerPCL._begin_round(trainer, 2)
    pairs = zip(trainer.teacher.network.parameters(), trainer.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_self_trained_network_goes_on_in_every_round() -> None:
    trainer: Any = SmallTrainer(load_recipe("self_training"))
    trainer._guards, trainer.guard, trainer.teacher = False, SimpleNamespace(source=lambda number: number), None
    trainer.joint_step = JointStep(trainer)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    nnUNetTrainerPCL._begin_round(trainer, 1)
    assert all(torch.equal(*pair) for pair in zip(before, trainer.network.parameters(), strict=True))
