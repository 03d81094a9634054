"""Find the model that a command means, and the options that name it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from refusal import refused

from pcl_auto.errors import StateError, UsageError
from pcl_auto.training.find_model import find_model, model_options, remember_model
from pcl_auto.training.request import JOINT_TRAINER, SUPERVISED_TRAINER, Run
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


def train(workspace: Workspace, dataset: str, model: str) -> Path:
    """Leave behind what a training would, as far as the search for models looks at it."""
    folder = workspace.results / dataset / model
    write_json(folder / "plans.json", {})
    (folder / "fold_all").mkdir()
    return folder


def test_no_model_in_a_new_workspace(workspace: Workspace) -> None:
    with refused(StateError, "model.missing") as refusal:
        find_model(workspace, None)
    assert "pclauto train" in refusal.problem.fix


@pytest.mark.parametrize("name", ["nonsense", "nonsense/fold_all", ""])
def test_an_unknown_model_is_refused_with_the_known_ones(
    workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train(workspace, "Dataset005_Prostate", f"{JOINT_TRAINER}__nnUNetPlans_L2_s0__2d")
    monkeypatch.chdir(tmp_path)
    with refused(StateError, "model.unknown") as refusal:
        find_model(workspace, name)
    assert refusal.problem.expected == f"{JOINT_TRAINER}__nnUNetPlans_L2_s0__2d"


def test_a_typing_error_does_not_find_the_model_one_stands_in(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(train(workspace, "Dataset005_Prostate", "model"))
    with refused(StateError, "model.unknown") as refusal:
        find_model(workspace, "modle")
    assert "'modle'" in refusal.problem.what


def test_a_name_that_two_data_sets_use(workspace: Workspace) -> None:
    both = [train(workspace, dataset, "model") for dataset in ("Dataset004_Hippocampus", "Dataset005_Prostate")]
    with refused(StateError, "model.ambiguous") as refusal:
        find_model(workspace, "model")
    assert refusal.problem.expected == " | ".join(map(str, both))
    assert find_model(workspace, str(both[1])) == both[1]


def test_a_remembered_model_that_is_gone(workspace: Workspace) -> None:
    workspace.remember(last_run={JOINT_TRAINER: "Dataset005_Prostate/gone"})
    with refused(StateError, "model.missing"):
        find_model(workspace, None)


def test_the_baseline_is_not_stood_in_for(workspace: Workspace) -> None:
    joint = train(workspace, "Dataset005_Prostate", "joint")
    workspace.remember(last_run={JOINT_TRAINER: joint.relative_to(workspace.results).as_posix()})
    with refused(StateError, "model.no-baseline"):
        find_model(workspace, None, supervised_only=True)


def test_a_model_by_name_folder_or_fold(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    model = train(workspace, "Dataset005_Prostate", "model")
    for name in ("model", str(model)):
        assert find_model(workspace, name) == model
    assert find_model(workspace, str(model / "fold_all")) == model / "fold_all"
    assert model_options(workspace, model / "fold_all") == f" --model {model / 'fold_all'}"
    monkeypatch.chdir(model)
    assert find_model(workspace, ".") == model
    assert find_model(workspace, "fold_all") == model / "fold_all"
    monkeypatch.chdir(model / "fold_all")
    assert find_model(workspace, ".") == model / "fold_all"


def test_a_folder_in_a_model_that_is_no_fold_stands_for_nothing(workspace: Workspace) -> None:
    model = train(workspace, "Dataset005_Prostate", "model")
    (model / "evaluations").mkdir()
    with refused(StateError, "model.unknown"):
        find_model(workspace, str(model / "evaluations"))


def test_a_model_and_the_last_baseline_are_not_asked_for_together(workspace: Workspace) -> None:
    train(workspace, "Dataset005_Prostate", "model")
    with refused(UsageError, "usage.model-and-baseline"):
        find_model(workspace, "model", supervised_only=True)


def remember(workspace: Workspace, trainer: str, model: Path) -> Path:
    data = DatasetFolder(workspace.preprocessed / model.parent.name)
    remember_model(workspace, cast(Run, SimpleNamespace(trainer=trainer, model=model, data=data)))
    return model


def test_without_a_name_the_one_trained_last(workspace: Workspace) -> None:
    baseline = remember(workspace, SUPERVISED_TRAINER, train(workspace, "Dataset005_Prostate", "baseline"))
    assert find_model(workspace, None) == baseline
    joint = remember(workspace, JOINT_TRAINER, train(workspace, "Dataset005_Prostate", "joint"))
    for _ in range(2):
        assert find_model(workspace, None) == joint
        assert find_model(workspace, None, supervised_only=True) == baseline
        remember(workspace, SUPERVISED_TRAINER, baseline)


def test_a_model_of_another_data_set_is_not_stood_in(workspace: Workspace) -> None:
    joint = remember(workspace, JOINT_TRAINER, train(workspace, "Dataset004_Hippocampus", "joint"))
    baseline = remember(workspace, SUPERVISED_TRAINER, train(workspace, "Dataset005_Prostate", "baseline"))
    assert find_model(workspace, None) == baseline
    remember(workspace, JOINT_TRAINER, joint)
    with refused(StateError, "model.no-baseline"):
        find_model(workspace, None, supervised_only=True)


def test_nothing_stands_in_for_a_model_that_is_gone(workspace: Workspace) -> None:
    remember(workspace, SUPERVISED_TRAINER, train(workspace, "Dataset004_Hippocampus", "baseline"))
    joint = remember(workspace, JOINT_TRAINER, train(workspace, "Dataset005_Prostate", "joint"))
    (joint / "plans.json").unlink()
    with refused(StateError, "model.missing"):
        find_model(workspace, None)


# --- how a command is told to take it -------------------------------------------------------------------------


def test_options_that_name_a_model(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path / "work", "./pclauto_work")
    older, baseline, joint = (train(workspace, "Dataset005_Prostate", name) for name in ("older", "baseline", "joint"))
    remember(workspace, SUPERVISED_TRAINER, baseline)
    assert model_options(workspace, baseline) == ""
    remember(workspace, JOINT_TRAINER, joint)
    assert model_options(workspace, joint) == ""
    assert model_options(workspace, baseline, baseline=True) == " --supervised-only"
    assert model_options(workspace, baseline) == " --model baseline"
    assert model_options(workspace, older, baseline=True) == " --model older"
    namesake = train(workspace, "Dataset004_Hippocampus", "older")
    assert model_options(workspace, namesake) == f" --model {namesake}"


def test_options_that_name_a_workspace(tmp_path: Path) -> None:
    workspace = Workspace.find(tmp_path / "my work", {})
    model = remember(workspace, JOINT_TRAINER, train(workspace, "Dataset005_Prostate", "joint"))
    assert model_options(workspace, model) == f" --workspace '{tmp_path}/my work'"
    assert Workspace.find(None, {}).option == ""
