"""The decathlon's ten tasks at full size, from fingerprints alone, through our planner."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from decathlon import DECATHLON, DecathlonTask

from pcl_auto.nnunet.planning import planner
from pcl_auto.planning.make_plan import choose_configuration
from pcl_auto.planning.plan import MIN_PATCHES

every_task = pytest.mark.parametrize("task", DECATHLON, ids=lambda task: task.name)


def plan(task: DecathlonTask, memory_gb: float, min_patches: int) -> tuple[dict[str, Any], dict[str, float]]:
    plans, memory = planner.plan_network(
        task.dataset_name,
        task.dataset_json(),
        task.fingerprint(),
        planner="default",
        memory_gb=memory_gb,
        min_patches=min_patches,
    )
    return plans["configurations"], memory


def patch_of(configuration: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in configuration["patch_size"])


@every_task
def test_two_patches_in_8_gb_are_the_published_plan(task: DecathlonTask) -> None:
    """Without tolerance: the fingerprints have the published medians, and the rest is nnU-Net's own arithmetic."""
    planned, _ = plan(task, 8, 2)
    full = planned["3d_fullres"]
    np.testing.assert_allclose(full["spacing"], task.target_spacing_mm)
    np.testing.assert_array_equal(full["median_image_size_in_voxels"], task.resampled_size)
    assert patch_of(full) == task.patch
    assert full["batch_size"] == task.batch
    assert len(full["architecture"]["arch_kwargs"]["features_per_stage"]) == task.stages
    assert patch_of(planned["2d"]) == task.patch_2d
    assert (patch_of(planned["3d_lowres"]) if "3d_lowres" in planned else None) == task.lowres_patch
    assert full["normalization_schemes"] == [
        "CTNormalization" if task.is_ct else "ZScoreNormalization" for _ in task.channels
    ]


@pytest.mark.slow
@every_task
def test_labeled_and_unlabeled_patches_fit_the_memory(task: DecathlonTask) -> None:
    voxels = {}
    for memory_gb in (8.0, 24.0):
        planned, memory = plan(task, memory_gb, MIN_PATCHES)
        for name, configuration in planned.items():
            patch = patch_of(configuration)
            strides = np.prod(configuration["architecture"]["arch_kwargs"]["strides"], axis=0)
            median = configuration["median_image_size_in_voxels"]
            assert 0 < memory[name] <= memory_gb
            assert configuration["batch_size"] >= MIN_PATCHES
            assert not np.any(patch % strides), f"{name}: {patch} cannot be halved as often as {strides} says"
            # No larger than the image, but for what makes it divisible.
            assert all(size < most + stride for size, most, stride in zip(patch, median, strides, strict=True))
        voxels[memory_gb] = math.prod(patch_of(planned["3d_fullres"]))
        choice, reason = choose_configuration("auto", planned, task.dataset_name)
        assert choice == "3d_fullres"
        assert "more than one slice" in reason
        assert ("3d_lowres" in reason) == ("3d_lowres" in planned)
    published = math.prod(task.patch)
    # Four patches where nnU-Net has two: about half its patch, a third at worst since sizes come in steps.
    assert published / 3 < voxels[8.0] <= published
    assert voxels[24.0] >= published
