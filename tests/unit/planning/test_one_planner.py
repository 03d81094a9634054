"""Plan where others plan and train: no number twice, no plan under a training, nothing of nnU-Net's lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import pytest
from refusal import refused

from pcl_auto.data.phantom import make_phantom
from pcl_auto.errors import DataError, LockedError, StateError
from pcl_auto.planning import make_plan
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.one_planner import claim, is_foreign, sole_planner
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.training.request import TrainRequest, resolve_runs
from pcl_auto.training.train import prepare
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.output import visible

SETTINGS = PlanSettings(memory_gb=1.0)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return make_phantom(tmp_path, labeled=1, unlabeled=1, test=0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


def chosen(workspace: Workspace, name: str) -> Callable[[], DatasetFolder]:
    """Choose the first number that no data set has, as for a folder without one."""

    def choose() -> DatasetFolder:
        numbers = [DatasetFolder(path).id for path in visible(workspace.preprocessed)]
        return DatasetFolder(workspace.preprocessed / f"Dataset{max([499, *numbers]) + 1}_{name}")

    return choose


def as_raw(task: Path, raw: Path) -> None:
    """Write a data set in nnU-Net's raw format."""
    description = json.loads((task / "dataset.json").read_text())
    labels = {name: int(value) for value, name in description["labels"].items()}
    raw.mkdir(parents=True)
    channels = {"channel_names": description["modality"], "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(channels))
    shutil.copytree(task / "labelsTr", raw / "labelsTr")
    (raw / "imagesTr").mkdir()
    for file in (task / "imagesTr").iterdir():
        for channel in range(2):
            target = raw / "imagesTr" / file.name.replace(".nii.gz", f"_{channel:04d}.nii.gz")
            nibabel.save(nibabel.load(file).slicer[..., channel], target)


def test_a_number_is_taken_when_it_is_chosen(workspace: Workspace) -> None:
    with (
        sole_planner(workspace, chosen(workspace, "A")) as (first, _),
        sole_planner(workspace, chosen(workspace, "B")) as (
            second,
            _,
        ),
    ):
        assert (first.id, second.id) == (500, 501)


def test_one_data_set_has_one_planner(workspace: Workspace) -> None:
    data = DatasetFolder(workspace.preprocessed / "Dataset005_A")
    with sole_planner(workspace, lambda: data):
        with refused(LockedError, "lock.held") as refusal, sole_planner(workspace, lambda: data):
            pass
        assert refusal.problem.found.startswith(f"process {os.getpid()} on ")
        assert data.path.is_dir()


def test_where_planning_fails_nothing_is_left(workspace: Workspace) -> None:
    with pytest.raises(KeyError), sole_planner(workspace, chosen(workspace, "A")):
        raise KeyError
    assert not workspace.preprocessed.parent.exists()
    workspace.preprocessed.mkdir(parents=True)
    (workspace.preprocessed / "Dataset499_Mine").touch()
    with pytest.raises(KeyError), sole_planner(workspace, chosen(workspace, "A")):
        raise KeyError
    assert [path.name for path in visible(workspace.preprocessed)] == ["Dataset499_Mine"]


@pytest.mark.parametrize("name", ["trainer__plans__3d_fullres", "pretraining/masked_default__3d_fullres"])
def test_a_plan_that_is_made_anew_waits_for_no_training(name: str, task: Path, workspace: Workspace) -> None:
    made = plan_task(task, workspace, SETTINGS)
    model = workspace.results / made.data.name / name
    model.mkdir(parents=True)
    before = made.data.plan_file.read_bytes()
    scan = next((task / "imagesTr").iterdir())
    with sole_writer(model):
        # What changes nothing may be repeated.
        assert plan_task(task, workspace, SETTINGS).up_to_date
        plan_task(task, workspace, SETTINGS, force=True)
        volume = nibabel.load(scan)
        nibabel.save(volume.slicer[1:], scan)
        label = task / "labelsTr" / scan.name
        if label.is_file():
            nibabel.save(nibabel.load(label).slicer[1:], label)
        with refused(LockedError, "lock.held") as refusal:
            plan_task(task, workspace, SETTINGS)
        assert refusal.problem.where == str(model)
        assert made.data.plan_file.read_bytes() == before
    assert not plan_task(task, workspace, SETTINGS).up_to_date


def test_a_training_that_waited_for_a_plan_takes_no_stale_one(task: Path, workspace: Workspace) -> None:
    made = plan_task(task, workspace, SETTINGS)
    (run,) = resolve_runs(TrainRequest(labeled=1, recipe="quick"), workspace)
    write_json(made.data.plan_file, {**made.plan.content, "configuration_reason": "another one"})
    with refused(StateError, "plan.made-anew"):
        prepare(run, silent)


def test_a_refused_data_set_leaves_no_workspace(task: Path, workspace: Workspace) -> None:
    next((task / "imagesTr").iterdir()).write_bytes(b"no image")
    with pytest.raises(DataError):
        plan_task(task, workspace, SETTINGS)
    assert not workspace.preprocessed.parent.exists()


def test_what_nnunet_made_stays_after_a_plan_that_was_killed(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_phantom(tmp_path, labeled=1, unlabeled=1, test=0)
    raw = workspace.raw / "Dataset099_Phantom"
    as_raw(source, raw)
    data = DatasetFolder(workspace.preprocessed / raw.name)
    data.path.mkdir(parents=True)
    (data.path / "dataset.json").write_text('{"of": "nnU-Net"}')

    class Killed(BaseException):
        pass

    def end(*_arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(make_plan, "_choose_network", end)
        with pytest.raises(Killed):
            plan_task(raw, workspace, SETTINGS)
    assert data.checks_file.is_file()
    plan_task(raw, workspace, SETTINGS)
    assert read_json(data.path / "dataset.json") == {"of": "nnU-Net"}


def test_files_of_nnunet_are_told_from_ours(tmp_path: Path) -> None:
    data = DatasetFolder(tmp_path / "Dataset005_A")
    assert not is_foreign(data)
    data.pclauto_dir.mkdir(parents=True)
    assert not is_foreign(data)
    (data.path / "nnUNetPlans.json").touch()
    assert is_foreign(data)
    claim(data, shared=True)
    claim(data, shared=False)  # what was written first holds
    assert is_foreign(data)
    shutil.rmtree(data.pclauto_dir)
    claim(data, shared=False)
    assert not is_foreign(data)
