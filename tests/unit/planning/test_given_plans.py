"""nnU-Net plans that are there already: found by name or path, taken as they are, refused where they do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from refusal import refused
from tiny_model import PLANS

from pcl_auto.errors import StateError, UsageError
from pcl_auto.nnunet.planning.planner import read_plans
from pcl_auto.planning.make_plan import find_plans
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.folders import DatasetFolder

DATASET_JSON: dict[str, Any] = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "organ": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def data(tmp_path: Path) -> DatasetFolder:
    return DatasetFolder(tmp_path / "Dataset007_Toy")


def plans() -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(PLANS)
    full = made["configurations"]["3d_fullres"]
    made["configurations"]["3d_lowres"] = {**full, "spacing": [2.0, 2.0, 2.0], "next_stage": "3d_cascade_fullres"}
    made["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    made["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    return made


def test_plans_are_found_by_nnunets_name_or_by_path(data: DatasetFolder, tmp_path: Path) -> None:
    write_json(data.plans_file("nnUNetResEncUNetMPlans"), {})
    write_json(tmp_path / "mine.json", {})
    assert find_plans("nnUNetResEncUNetMPlans", data) == data.plans_file("nnUNetResEncUNetMPlans").resolve()
    assert find_plans(str(tmp_path / "mine.json"), data) == (tmp_path / "mine.json").resolve()
    with refused(UsageError, "plan.unknown-plans") as refusal:
        find_plans("nnUNetPlans", data)
    assert "nnUNetPlans" in refusal.problem.what
    assert refusal.problem.expected == "nnUNetResEncUNetMPlans"


def test_plans_are_taken_as_they_are_without_cascades(data: DatasetFolder, tmp_path: Path) -> None:
    write_json(tmp_path / "plans.json", plans())
    read = read_plans(tmp_path / "plans.json", data.name, DATASET_JSON)
    assert list(read["configurations"]) == ["3d_fullres", "3d_lowres"]
    full, given = read["configurations"]["3d_fullres"], PLANS["configurations"]["3d_fullres"]
    assert {key: full[key] for key in ("patch_size", "batch_size", "spacing", "architecture")} == {
        key: given[key] for key in ("patch_size", "batch_size", "spacing", "architecture")
    }
    assert "next_stage" not in read["configurations"]["3d_lowres"]
    assert read["dataset_name"] == data.name


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda made: made["configurations"].clear(), "plan.unfit", "3d_fullres | 3d_lowres | 2d"),
        (
            lambda made: made["configurations"]["3d_fullres"].update(preprocessor_name="os.system"),
            "model.untrusted",
            "os.system",
        ),
        (
            lambda made: made.update(image_reader_writer="NibabelIOWithReorient"),
            "plan.unfit",
            "image_reader_writer NibabelIO | SimpleITKIO, NibabelIOWithReorient",
        ),
        (
            lambda made: made["configurations"]["3d_fullres"].update(previous_stage="3d_fullres"),
            "plan.unfit",
            "none of them",
        ),
    ],
)
def test_plans_that_do_not_fit(data: DatasetFolder, tmp_path: Path, change: Any, code: str, message: str) -> None:
    made = copy.deepcopy(PLANS)
    change(made)
    write_json(tmp_path / "plans.json", made)
    with refused(StateError, code) as refusal:
        read_plans(tmp_path / "plans.json", data.name, DATASET_JSON)
    assert message in f"{refusal.problem.expected}, {refusal.problem.found}"


def test_plans_for_other_channels(data: DatasetFolder, tmp_path: Path) -> None:
    write_json(tmp_path / "plans.json", PLANS)
    two = {**DATASET_JSON, "channel_names": {"0": "T2", "1": "ADC"}}
    with refused(StateError, "plan.unfit") as refusal:
        read_plans(tmp_path / "plans.json", data.name, two)
    assert (refusal.problem.expected, refusal.problem.found) == ("plans for 2 channels", "3d_fullres 1")


def test_what_is_no_json(data: DatasetFolder, tmp_path: Path) -> None:
    (tmp_path / "plans.json").write_text("{")
    with refused(StateError, "plan.unfit") as refusal:
        read_plans(tmp_path / "plans.json", data.name, DATASET_JSON)
    assert refusal.problem.expected == "JSON"
