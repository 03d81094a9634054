"""F96: a label that is not that of its image: one file for two cases, a copy, a swap of names, other axes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from refusal import codes
from refusals import image, label, refusal, rewrite, small_task

from pcl_auto.data.checks.check_dataset import Diagnosis, diagnose
from pcl_auto.data.formats.repair import repair


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Three labeled cases on one grid, none like another."""
    root = small_task(tmp_path)
    voxels, drawn = (nibabel.load(file(root)) for file in (image, label))
    for case in (2, 3):
        scan = np.roll(np.asarray(voxels.dataobj), case, axis=0)
        nibabel.save(nibabel.Nifti1Image(scan, voxels.affine), image(root, case))
        mask = np.roll(np.asarray(drawn.dataobj), case, axis=0)
        nibabel.save(nibabel.Nifti1Image(mask, drawn.affine), label(root, case))
    return root


def checked(task: Path) -> Diagnosis:
    return diagnose(task, threads=1)


def pair(task: Path, *pairs: tuple[int, int]) -> None:
    """Pair images with labels of other cases in dataset.json."""
    file = task / "dataset.json"
    content = json.loads(file.read_text())
    for case, other in pairs:
        entry = next(entry for entry in content["training"] if Path(entry["image"]).name == image(task, case).name)
        entry["label"] = f"./labelsTr/{label(task, other).name}"
    file.write_text(json.dumps(content))


def test_f96_a_swap_in_dataset_json(task: Path) -> None:
    pair(task, (1, 2), (2, 1))
    assert codes(checked(task).refused) == ["label.of-other-case"] * 2
    assert codes(refusal(task)) == ["label.of-other-case"] * 2


def test_f96_one_file_for_two_cases(task: Path) -> None:
    pair(task, (2, 1))
    assert sorted(codes(refusal(task))) == ["label.of-other-case", "label.of-two-cases"]


@pytest.mark.parametrize("hard", [True, False])
def test_f96_links_to_one_file(task: Path, *, hard: bool) -> None:
    label(task, 2).unlink()
    (os.link if hard else os.symlink)(label(task, 1), label(task, 2))
    assert codes(refusal(task)) == ["label.of-two-cases"]
    (problem,) = checked(task).refused
    assert "phantom_001" in problem.found
    assert "phantom_002" in problem.found


def test_f96_a_copy_under_another_name_is_worth_a_look(task: Path) -> None:
    assert checked(task).exit_code == 0
    # The same voxels, by whatever bytes.
    rewrite(label(task, 2), lambda _voxels: np.asarray(nibabel.load(label(task, 1)).dataobj))
    found = checked(task)
    assert found.exit_code == 1
    (warning,) = [problem for problem in found.warnings if problem.code == "label.equal"]
    assert warning.found == "phantom_001 = phantom_002"
    # Empty ones are alike, and that says nothing.
    for case in (1, 2):
        rewrite(label(task, case), lambda voxels: voxels * 0)
    assert "label.equal" not in codes(checked(task).warnings)


def test_f102_an_image_that_is_a_label_map(task: Path) -> None:
    pool = image(task, 2).with_name("phantom_900.nii.gz")
    shutil.copyfile(label(task, 1), pool)
    rewrite(image(task, 3), lambda _voxels: np.asarray(nibabel.load(label(task, 3)).dataobj))
    for problems in (checked(task).refused, refusal(task)):
        wrong = [problem for problem in problems if problem.code == "data.image-is-label"]
        found = {Path(problem.where).name: problem.found for problem in wrong}
        assert found == {pool.name: "label of phantom_001", image(task, 3).name: "label of phantom_003"}


def test_f102_masks_among_the_scans_are_worth_a_look(task: Path) -> None:
    assert checked(task).warnings == ()
    pool = image(task, 2).with_name("phantom_900.nii.gz")
    shutil.copyfile(label(task, 1), pool)
    rewrite(pool, lambda voxels: voxels[::-1])
    (warning,) = [problem for problem in checked(task).warnings if problem.code == "data.like-label"]
    assert warning.found == "1 of 5: phantom_900"


def test_f96_labels_of_other_names_are_worth_a_look(task: Path) -> None:
    shutil.move(label(task, 1), task / "labelsTr" / "drawn.nii.gz")
    file = task / "dataset.json"
    file.write_text(file.read_text().replace(f"labelsTr/{label(task, 1).name}", "labelsTr/drawn.nii.gz"))
    found = checked(task)
    assert found.exit_code == 1
    (warning,) = found.warnings
    assert (warning.code, warning.found) == ("label.other-name", "1 of 3: phantom_001: drawn.nii.gz")


def test_f96_other_axes_are_turned_by_the_command_that_is_offered(task: Path, tmp_path: Path) -> None:
    stored = np.asarray(nibabel.load(label(task, 1)).dataobj)
    turned = nibabel.load(label(task, 1)).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nibabel.save(turned, label(task, 1))
    (problem,) = refusal(task)
    assert (problem.code, problem.where) == ("label.other-axes", str(label(task, 1)))
    assert f"--like {image(task, 1)}" in problem.fix
    shutil.copyfile(repair(label(task, 1), tmp_path / "new", like=image(task, 1)), label(task, 1))
    assert checked(task).exit_code == 0
    np.testing.assert_array_equal(np.asarray(nibabel.load(label(task, 1)).dataobj), stored)
