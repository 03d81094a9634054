"""F5 to F9, F14, F15: voxels, shapes, positions and channels that do not fit are refused with what was found."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from refusal import codes
from refusals import accepted, image, label, refusal, rewrite, small_task

from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.workspace.folders import Workspace


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return small_task(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_f05_nan_and_infinity_are_counted_and_placed(task: Path, value: float) -> None:
    def spoil(voxels: np.ndarray) -> np.ndarray:
        voxels[3, 4, 5, 1] = voxels[6, 4, 5, 1] = value
        return voxels

    rewrite(image(task), lambda voxels: spoil(voxels.astype(np.float64)))
    (problem,) = refusal(task)
    assert problem.code == "data.not-finite"
    assert problem.where == str(image(task))
    assert "2" in problem.found
    assert "3, 4, 5" in problem.found


@pytest.mark.parametrize("number", [1, 4])
def test_f06_constant_images(task: Path, number: int) -> None:
    rewrite(image(task, number), np.zeros_like)
    (problem,) = refusal(task)
    assert (problem.code, problem.where) == ("data.constant", str(image(task, number)))


def test_f06_a_bad_unlabeled_scan_is_left_out_when_asked(task: Path, tmp_path: Path) -> None:
    rewrite(image(task, 4), np.zeros_like)
    task_and_work = task, Workspace.at(tmp_path / "work", "test")
    outcome = plan_task(*task_and_work, PlanSettings(memory_gb=1, skip_bad_unlabeled=True), dry_run=True)
    assert list(outcome.plan.cases) == ["phantom_001", "phantom_002", "phantom_003"]
    (warning,) = outcome.warnings
    assert warning.code == "data.constant"
    assert warning.what == "unlabeled scan left out: image of an unlabeled case is constant in channel 0, 1"
    # What a labeled case has is refused all the same.
    rewrite(image(task, 1), np.zeros_like)
    (problem,) = refusal(task, skip_bad_unlabeled=True)
    assert (problem.code, problem.where) == ("data.constant", str(image(task, 1)))


def test_f07_another_shape(task: Path) -> None:
    shape = nibabel.load(label(task)).shape
    rewrite(label(task), lambda voxels: voxels[..., :-1])
    (problem,) = refusal(task)
    assert problem.code == "label.other-shape"
    assert problem.expected == " x ".join(map(str, shape))
    assert problem.found == " x ".join(map(str, (*shape[:2], shape[2] - 1)))


def test_f08_another_position(task: Path) -> None:
    affine = nibabel.load(label(task)).affine
    shifted, mirrored, turned = affine.copy(), affine.copy(), affine.copy()
    shifted[0, 3] += 100
    mirrored[0] *= -1
    turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]] @ turned[:3, :3]
    for number, wrong in enumerate((shifted, mirrored, turned), start=1):
        rewrite(label(task, number), lambda voxels: voxels, affine=wrong)
    problems = refusal(task)
    assert codes(problems) == ["label.apart"] * 3
    assert [problem.where for problem in problems] == [str(label(task, number)) for number in (1, 2, 3)]
    assert "up to 100 mm apart" in problems[0].found
    assert all("affine" in problem.expected for problem in problems)


def test_f09_noise_of_the_last_digits_is_accepted(task: Path) -> None:
    affine = nibabel.load(label(task)).affine
    rewrite(label(task), lambda voxels: voxels, affine=affine * (1 + 1e-6))
    assert accepted(task)


def test_f14_shapes_that_are_no_volume(task: Path) -> None:
    rewrite(image(task, 1), lambda voxels: np.concatenate([voxels, voxels[..., :1]], axis=-1))
    rewrite(image(task, 2), lambda voxels: voxels[:, :, 3, 0])
    rewrite(label(task, 3), lambda voxels: np.stack([voxels, voxels], axis=-1))
    found = {problem.where: problem for problem in refusal(task)}
    assert {problem.code for problem in found.values()} == {"data.channel-count", "data.not-a-volume", "label.not-3d"}
    assert found[str(image(task, 1))].found == "3"
    assert "2D" in found[str(image(task, 2))].found
    assert "4D" in found[str(label(task, 3))].found


def test_f14_one_slice_is_a_volume(task: Path) -> None:
    for file in (image(task), label(task)):
        rewrite(file, lambda voxels: voxels[:, :, 3:4])
    assert accepted(task)


def test_f15_missing_channels_are_listed_case_by_case(task: Path) -> None:
    for number in (1, 3):
        rewrite(image(task, number), lambda voxels: voxels[..., 0])
    assert [(problem.code, problem.where) for problem in refusal(task)] == [
        ("data.channel-count", str(image(task, number))) for number in (1, 3)
    ]
