"""A dry run of a training tells only what is true of this run, on this device."""

from __future__ import annotations

from typing import Any

import pytest

from pcl_auto.cli.console.estimates import training_lines
from pcl_auto.recipe.settings import Schedule
from pcl_auto.recipe.time_budget import Costs
from pcl_auto.training.dry_run import TrainingEstimate

COSTS = Costs(2.0, 0.3, 0.35, 0.1, 0.4, 5.0, 4.0)
WHY = "--time-steps makes a few steps to tell"
UNTIMED = TrainingEstimate(
    patch_voxels=(14, 24, 28),
    labeled_patches=2,
    unlabeled_patches=2,
    features=(8, 16),
    schedule=Schedule(steps_per_epoch=250, supervised_epochs=3, rounds=9, epochs_per_round=1),
    to_be_fitted=False,
    gpu_memory_mb=512,
    memory_mb=None,
    store_mb=7,
    round_mb=None,
    checkpoint_mb=None,
    disk_mb=None,
    disk_meanwhile_mb=None,
    costs=None,
    wall_s=None,
    unknown=WHY,
    commands=("nnUNetv2_train 99",),
)
TIMED: dict[str, Any] = {
    "memory_mb": 900,
    "round_mb": 1.0,
    "checkpoint_mb": 30.0,
    "disk_mb": 40,
    "disk_meanwhile_mb": 60,
    "costs": COSTS,
    "wall_s": 600.0,
    "unknown": "",
}
BASELINE: dict[str, Any] = {"labeled_patches": 4, "unlabeled_patches": 0}


def told(*, on_gpu: bool = False, **changes: Any) -> dict[str, str]:
    """Return the lines by what each is about."""
    lines = training_lines(TrainingEstimate(**{**UNTIMED.__dict__, **changes}), on_gpu=on_gpu)
    return {line[:11].strip(): line[11:] for line in lines}


@pytest.mark.parametrize("timed", [{}, TIMED])
def test_a_baseline_has_no_rounds(timed: dict[str, Any]) -> None:
    lines = told(**BASELINE, **timed)
    assert lines["length"] == "12 epochs of 250 steps"
    assert not any(word in line for line in lines.values() for word in ("round", "joint", "pseudo-label"))
    assert told(**timed)["length"] == "12 epochs of 250 steps, 3 supervised, then 9 rounds of 1"


@pytest.mark.parametrize("timed", [{}, TIMED])
def test_memory_of_a_gpu_is_told_where_the_run_would_be_on_one(timed: dict[str, Any]) -> None:
    assert "GPU memory" not in told(**timed)
    assert told(on_gpu=True, **timed)["GPU memory"] == "512 MB"
    assert "GPU memory" not in told(on_gpu=True, **timed, gpu_memory_mb=None)


def test_what_nobody_knows_is_said_once_with_the_way_to_know_it() -> None:
    lines = told()
    assert lines["unknown"] == f"time, memory and disk: {WHY}"
    assert not {"time", "memory", "disk"} & set(lines)
    lines = told(**TIMED)
    assert (lines["memory"], lines["disk"]) == ("900 MB", "40 MB, and 60 MB more until the end")
    assert lines["time"].startswith("10m (")
    assert "unknown" not in lines


def test_the_recipe_s_own_length_is_not_told_where_a_budget_will_change_it() -> None:
    assert told(to_be_fitted=True)["length"] == "fitted to the budget once steps have been timed"


def test_stored_images_are_told_where_there_are_some() -> None:
    assert told()["stored"] == "7 MB of preprocessed images are there"
    assert "stored" not in told(store_mb=0)
