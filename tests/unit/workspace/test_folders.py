"""The workspace: whose word counts, what it remembers, and which data set a name means."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.errors import ResourceError, StateError, UsageError
from pcl_auto.workspace.folders import DEFAULT_FOLDER, DatasetFolder, Workspace

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


def plan(workspace: Workspace, *names: str) -> None:
    """Leave behind what ``pclauto plan`` would, as far as the workspace looks at it."""
    for name in names:
        data = DatasetFolder(workspace.preprocessed / name)
        data.pclauto_dir.mkdir(parents=True)
        data.plan_file.write_text("{}")


def test_nothing_planned(workspace: Workspace) -> None:
    for name in (None, "Prostate"):
        with refused(StateError, "plan.missing") as refusal:
            workspace.dataset(name)
        assert "pclauto plan TASK" in refusal.problem.fix
        assert refusal.problem.where == str(workspace.preprocessed)


def test_a_folder_of_stock_nnunet_was_not_planned_here(workspace: Workspace) -> None:
    (workspace.preprocessed / "Dataset005_Prostate").mkdir(parents=True)
    assert workspace.planned() == []
    with refused(StateError, "plan.missing"):
        workspace.dataset("Prostate")


@pytest.mark.parametrize("name", ["Spleen", "6", "05x", "prostate", "", "Task06_Prostate"])
def test_an_unknown_name_is_refused_with_the_known_ones(workspace: Workspace, name: str) -> None:
    plan(workspace, "Dataset005_Prostate", "Dataset004_Hippocampus")
    with refused(UsageError, "plan.unknown-dataset") as refusal:
        workspace.dataset(name)
    assert refusal.problem.expected == "Dataset004_Hippocampus | Dataset005_Prostate"


def test_a_file_where_a_folder_must_be(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "before")
    workspace.raw.parent.mkdir()
    workspace.raw.write_text("in the way")
    with refused(ResourceError, "disk.unwritable") as refusal:
        workspace.activate()
    assert refusal.problem.where == str(workspace.raw)
    assert os.environ["nnUNet_raw"] == "before"


def test_a_folder_without_the_right_to_write(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may write everywhere
    with refused(ResourceError, "disk.unwritable"):
        workspace.activate()


def test_the_option_comes_before_the_shell(tmp_path: Path) -> None:
    exported = {name: str(tmp_path / "exported" / name) for name in VARIABLES}
    found = Workspace.find(tmp_path / "asked", exported)
    assert found.preprocessed == tmp_path / "asked" / "nnUNet_preprocessed"
    assert str(tmp_path / "asked") in found.origin


def test_the_shell_comes_before_the_default(tmp_path: Path) -> None:
    exported = {name: str(tmp_path / name) for name in VARIABLES}
    found = Workspace.find(None, exported)
    assert [found.raw, found.preprocessed, found.results] == [tmp_path / name for name in VARIABLES]
    assert "nnUNet_preprocessed" in found.origin


def test_raw_images_are_not_needed_to_be_exported(tmp_path: Path) -> None:
    exported = {name: str(tmp_path / name) for name in VARIABLES[1:]}
    assert Workspace.find(None, exported).raw == tmp_path / "nnUNet_raw"


@pytest.mark.parametrize("exported", [(), ("nnUNet_raw",), ("nnUNet_raw", "nnUNet_results")])
def test_the_default_lies_in_the_current_folder(
    exported: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Workspace.find(None, {name: "/elsewhere" if name in exported else "" for name in VARIABLES})
    assert found.results == tmp_path / DEFAULT_FOLDER / "nnUNet_results"
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Workspace.at(Path("work"), "").raw == tmp_path / "work" / "nnUNet_raw"
    assert Workspace.at(Path("~/work"), "").raw == tmp_path / "me" / "work" / "nnUNet_raw"


def test_activate_makes_the_folders_and_sets_the_variables(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "before")
    workspace.activate()
    folders = [workspace.raw, workspace.preprocessed, workspace.results]
    assert [os.environ[name] for name in VARIABLES] == [str(folder) for folder in folders]
    assert all(folder.is_dir() for folder in folders)


def test_an_exported_folder_that_is_not_there_is_a_slip_of_the_finger(tmp_path: Path) -> None:
    (tmp_path / "nnUNet_results").mkdir()
    found = Workspace.find(None, {name: str(tmp_path / name) for name in VARIABLES})
    with refused(UsageError, "output.exported-missing") as refusal:
        found.activate()
    assert refusal.problems[0].where == str(tmp_path / "nnUNet_preprocessed")
    assert not (tmp_path / "nnUNet_preprocessed").exists()


def test_another_workspace_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    work = Workspace.at(tmp_path / "work", "--workspace work")
    assert work.describe() == f"{tmp_path / 'work'} (--workspace work)"
    plan_file = DatasetFolder(tmp_path / DEFAULT_FOLDER / "nnUNet_preprocessed" / "Dataset001_X").plan_file
    plan_file.parent.mkdir(parents=True)
    plan_file.touch()
    elsewhere = f"another workspace lies in {tmp_path / DEFAULT_FOLDER}"
    assert work.describe().endswith(elsewhere)
    with refused(StateError, "plan.missing") as refusal:
        work.dataset(None)
    assert refusal.problems[0].fix.endswith(elsewhere)
    assert Workspace.find(None).others() == []


def test_a_new_workspace_remembers_nothing(workspace: Workspace) -> None:
    assert workspace.remembered() == {}


def test_what_is_remembered_is_added_to(workspace: Workspace) -> None:
    workspace.remember(last_dataset="A", last_run={"x": "y"})
    workspace.remember(last_dataset="B")
    assert workspace.remembered() == {"schema_version": 1, "last_dataset": "B", "last_run": {"x": "y"}}


@pytest.mark.parametrize(
    "name", ["Dataset005_Prostate_MR", "5", "05", "005", "Prostate_MR", "Task05_Prostate_MR"]
)  # the name, the number and the task's name, as people write them
def test_a_data_set_by_any_of_its_names(workspace: Workspace, name: str) -> None:
    plan(workspace, "Dataset004_Hippocampus", "Dataset005_Prostate_MR", "Dataset1005_Other")
    assert workspace.dataset(name).name == "Dataset005_Prostate_MR"


def test_without_a_name_the_one_planned_last(workspace: Workspace) -> None:
    plan(workspace, "Dataset004_Hippocampus", "Dataset005_Prostate")
    workspace.remember(last_dataset="Dataset004_Hippocampus")
    assert workspace.dataset(None).name == "Dataset004_Hippocampus"


def test_digits_of_other_scripts_are_no_number_of_a_data_set(workspace: Workspace) -> None:
    plan(workspace, "Dataset005_Prostate", "Dataset\u0660\u0660\u0665_Other")
    assert workspace.dataset("5").name == workspace.dataset(None).name == "Dataset005_Prostate"


@pytest.mark.parametrize("last", [None, "Dataset009_Removed"])
def test_without_a_memory_one_that_is_there(workspace: Workspace, last: str | None) -> None:
    plan(workspace, "Dataset004_Hippocampus", "Dataset005_Prostate")
    if last:
        workspace.remember(last_dataset=last)
    assert workspace.dataset(None).name == "Dataset005_Prostate"


def test_where_a_data_set_keeps_its_files() -> None:
    data = DatasetFolder(Path("pre/Dataset042_Two_Words"))
    assert (data.name, data.id) == ("Dataset042_Two_Words", 42)
    assert data.split_file("L2_s0") == data.path / "splits" / "L2_s0.json"
    views = {data.labeled_view("L2_s0", "2d"), data.validation_view("L2_s0", "2d"), data.store("2d_ab")}
    assert len(views) == 3
    # nnU-Net lists the labeled view; the case store must not be in it.
    assert not data.store("2d_ab").is_relative_to(data.labeled_view("L2_s0", "2d"))
    assert data.plans_file("nnUNetPlans_x") == data.path / "nnUNetPlans_x.json"


def test_what_two_processes_remember_at_once_is_kept(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: workspace.remember(last_run={f"t{number}": "model"}), range(8)))
    assert len(workspace.remembered()["last_run"]) == 8
    workspace.remember(last_run={"t3": "another"})
    assert list(workspace.remembered()["last_run"].items())[-1] == ("t3", "another")
