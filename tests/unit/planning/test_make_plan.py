"""Test what a plan refuses once the files are sound, and that it writes nothing then."""

from __future__ import annotations

from pathlib import Path

import nibabel
import pytest
from refusal import refused

from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.phantom import make_phantom
from pcl_auto.errors import DataError, UsageError
from pcl_auto.planning.make_plan import dataset_folder, plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.workspace.folders import Workspace


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return make_phantom(tmp_path, labeled=2, unlabeled=0, test=0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


def test_an_unknown_planner(task: Path, workspace: Workspace) -> None:
    with refused(UsageError, "plan.unknown-planner") as refusal:
        plan_task(task, workspace, PlanSettings(planner="resenc-xxl"), dry_run=True)
    assert refusal.problem.expected == "default | resenc-m | resenc-l"
    assert not workspace.preprocessed.parent.exists()


def test_images_of_a_few_voxels(task: Path, workspace: Workspace) -> None:
    for file in task.rglob("*.nii.gz"):
        volume = nibabel.load(file)
        nibabel.save(volume.slicer[16:25, 16:25, 5:8], file)
    with refused(DataError, "plan.images-too-small") as refusal:
        plan_task(task, workspace, PlanSettings(memory_gb=1), dry_run=True)
    assert refusal.problem.where == str(task)


def test_a_number_that_another_data_set_has(task: Path, workspace: Workspace) -> None:
    read, _ = read_task(task)
    assert read is not None
    folder = dataset_folder(read, workspace, None)
    assert folder.name == "Dataset099_Phantom"
    (workspace.preprocessed / "Dataset099_Other").mkdir(parents=True)
    with refused(UsageError, "plan.number-taken") as refusal:
        dataset_folder(read, workspace, None)
    assert "--dataset-id" in refusal.problem.fix
    assert dataset_folder(read, workspace, 98).name == "Dataset098_Phantom"
