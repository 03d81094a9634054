"""nnU-Net's planners under our budget."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from pcl_auto.nnunet.planning import planner
from pcl_auto.planning.plan import MIN_PATCHES

PROSTATE: dict[str, Any] = {
    "spacings": [[3.6, 0.625, 0.625]] * 32,
    "shapes_after_crop": [[20, 320, 320]] * 32,
    "foreground_intensity_properties_per_channel": {},
    "median_relative_size_after_cropping": 1.0,
}
DESCRIPTION: dict[str, Any] = {
    "name": "Dataset005_Prostate",
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2},
    "numTraining": 32,
    "file_ending": ".nii.gz",
}


def plan(memory_gb: float, min_patches: int, name: str = "default") -> tuple[dict[str, Any], dict[str, float]]:
    return planner.plan_network(
        "Dataset005_Prostate", DESCRIPTION, PROSTATE, planner=name, memory_gb=memory_gb, min_patches=min_patches
    )


def test_two_patches_in_8_gb_are_nnunets_own_plan() -> None:
    chosen = plan(8, 2)[0]["configurations"]["3d_fullres"]
    assert [int(size) for size in chosen["patch_size"]] == [20, 320, 256]
    assert chosen["batch_size"] == 2
    assert len(chosen["architecture"]["arch_kwargs"]["features_per_stage"]) == 7
    np.testing.assert_allclose(chosen["spacing"], [3.6, 0.625, 0.625])


@pytest.mark.parametrize("name", ["default", "resenc-m"])
def test_patches_shrink_until_labeled_and_unlabeled_ones_fit(name: str) -> None:
    plans, memory_gb = plan(8, MIN_PATCHES, name)
    chosen = plans["configurations"]["3d_fullres"]
    assert chosen["batch_size"] >= MIN_PATCHES
    assert np.prod(chosen["patch_size"]) < np.prod([20, 320, 256])
    assert 4 < memory_gb["3d_fullres"] <= 8.8


def test_planning_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", "somewhere")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    plans, _ = plan(4, MIN_PATCHES)
    assert "3d_cascade_fullres" not in plans["configurations"]
    assert os.environ["nnUNet_preprocessed"] == "somewhere"
    assert "nnUNet_raw" not in os.environ
    assert os.environ["nnUNet_n_proc_DA"] == "0"


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "PZ": 1, "TZ": 2, "ignore": 3},
        {"background": 0, "whole": [1, 2], "core": 2, "rim": [1, 3]},
    ],
    ids=["ignored", "regions"],
)
def test_memory_is_that_of_the_networks_outputs(labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plan(8, MIN_PATCHES)[1]
    monkeypatch.setitem(DESCRIPTION, "labels", labels)
    monkeypatch.setitem(DESCRIPTION, "regions_class_order", [1, 2, 3])
    assert plan(8, MIN_PATCHES)[1] == expected


def test_the_feature_maps_of_a_network_are_counted_as_they_are_computed() -> None:
    """Reference: the outputs of all convolutions of a forward pass."""
    configuration = plan(2, 2)[0]["configurations"]["2d"]
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [8 for _ in network["features_per_stage"]]
    network["n_conv_per_stage_decoder"] = [*network["n_conv_per_stage_decoder"][:-1], 5]
    configuration["patch_size"] = patch = [128, 128]
    entry = configuration["architecture"]
    model = get_network_from_plans(
        entry["network_class_name"], network, entry["_kw_requires_import"], 2, 3, allow_init=False
    )
    numbers: list[int] = []
    for module in {id(module): module for module in model.modules()}.values():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda _module, _inputs, output: numbers.append(output[0].numel()))
    with torch.no_grad():
        model(torch.zeros(1, 2, *patch))
    assert planner.feature_map_size(configuration, DESCRIPTION) == sum(numbers)
