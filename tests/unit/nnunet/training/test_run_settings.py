"""Read settings back from plans; tell those that decide a supervised start."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.training.run_settings import KEY, RunSettings, read_settings, start_settings
from pcl_auto.recipe.settings import Augmentation, Batch, Contrast, Mixing, Optimizer, Recipe, Schedule, UnlabeledLoss

SCHEDULE = Schedule(steps_per_epoch=10, supervised_epochs=4, rounds=4, epochs_per_round=3)
RECIPE = Recipe("one", schedule=SCHEDULE)
SETTINGS = RunSettings(RECIPE, seed=0, split="L2_s0", store="store", deterministic=False)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, name="two", contrast=Contrast(weight=9.0)),
        replace(RECIPE, schedule=replace(SCHEDULE, rounds=2, epochs_per_round=6)),
        replace(RECIPE, mixing=Mixing(copy_paste=True), unlabeled_loss=UnlabeledLoss("mean_teacher")),
    ],
)
def test_recipes_that_differ_in_the_rounds_share_a_start(recipe: Recipe) -> None:
    assert start_settings(replace(SETTINGS, recipe=recipe).as_dict()) == start_settings(SETTINGS.as_dict())


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (replace(SETTINGS, seed=1), "seed"),
        (replace(SETTINGS, split="L3_s0"), "split"),
        (replace(SETTINGS, recipe=replace(RECIPE, optimizer=Optimizer(learning_rate=1e-3))), "optimizer"),
        (replace(SETTINGS, recipe=replace(RECIPE, batch=Batch(patches=8))), "batch"),
        (replace(SETTINGS, recipe=replace(RECIPE, mixing=Mixing(mixup_alpha=0.2))), "mixing"),
        (replace(SETTINGS, recipe=replace(RECIPE, mixing=Mixing(labeled_copy_paste=True))), "mixing"),
        (
            replace(SETTINGS, recipe=replace(RECIPE, unlabeled_loss=UnlabeledLoss("cross_supervision"))),
            "second_network",
        ),
        (replace(SETTINGS, recipe=replace(RECIPE, augmentation=Augmentation("symmetric"))), "augmentation"),
        (replace(SETTINGS, recipe=replace(RECIPE, contrast=Contrast(head_convolutions=3))), "head_convolutions"),
        (replace(SETTINGS, recipe=replace(RECIPE, schedule=replace(SCHEDULE, rounds=5))), "epochs"),
        (replace(SETTINGS, recipe=replace(RECIPE, schedule=replace(SCHEDULE, steps_per_epoch=9))), "steps_per_epoch"),
    ],
)
def test_what_a_start_depends_on(settings: RunSettings, key: str) -> None:
    before, now = start_settings(SETTINGS.as_dict()), start_settings(settings.as_dict())
    assert [name for name in now if before[name] != now[name]] == [key]


def test_a_start_that_an_older_version_made_is_taken_up() -> None:
    before = SETTINGS.as_dict()
    del before["recipe"]["optimizer"]["schedule"], before["recipe"]["augmentation"]["elastic"]
    assert start_settings(before) == start_settings(SETTINGS.as_dict())


@pytest.mark.parametrize("axes", [None, (), (2,)])
def test_settings_come_back_from_a_plans_file(axes: tuple[int, ...] | None) -> None:
    settings = replace(SETTINGS, mirror_axes=axes)
    assert read_settings({KEY: json.loads(json.dumps(settings.as_dict()))}, "plans") == settings


def test_plans_of_somebody_else_are_refused() -> None:
    with refused(StateError, "plan.no-settings") as refusal:
        read_settings({"batch_size": 2}, "nnUNetPlans")
    assert refusal.problem.where == "nnUNetPlans"
