"""Bidirectional copy-paste with a teacher: the whole loss of Bai et al., with nnU-Net's loss over the masks."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_trainer import CLASSES, PATCH, WEIGHTS, SmallTrainer, small_batch
from torch import Tensor
from torch.nn import functional

from pcl_auto.method.label_maps import keep_largest
from pcl_auto.nnunet.training import copy_paste_step
from pcl_auto.nnunet.training.copy_paste_step import CopyPasteStep
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.recipe.load import load_recipe

BOX = (slice(2, 12), slice(4, 14))


def dice_and_cross_entropy(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Return nnU-Net's loss over the voxels ``counted`` (B, *patch), written out."""
    p, chosen = logits.softmax(1), counted.double()
    ce = functional.cross_entropy(logits, labels, reduction="none")
    dice = []
    for image in range(len(logits)):
        for cls in range(1, CLASSES):
            truth = (labels[image] == cls) * chosen[image]
            overlap = (p[image, cls] * truth).sum()
            dice.append((2 * overlap + 1e-5) / ((p[image, cls] * chosen[image]).sum() + truth.sum() + 1e-5))
    return (ce * chosen).sum() / chosen.sum() - torch.stack(dice).mean()


@pytest.mark.parametrize(("n_labeled", "n_unlabeled"), [(2, 2), (3, 1)])
def test_a_step(monkeypatch: pytest.MonkeyPatch, n_labeled: int, n_unlabeled: int) -> None:
    monkeypatch.setattr(copy_paste_step, "draw_box", lambda _shape, _share: BOX)
    recipe = load_recipe("copy_paste_teacher")
    assert recipe.unlabeled_loss.weight == 0.5
    trainer, expected = SmallTrainer(recipe), SmallTrainer(recipe)
    step = CopyPasteStep(trainer.trainer)
    step.begin_rounds()
    labeled, unlabeled = small_batch(n_labeled, seed=1), small_batch(n_unlabeled, seed=2)
    with torch.no_grad():
        found = expected.forward(unlabeled["data"])[0].argmax(1)
    pseudo = torch.from_numpy(np.stack([keep_largest(labels, [1, 2]) for labels in found.numpy()]))
    assert not torch.equal(pseudo, found)
    losses = step.take(labeled, unlabeled)

    outside = torch.ones(PATCH, dtype=torch.bool)
    outside[BOX] = False
    images: list[Tensor] = []
    labels: list[Tensor] = []
    of_labeled: list[Tensor] = []
    everywhere, nowhere = torch.ones(PATCH, dtype=torch.bool), torch.zeros(PATCH, dtype=torch.bool)
    for k in range(n_labeled):
        own = (labeled["data"][k], labeled["target"][0][k, 0], everywhere)
        other = (unlabeled["data"][k], pseudo[k], nowhere) if k < n_unlabeled else own
        for kept, first, second in zip((images, labels, of_labeled), own, other, strict=True):
            kept.append(torch.where(outside, first, second))
    for k in range(n_unlabeled):
        own, j = (unlabeled["data"][k], pseudo[k], nowhere), (k + 1) % n_labeled
        for kept, first, second in zip(
            (images, labels, of_labeled), own, (labeled["data"][j], labeled["target"][0][j, 0], everywhere), strict=True
        ):
            kept.append(torch.where(outside, first, second))
    outputs = expected.forward(torch.stack(images))
    total: dict[str, Any] = {"loss": 0, "unlabeled": 0}
    for scale, (logits, share) in enumerate(zip(outputs, WEIGHTS, strict=True)):
        # Nearest voxels of half the resolution: the second of two.
        first = scale
        at = (slice(None), slice(first, None, 2**scale), slice(first, None, 2**scale))
        mask, target = torch.stack(of_labeled)[at], torch.stack(labels)[at].long()
        total["loss"] += share * dice_and_cross_entropy(logits, target, mask)
        total["unlabeled"] += share * dice_and_cross_entropy(logits, target, ~mask)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        {name: value.item() for name, value in total.items()}, rel=1e-5
    )
    backward_and_step(total["loss"] + 0.5 * total["unlabeled"], [(expected.optimizer, expected.network)], None)
    for found_weights, weights in zip(trainer.network.parameters(), expected.network.parameters(), strict=True):
        assert torch.allclose(found_weights, weights, atol=1e-5)


def test_the_weight_of_the_teachers_labels_grows_where_a_recipe_says_so() -> None:
    shipped = load_recipe("copy_paste_teacher")
    first = shipped.schedule.supervised_epochs
    found = []
    for weight, ramp_up in ((0.5, 0.25), (0.5 * math.exp(-5), 0.0), (0.5, 0.0)):
        settings = replace(shipped.unlabeled_loss, weight=weight, ramp_up=ramp_up)
        trainer = SmallTrainer(replace(shipped, unlabeled_loss=settings))
        step = CopyPasteStep(trainer.trainer)
        step.begin_epoch(first)
        torch.manual_seed(3)
        step.take(small_batch(2, seed=1), small_batch(2, seed=2))
        found.append(torch.cat([weights.detach().flatten() for weights in trainer.network.parameters()]))
    ramped, small, whole = found
    assert torch.allclose(ramped, small, atol=1e-7)
    assert not torch.allclose(ramped, whole, atol=1e-5)


def test_the_teacher_follows_and_is_kept() -> None:
    trainer = SmallTrainer(load_recipe("copy_paste_teacher"))
    step = CopyPasteStep(trainer.trainer)
    start = copy.deepcopy(trainer.network)
    step.take(small_batch(2, seed=1), small_batch(2, seed=2))
    step.learned_labels({})
    step.load_start({})
    step.begin_epoch(3)
    (teacher,) = step.parts().values()
    after = zip(teacher.network.parameters(), start.parameters(), trainer.network.parameters(), strict=True)
    assert all(torch.allclose(average, 0.1 * old + 0.9 * new, atol=1e-6) for average, old, new in after)
    step.begin_rounds()
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.network.parameters(), trainer.network.parameters(), strict=True)
    )
