"""The schedule of the learning rate, as the recipe says."""

from __future__ import annotations

import pytest
import torch
from small_trainer import small_network
from torch import nn

from pcl_auto.nnunet.training.optimizers import make_lr_scheduler, make_optimizer, pretrained_groups
from pcl_auto.recipe.settings import LearningRateSchedule, Optimizer, PartOfNetwork, Pretrained

RATE, EPOCHS = 2e-3, 5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("poly", [RATE * (1 - epoch / EPOCHS) ** 0.9 for epoch in range(EPOCHS)]), ("constant", [RATE] * EPOCHS)],
)
def test_the_learning_rate_follows_the_schedule(schedule: LearningRateSchedule, expected: list[float]) -> None:
    settings = Optimizer("adam", RATE, schedule=schedule)
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), settings)
    scheduler = make_lr_scheduler(optimizer, settings, EPOCHS)
    found = []
    for epoch in range(EPOCHS):
        scheduler.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected)


def test_a_late_decay_leaves_the_rate_as_it_is_and_ends_where_the_other_does() -> None:
    settings = Optimizer("sgd", RATE, flat_share=0.75)
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), settings)
    scheduler = make_lr_scheduler(optimizer, settings, 40)
    found = []
    for epoch in range(40):
        scheduler.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    assert found[:31] == pytest.approx([RATE] * 31)
    assert found[31:] == pytest.approx([RATE * (1 - (epoch - 30) / 10) ** 0.9 for epoch in range(31, 40)])


@pytest.mark.parametrize(("share", "warmup"), [(0.0, 0), (0.1, 4), (0.9, 36)])
def test_pretrained_weights_warm_up_before_the_whole_decay(share: float, warmup: int) -> None:
    settings, epochs = Optimizer("sgd", RATE), 40
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), settings)
    scheduler = make_lr_scheduler(optimizer, settings, epochs, warmup_share=share)
    found = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    assert found[:warmup] == pytest.approx([RATE * (epoch + 1) / (warmup + 1) for epoch in range(warmup)])
    left = epochs - warmup
    assert found[warmup:] == pytest.approx([RATE * (1 - epoch / left) ** 0.9 for epoch in range(left)])


def test_a_warm_up_leaves_an_epoch_to_learn_in() -> None:
    settings = Optimizer("sgd", RATE)
    optimizer = make_optimizer(nn.Linear(2, 2).parameters(), settings)
    scheduler = make_lr_scheduler(optimizer, settings, 1, warmup_share=0.9)
    scheduler.step(0)
    assert optimizer.param_groups[0]["lr"] == RATE


@pytest.mark.parametrize(("part", "others"), [("network", 0.1), ("encoder", 1.0)])
def test_the_factor_is_for_the_network_or_the_encoder(part: PartOfNetwork, others: float) -> None:
    network, settings = small_network(), Optimizer("sgd", RATE)
    groups = pretrained_groups(network, Pretrained(rate_factor=0.1, rate_of=part))
    optimizer = make_optimizer(groups, settings)
    make_lr_scheduler(optimizer, settings, EPOCHS).step(0)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        factor = 0.1 if name.startswith("encoder.") else others
        assert rates[id(parameter)] == pytest.approx(RATE * factor), name


def test_a_resumed_optimizer_has_the_rate_of_its_epoch() -> None:
    settings = Optimizer("adam", RATE, schedule="constant")
    parameter = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([parameter], settings)
    optimizer.param_groups[0]["lr"] = 0.5  # as of another schedule
    make_lr_scheduler(optimizer, settings, EPOCHS).step(EPOCHS - 1)
    assert optimizer.param_groups[0]["lr"] == RATE
