"""Masks made one class at a time are nnU-Net's, and the memory that it takes is told before."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from pairs import in_pairs
from refusal import refused

from pcl_auto.errors import ResourceError
from pcl_auto.nnunet.inference import memory_demand as inference_demand
from pcl_auto.nnunet.inference.export import mask_of
from pcl_auto.nnunet.inference.memory_demand import InferenceDemand

CLASSES = {"background": 0, "a": 1, "b": 2, "c": 3}
FIXED_MB = inference_demand._LIBRARIES_MB
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def configuration(spacing: list[float], patch: list[int]) -> Any:
    return SimpleNamespace(
        spacing=spacing,
        patch_size=patch,
        network_arch_init_kwargs={"features_per_stage": [8, 16]},
        resampling_fn_probabilities=partial(
            resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None
        ),
    )


@in_pairs(
    labels={"classes": CLASSES, "regions": REGIONS},
    spacing={"3d": [1.0, 1.0, 1.0], "2d": [1.0, 2.0], "as it is": [4.0, 1.0, 1.0]},
    seed=range(3),
)
def test_the_same_voxels_as_nnunet(labels: dict[str, Any], spacing: list[float], seed: int) -> None:
    # Scan axes (z, y, x) of 1, 4 and 1 mm, of which nnU-Net puts y first.
    forward, back = [1, 0, 2], [1, 0, 2]
    properties = {
        "spacing": [1.0, 4.0, 1.0],
        "shape_before_cropping": (7, 14, 12),
        "bbox_used_for_cropping": [[0, 6], [2, 12], [1, 9]],
        "shape_after_cropping_and_before_resampling": (6, 10, 8),
    }
    on_network = {3: (24, 10, 8), 2: (6, 10, 4)}[len(spacing)] if spacing[0] == 1 else (6, 10, 8)
    manager = LabelManager(labels, [1, 2] if labels is REGIONS else None)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((manager.num_segmentation_heads, *on_network), generator=generator).half()
    logits[0, :2] = logits[1, :2]  # equal logits: the first of them counts
    plans: Any = SimpleNamespace(transpose_forward=forward, transpose_backward=back)
    settings = (plans, configuration(spacing, [4, 4, 4]), manager, properties)
    before = logits.clone()
    mask = mask_of(logits, *settings)
    assert torch.equal(logits, before)
    expected = convert_predicted_logits_to_segmentation_with_correct_shape(logits, *settings)
    assert mask.dtype == expected.dtype
    assert np.unique(mask).size > 2
    np.testing.assert_array_equal(mask, expected)


def test_memory_grows_with_what_is_held() -> None:
    plans: Any = SimpleNamespace(transpose_forward=[0, 1, 2])

    def needed(shape: tuple[int, ...] = (1, 64, 64, 64), finer: float = 1.0, heads: int = 2, side: int = 8) -> int:
        grid = configuration([1 / finer] * 3, [side] * 3)
        return InferenceDemand(np.ones(shape, np.float32), [1.0] * 3, plans, grid, heads).needed_mb() - FIXED_MB

    plain = needed()
    # The logits alone, and all of it in float64 twice over for each class, in MB.
    assert 2 * 2 * 64**3 / 2**20 < plain < 100 * 64**3 / 2**20
    assert needed((1, 64, 64, 128)) == pytest.approx(2 * plain, rel=0.1)
    assert needed(finer=2) > 6 * plain
    assert needed(heads=40) > 5 * plain
    assert needed((4, 64, 64, 64)) > plain
    assert needed(side=128) > 8 * 128**3 * 4 / 2**20
    empty = np.zeros((1, 128, 64, 64), np.float32)
    empty[:, 20:40, 10:20, 5:50] = 1
    grid = configuration([1.0] * 3, [8] * 3)
    assert (
        InferenceDemand(empty, [1.0] * 3, plans, grid, 2).needed_mb() - FIXED_MB < plain
    )  # nnU-Net crops what is zero


def test_a_scan_that_does_not_fit_is_cut_into_as_few_slabs_as_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: Any = SimpleNamespace(transpose_forward=[0, 1, 2])
    scan = np.ones((1, 128, 64, 64), np.float32)
    memory = InferenceDemand(scan, [1.0] * 3, plans, configuration([1.0] * 3, [8] * 3), 40)
    needed = {count: memory.needed_mb(count) for count in range(1, 17)}
    assert needed[1] > needed[2] > needed[4] > needed[16]
    # Patches of 8 voxels, half of one apart; the slabs of 32 rows have 4 more on each side where there are some.
    assert memory.patches() == 31 * 15 * 15
    assert memory.patches(4) == (2 * 8 + 2 * 9) * 15 * 15

    def free(mb: int) -> None:
        monkeypatch.setattr(inference_demand, "available_memory_mb", lambda: mb)

    for mb, count in {needed[1]: 1, needed[1] - 1: 2, needed[4]: 4, needed[16]: 16}.items():
        free(mb)
        assert memory.slabs_that_fit("a.nrrd") == count
    free(needed[16] - 1)  # a slab of 8 rows has 4 around it on both sides: there are no thinner ones
    with refused(ResourceError, "memory.too-small") as refusal:
        memory.slabs_that_fit("a.nrrd")
    problem = refusal.problem
    assert (problem.where, problem.expected, problem.found) == (
        "a.nrrd", f"{needed[16]} MB free, in 16 slabs", f"{needed[16] - 1} MB free",
    )  # fmt: skip
