"""F16 to F20: label values, empty labels, classes that nobody has, and images of a few voxels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from refusal import codes
from refusals import accepted, describe, image, label, refusal, rewrite, small_task
from shared import PLAN_OPTIONS
from shell import Shell

from pcl_auto.data.checks.check_files import check_cases
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.evaluation.metrics import evaluate


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return small_task(tmp_path)


def with_value(file: Path, value: float, dtype: npt.DTypeLike) -> None:
    def put(voxels: np.ndarray) -> np.ndarray:
        made = voxels.astype(dtype)
        made[0, 0, :2] = value
        return made

    rewrite(file, put)


@pytest.mark.parametrize(("value", "dtype"), [(7, np.uint8), (-1, np.int16), (255, np.uint8), (300, np.int16)])
def test_f16_values_that_are_not_declared(task: Path, value: int, dtype: npt.DTypeLike) -> None:
    with_value(label(task), value, dtype)
    (problem,) = refusal(task)
    assert problem.code == "label.undeclared-values"
    assert f"{value} (2 voxels)" in problem.found
    assert "0, 1, 2" in problem.expected


def test_f17_fractions_in_either_encoding(task: Path) -> None:
    with_value(label(task, 1), 0.5, np.float32)
    volume_bytes = label(task, 2)
    volume = nibabel.load(volume_bytes)
    scaled = nibabel.Nifti1Image(np.asanyarray(volume.dataobj).astype(np.int16), volume.affine)
    scaled.header.set_slope_inter(0.5, 0)
    scaled.to_filename(volume_bytes)
    assert codes(refusal(task)) == ["label.fractional"] * 2


def test_f17_whole_numbers_stored_as_floats_are_accepted(task: Path) -> None:
    rewrite(label(task), lambda voxels: voxels, dtype=np.float64)
    assert accepted(task)


def test_f18_empty_labels(task: Path) -> None:
    rewrite(label(task), np.zeros_like)
    found, _ = read_task(task)
    assert found is not None
    checks = check_cases(found, threads=1)
    assert checks.problems == []
    assert [(warning.code, warning.found) for warning in checks.warnings] == [("label.empty", "1 of 3: phantom_001")]
    for number in (2, 3):
        rewrite(label(task, number), np.zeros_like)
    assert codes(refusal(task)) == ["label.all-empty"]


def test_f19_a_class_that_nobody_has(task: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        rewrite(label(task, number), lambda voxels: np.where(voxels == 2, 1, voxels))
    found, _ = read_task(task)
    assert found is not None
    (warning,) = check_cases(found, threads=1).warnings
    assert warning.code == "label.class-absent"
    assert "class 2" in warning.what
    # What neither mask holds is not scored, not as 0 and not as 1.
    shutil.copytree(task / "labelsTr", tmp_path / "copies")
    score = evaluate(tmp_path / "copies", task / "labelsTr").as_dict()
    assert "2" not in score["per_class"] or score["per_class"]["2"]["dice"]["mean"] is None


def cropped(folder: Path, width: int, depth: int) -> Path:
    """Write a task whose images hold few voxels."""
    tiny = small_task(folder, labeled=2, unlabeled=2, test=1)
    for number in (1, 2, 3, 4):
        for file in [image(tiny, number), *([label(tiny, number)] if number < 3 else [])]:
            rewrite(file, lambda voxels: voxels[16 : 16 + width, 16 : 16 + width, 5 : 5 + depth])
    return tiny


def test_f20_images_of_a_few_voxels_are_refused(tmp_path: Path) -> None:
    (problem,) = refusal(cropped(tmp_path, 9, 3))
    assert problem.code == "plan.images-too-small"


@pytest.mark.slow
def test_f20_small_images_are_trained_and_segmented(shell: Shell, tmp_path: Path) -> None:
    small, work = cropped(tmp_path, 18, 3), tmp_path / "work"
    shell.pclauto("plan", small, "--workspace", work, *PLAN_OPTIONS)
    shell.train("--workspace", work, "--recipe", "tiny.toml", "--epochs", "3")
    done = shell.pclauto(
        "predict", small / "imagesTs", "-o", tmp_path / "out", "--workspace", work, "--device", "cpu", "--json",
        "--no-mirroring",
    )  # fmt: skip
    assert json.loads(done.stdout)["failed"] == 0


def test_f29_labels_with_gaps_and_kinds(task: Path) -> None:
    for labels, code in (
        ({"background": 0, "a": 1, "b": 3}, "dataset-json.label-gap"),
        ({"a": 1, "b": 2}, "dataset-json.no-background"),
        ({"background": 0, "whole": [1, 2], "core": 2}, "dataset-json.regions-order"),
        ({"background": 0, "a": 2, "ignore": 1}, "dataset-json.ignore-not-last"),
    ):
        describe(task, labels=labels)
        assert (code, str(task / "dataset.json")) in [(problem.code, problem.where) for problem in refusal(task)]


@pytest.mark.parametrize(
    ("regions", "order", "lost"),
    [
        ({"a": [1, 2], "b": [2, 3]}, [1, 3], "2 becomes 3"),
        ({"a": [1, 2], "b": [2, 3], "both": 2}, [1, 3, 2], ""),
        ({"whole": [1, 2, 3], "core": [2, 3], "inner": 3}, [1, 2, 3], ""),
        ({"kidney": [1, 2, 3], "mass": [2, 3], "tumor": 2}, [1, 3, 2], ""),
        ({"a": [1, 2, 3], "b": [2], "c": [3, 4]}, [1, 2, 4], "3 becomes 4"),
    ],
)
def test_f29_regions_that_a_mask_cannot_hold_are_refused(
    task: Path, regions: dict[str, Any], order: list[int], lost: str
) -> None:
    describe(task, labels={"background": 0, **regions}, regions_class_order=order)
    found = {problem.code: problem.found for problem in read_task(task)[1]}
    assert found.get("dataset-json.regions-overlap", "") == lost
