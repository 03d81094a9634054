"""Mixtures of labeled patches: images and targets stay together, and the loss is the mixed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_trainer import SmallTrainer, small_batch
from torch import Tensor

from pcl_auto.nnunet.training import labeled_mixing
from pcl_auto.nnunet.training.labeled_mixing import mixup_step, paste_between_labeled
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.recipe.load import load_recipe


@pytest.mark.parametrize("patches", [4, 5])
def test_boxes_change_places_between_the_halves(patches: int) -> None:
    batch = small_batch(patches, seed=1)
    numbers = torch.arange(float(batch["data"].numel())).reshape(batch["data"].shape)
    # nnU-Net's smaller target has the second of two voxels.
    mixed: dict[str, Any] = {"data": numbers.clone(), "target": [numbers.clone(), numbers[:, :, 1::2, 1::2].clone()]}
    torch.manual_seed(0)
    paste_between_labeled(mixed, 0.5)
    assert torch.equal(mixed["target"][0], mixed["data"])
    assert torch.equal(mixed["target"][1], mixed["data"][:, :, 1::2, 1::2])
    moved = (mixed["data"] != numbers).flatten(1).float().mean(1)
    assert moved[:4].tolist() == [0.25] * 4
    assert moved[4:].tolist() == [0.0] * (patches - 4)
    assert torch.equal(mixed["data"].flatten().sort().values, numbers.flatten())


@pytest.mark.parametrize("seed", range(3))
def test_a_mixup_step(seed: int) -> None:
    recipe = load_recipe("mixup")
    assert (recipe.mixing.mixup_alpha, recipe.schedule.rounds) == (0.2, 0)
    trainer, expected = SmallTrainer(recipe), SmallTrainer(recipe)
    batch = small_batch(4, seed=1)
    torch.manual_seed(seed)
    losses = mixup_step(trainer.trainer, batch)

    torch.manual_seed(seed)
    share = float(torch.distributions.Beta(0.2, 0.2).sample())
    partner = torch.randperm(4)
    mixed = torch.stack([share * batch["data"][k] + (1 - share) * batch["data"][partner[k]] for k in range(4)])
    outputs = expected.forward(mixed)
    own, other = (
        expected.segmentation_loss(outputs, [target[order] for target in batch["target"]])
        for order in (torch.arange(4), partner)
    )
    loss = share * own + (1 - share) * other
    backward_and_step(loss, [(expected.optimizer, expected.network)], None)
    assert losses == {"loss": pytest.approx(loss.item())}
    for found, weights in zip(trainer.network.parameters(), expected.network.parameters(), strict=True):
        assert torch.allclose(found, weights, atol=1e-6)


def test_shares_are_drawn_from_the_recipes_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def note(loss_on: Callable[[int], Tensor], share: float) -> Tensor:
        shares.append(share)
        return loss_on(0)

    monkeypatch.setattr(labeled_mixing, "mixup_loss", note)
    recipe = load_recipe("mixup")
    trainer = SmallTrainer(replace(recipe, mixing=replace(recipe.mixing, mixup_alpha=50.0)))
    torch.manual_seed(0)
    for _ in range(20):
        mixup_step(trainer.trainer, small_batch(2, seed=1))
    # Beta(50, 50) has mean 1/2 and standard deviation 0.05.
    assert all(0.3 < share < 0.7 for share in shares)
    assert len(set(shares)) == 20
