"""The network of pretrained weights, planned for a data set."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretrained_files import adaptation_plan, architecture, network, write_nnssl
from refusal import refused

from pcl_auto.errors import ResourceError, StateError
from pcl_auto.nnunet.planning.planner import plan_network
from pcl_auto.nnunet.planning.pretrained_planner import fit_patch, plan_for, smallest_patch
from pcl_auto.nnunet.pretrained.architecture import Architecture, resenc_l, whole_stride
from pcl_auto.nnunet.pretrained.source import PretrainedSource, read_source

NAME = "Dataset005_Prostate"
PROSTATE: dict[str, Any] = {
    "spacings": [[3.6, 0.625, 0.625]] * 32,
    "shapes_after_crop": [[20, 320, 320]] * 32,
    "foreground_intensity_properties_per_channel": {},
    "median_relative_size_after_cropping": 1.0,
}
DESCRIPTION: dict[str, Any] = {
    "name": NAME,
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2},
    "numTraining": 32,
    "file_ending": ".nii.gz",
}


def source_of(of: Architecture, folder: Path, **changes: Any) -> PretrainedSource:
    return read_source(write_nnssl(folder, network(of).state_dict(), adaptation_plan(of, **changes)))


def planned(source: PretrainedSource, memory_gb: float = 8, *, its_spacing: bool = False) -> tuple[Any, Any]:
    return plan_for(source, NAME, DESCRIPTION, PROSTATE, memory_gb=memory_gb, min_patches=4, its_spacing=its_spacing)


def test_the_network_is_the_files_and_all_else_the_data_sets(tmp_path: Path) -> None:
    of = architecture(features=(32, 64, 128, 128))
    plans, memory = planned(source_of(of, tmp_path))
    nnunet, _ = plan_network(NAME, DESCRIPTION, PROSTATE, planner="resenc-m", memory_gb=8, min_patches=4)
    chosen, own = plans["configurations"]["3d_fullres"], nnunet["configurations"]["3d_fullres"]
    assert chosen["architecture"] == {**of.as_plans(), "_kw_requires_import": list(of.imported)}
    others = {"architecture", "patch_size", "batch_size"}
    assert {key: value for key, value in chosen.items() if key not in others} == {
        key: value for key, value in own.items() if key not in others
    }
    assert all(size % 8 == 0 for size in chosen["patch_size"])
    assert chosen["batch_size"] >= 4
    assert 4 < memory["3d_fullres"] <= 8
    assert plans["configurations"].keys() == memory.keys()
    assert "2d" not in plans["configurations"]  # another network


def test_more_memory_gives_larger_patches(tmp_path: Path) -> None:
    source = source_of(architecture(features=(32, 64, 128, 128)), tmp_path)
    sizes = [math.prod(planned(source, gb)[0]["configurations"]["3d_fullres"]["patch_size"]) for gb in (2, 6, 12)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_spacing_of_the_pre_training_if_asked_for(tmp_path: Path) -> None:
    source = source_of(architecture(), tmp_path)
    chosen = planned(source, its_spacing=True)[0]["configurations"]["3d_fullres"]
    np.testing.assert_allclose(chosen["spacing"], [1, 1, 1])
    np.testing.assert_allclose(chosen["median_image_size_in_voxels"], [72, 200, 200])


def test_an_uneven_spacing_goes_to_the_axes_that_it_is_of(tmp_path: Path) -> None:
    # Scans whose last axis has the largest spacing: nnU-Net turns it to the front.
    plan = {"pretrain_plan": {"configurations": {"own": {"spacing": [3.0, 0.8, 0.7]}}}}
    source = source_of(architecture(), tmp_path, **plan)
    turned = {**PROSTATE, "spacings": [[0.625, 0.625, 3.6]] * 32, "shapes_after_crop": [[320, 320, 20]] * 32}
    plans, _ = plan_for(source, NAME, DESCRIPTION, turned, memory_gb=8, min_patches=4, its_spacing=True)
    assert plans["transpose_forward"] == [2, 0, 1]
    np.testing.assert_allclose(plans["configurations"]["3d_fullres"]["spacing"], [3.0, 0.8, 0.7])


def test_a_2d_network_gives_a_2d_plan(tmp_path: Path) -> None:
    plan = {"pretrain_plan": {"configurations": {"own": {"spacing": [1.5, 1.5]}}}}
    source = source_of(architecture("PlainConvUNet", dimensions=2), tmp_path, **plan)
    plans, _ = planned(source)
    assert list(plans["configurations"]) == ["2d"]
    assert plans["configurations"]["2d"]["spacing"] == [0.625, 0.625]
    assert planned(source, its_spacing=True)[0]["configurations"]["2d"]["spacing"] == [1.5, 1.5]


def test_a_single_slice_is_none_for_a_3d_network(tmp_path: Path) -> None:
    source = source_of(architecture(), tmp_path)
    flat = {**PROSTATE, "shapes_after_crop": [[1, 320, 320]] * 32}
    with refused(StateError, "pretrained.other-dimensions"):
        plan_for(source, NAME, DESCRIPTION, flat, memory_gb=8, min_patches=4, its_spacing=False)


def test_what_the_files_do_not_say_cannot_be_planned(tmp_path: Path) -> None:
    of = architecture()
    weights = network(of).state_dict()
    unsaid = read_source(write_nnssl(tmp_path / "a", weights, None))
    with refused(StateError, "pretrained.not-described") as refusal:
        planned(unsaid)
    assert "network" in refusal.problem.what
    without = source_of(of, tmp_path / "b", pretrain_plan={})
    planned(without)
    with refused(StateError, "pretrained.not-described") as refusal:
        planned(without, its_spacing=True)
    assert "spacing" in refusal.problem.what


def test_a_network_that_the_memory_does_not_hold(tmp_path: Path) -> None:
    source = source_of(architecture(features=(320, 320, 320, 320)), tmp_path)
    with refused(ResourceError, "pretrained.too-large") as refusal:
        planned(source, 0.02)
    needed = float(refusal.problem.expected.split()[0])
    assert f"--gpu-memory-gb {needed:g}" in refusal.problem.fix
    planned(source, needed)


# --- the patch ---


def test_the_patch_begins_with_the_image_and_shortens_what_sees_most_of_it() -> None:
    network_ = resenc_l()
    assert whole_stride(network_) == (32, 32, 32)
    assert fit_patch(network_, [100, 60, 200], lambda _: True) == (128, 64, 224)
    seen: list[tuple[int, ...]] = []
    found = fit_patch(network_, [100, 60, 200], lambda size: seen.append(size) or math.prod(size) <= 32**3 * 8)  # type: ignore[func-returns-value]
    assert found == seen[-1]
    for before, after in itertools.pairwise(seen):
        (axis,) = [axis for axis in range(3) if before[axis] != after[axis]]
        assert before[axis] - after[axis] == 32
        shares = [size / median for size, median in zip(before, [100, 60, 200], strict=True)]
        longer = [share for at, share in enumerate(shares) if before[at] > 32]
        assert shares[axis] == max(longer)


@pytest.mark.parametrize("median", [[5, 5, 5], [32, 30, 20], [10, 40, 10]])
def test_the_deepest_features_have_more_than_one_voxel(median: list[float]) -> None:
    network_ = resenc_l()
    patch = fit_patch(network_, median, lambda _: True)
    assert patch is not None
    assert math.prod(patch) > 32**3
    assert math.prod(smallest_patch(network_)) == 2 * 32**3
    assert fit_patch(network_, [200, 200, 200], lambda size: math.prod(size) < 2 * 32**3) is None
