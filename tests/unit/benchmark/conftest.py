"""Make a planned toy task with test scans and labels; its files are a few bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_labels import write_label
from toy_plans import toy_plan

from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.planning.plan import write_plan
from pcl_auto.workspace.folders import DatasetFolder, Workspace


def touch(file: Path, content: bytes = b"voxels") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Make four labeled cases, one without a label, and three test scans, two of them with labels."""
    root = tmp_path / "Task05_Toy"
    for case in "abcdu":
        touch(root / "imagesTr" / f"{case}.nii.gz")
    for case in "abcd":
        write_label(root / "labelsTr" / f"{case}.nii.gz", 1)
    for case in "xyz":
        touch(root / "imagesTs" / f"{case}.nii.gz")
    for case in "xy":
        touch(root / "labelsTs" / f"{case}.nii.gz", case.encode())
    return root


@pytest.fixture
def workspace(tmp_path: Path, task: Path) -> Workspace:
    workspace = Workspace.at(tmp_path / "work", "test")
    cases = {
        case: {
            "image": f"imagesTr/{case}.nii.gz",
            "label": None if case == "u" else f"labelsTr/{case}.nii.gz",
            "source": "training",
            "shape": [5, 6, 7],
            **image_stats(task / "imagesTr" / f"{case}.nii.gz"),
        }
        for case in "abcdu"
    }
    content = toy_plan(
        task,
        "Dataset005_Toy",
        cases,
        {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}},
        ("2d", "3d_fullres"),
    )
    write_plan(DatasetFolder(workspace.preprocessed / "Dataset005_Toy"), content)
    return workspace
