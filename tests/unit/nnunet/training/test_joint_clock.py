"""The weight of the unlabeled loss grows with the joint steps, however often a run is interrupted."""

from __future__ import annotations

import math

import pytest

from pcl_auto.nnunet.training.joint_clock import JointClock
from pcl_auto.recipe.settings import Recipe, Schedule, UnlabeledLoss


def test_time_goes_on_after_an_interruption() -> None:
    schedule = Schedule(steps_per_epoch=2, supervised_epochs=1, rounds=1, epochs_per_round=4)
    recipe = Recipe("mine", schedule=schedule, unlabeled_loss=UnlabeledLoss(weight=2.0, ramp_up=0.5))
    clock = JointClock(recipe)
    clock.begin_epoch(1)
    assert clock.progress == 0
    assert clock.weight() == pytest.approx(2 * math.exp(-5))
    found = []
    for epoch in range(1, 5):
        clock.begin_epoch(epoch)
        for _ in range(2):
            found.append((clock.progress, clock.weight()))
            clock.step()
    resumed = JointClock(recipe)
    resumed.begin_epoch(3)
    assert (resumed.progress, resumed.weight()) == found[4] == (0.5, 2.0)
    assert [progress for progress, _ in found] == [number / 8 for number in range(8)]


def test_without_a_ramp_the_weight_is_the_recipes() -> None:
    clock = JointClock(Recipe("mine", unlabeled_loss=UnlabeledLoss(weight=2.0)))
    clock.begin_epoch(0)
    assert clock.weight() == 2.0
