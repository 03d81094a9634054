"""Corrected masks that are no labels, and runs that nothing can be corrected of."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from refusal import refused
from report_files import write_run
from toy_plans import toy_plan

from pcl_auto.annotation.review import export_review
from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.errors import DataError, StateError, UsageError
from pcl_auto.planning.plan import write_plan
from pcl_auto.training.continuation import continuation
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.review_record import earlier_record
from pcl_auto.training.run_facts import last_round, read_run, run_folder
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace

CASES = ("a", "b", "c", "d", "e")


def volume(file: Path, value: int) -> Path:
    """A volume whose middle has a value."""
    voxels = np.zeros((6, 7, 8), np.uint8)
    voxels[2:4, 2:4, 2:4] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), file)
    return file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


@pytest.fixture
def model(workspace: Workspace, tmp_path: Path) -> Path:
    """A finished run of two labeled and three unlabeled cases, and the plan that it was made with."""
    root = tmp_path / "Task01_X"
    cases = {}
    for case in CASES:
        image = volume(root / "imagesTr" / f"{case}.nii.gz", 100)
        label = volume(root / "labelsTr" / f"{case}.nii.gz", 1) if case in "ab" else None
        cases[case] = {
            "image": f"imagesTr/{image.name}", "label": label and f"labelsTr/{label.name}", "source": "training",
            "shape": [6, 7, 8], **image_stats(image),
        }  # fmt: skip
    content = toy_plan(
        root, "Dataset001_X", cases, {"channel_names": {"0": "T2"}, "labels": {"background": 0, "core": 1, "shell": 2}}
    )
    write_plan(DatasetFolder(workspace.preprocessed / "Dataset001_X"), content)
    model = write_run(workspace.results)
    (model / "fold_all" / "checkpoint_final.pth").touch()
    return model


def test_nothing_is_corrected_yet(model: Path, workspace: Workspace) -> None:
    with refused(StateError, "review.no-correction"):
        continuation(model, workspace, TrainRequest(), write=False)


def test_every_mask_that_is_no_label_is_listed(model: Path, workspace: Workspace, tmp_path: Path) -> None:
    corrected = tmp_path / "review" / "corrected"
    masks = {case: volume(corrected / f"{case}.nii.gz", value) for case, value in
             {"a": 1, "c": 0, "d": 7, "e": 2, "nobody": 1}.items()}  # fmt: skip
    expected = {
        "a": "review.case-has-label",
        "c": "review.mask-empty",
        "d": "label.undeclared-values",
        "nobody": "review.unknown-case",
    }
    with refused(DataError, *expected.values()) as refusal:
        continuation(model, workspace, TrainRequest(), corrected=tmp_path / "review", write=False)
    assert {problem.where: problem.code for problem in refusal.problems} == {
        str(masks[case]): code for case, code in expected.items()
    }


def test_a_run_without_a_checkpoint_cannot_go_on(model: Path, workspace: Workspace) -> None:
    (model / "fold_all" / "checkpoint_final.pth").unlink()
    with refused(StateError, "checkpoint.missing"):
        continuation(model, workspace, TrainRequest(), write=False)


def test_a_run_that_has_come_to_no_round(model: Path) -> None:
    shutil.rmtree(model / "fold_all" / "pseudo_labels")
    with refused(StateError, "review.no-round"):
        last_round(read_run(run_folder(model)))


def test_cases_without_a_pseudo_label(model: Path, workspace: Workspace, tmp_path: Path) -> None:
    with refused(UsageError, "review.no-pseudo-label") as refusal:
        export_review(model, workspace, tmp_path / "out", cases=["c", "a", "nobody"])
    assert refusal.problem.where == "a, nobody"
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(model: Path, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with refused(StateError, "review.folder-taken"):
        export_review(model, workspace, tmp_path / "out")
    with refused(StateError, "review.folder-taken") as refusal:
        earlier_record(tmp_path / "out", "review.json", model)
    assert refusal.problem.where == str(tmp_path / "out")


def test_f91_a_workspace_that_was_moved_goes_on_with_its_corrections(
    model: Path, workspace: Workspace, tmp_path: Path
) -> None:
    run, elsewhere = model / "fold_all", tmp_path / "elsewhere"
    for place, case in ((run / "review", "c"), (elsewhere, "d")):
        volume(place / "corrected" / f"{case}.nii.gz", 1)
        write_json(place / "review.json", {"model": str(model)})
    write_json(run / "reviews.json", {"folders": [str(elsewhere), str(run / "review")]})
    workspace.results.parent.rename(tmp_path / "moved")
    moved, there = Workspace.at(tmp_path / "moved", "test"), tmp_path / "moved" / model.relative_to(tmp_path / "work")
    found = continuation(there, moved, TrainRequest(), write=False).masks
    assert found == {
        "c": there / "fold_all" / "review" / "corrected" / "c.nii.gz", "d": elsewhere / "corrected" / "d.nii.gz",
    }  # fmt: skip
    assert earlier_record(there / "fold_all" / "review", "review.json", there) == {"model": str(model)}
    # A copy that stayed behind is another run's.
    shutil.copytree(tmp_path / "moved", tmp_path / "work")
    (there / "fold_all" / "review" / "corrected" / "c.nii.gz").unlink()
    assert set(continuation(there, moved, TrainRequest(), write=False).masks) == {"d"}
    with refused(StateError, "review.folder-taken"):
        earlier_record(elsewhere, "review.json", there)
