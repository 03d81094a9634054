"""The schedule of the learning rate, as the recipe says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pcl_auto.nnunet.training.optimizers import make_lr_scheduler, make_optimizer
from pcl_auto.recipe.settings import LearningRateSchedule, Optimizer

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


def test_a_resumed_optimizer_has_the_rate_of_its_epoch() -> None:
    settings = Optimizer("adam", RATE, schedule="constant")
    parameter = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([parameter], settings)
    optimizer.param_groups[0]["lr"] = 0.5  # as of another schedule
    make_lr_scheduler(optimizer, settings, EPOCHS).step(EPOCHS - 1)
    assert optimizer.param_groups[0]["lr"] == RATE
