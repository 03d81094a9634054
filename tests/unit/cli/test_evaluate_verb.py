"""Test what `pclauto evaluate` prints of cases that have no partner."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from refusal import refused

from pcl_auto.cli.commands.evaluate import MAX_NAMED, evaluate
from pcl_auto.errors import DataError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Write labels of eight cases and a mask of one of them."""
    masks, labels = tmp_path / "masks", tmp_path / "labels"
    for folder, cases in ((masks, "a"), (labels, "abcdefgh")):
        folder.mkdir()
        for case in cases:
            voxels = np.zeros((4, 4, 4), np.uint8)
            voxels[1:3] = 1
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{case}.nii.gz")
    return masks, labels


def test_a_refusal_names_the_option(folders: tuple[Path, Path]) -> None:
    with refused(DataError, "score.no-prediction") as refusal:
        evaluate(*folders)
    assert all("--allow-missing" in problem.fix for problem in refusal.problems)


def test_cases_without_a_partner_take_one_line(folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(*folders, allow_missing=True)
    lines = [line for line in capfd.readouterr().err.splitlines() if "not scored" in line]
    named = ", ".join("bcdefgh"[:MAX_NAMED])
    assert lines == [f"not scored, label without a prediction: 7 ({named}, …; --json names all)"]
    evaluate(*folders, allow_missing=True, json=True)
    assert [entry["id"] for entry in json.loads(capfd.readouterr().out)["skipped"]] == list("bcdefgh")


def test_f66_folders_of_volumes_that_are_not_looked_into(
    folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    masks, labels = folders
    for folder in (labels / "more", masks / "overlays", masks / ".hidden"):
        folder.mkdir()
    (labels / "h.nii.gz").rename(labels / "more" / "h.nii.gz")
    (masks / "overlays" / "a.png").touch()
    evaluate(*folders, allow_missing=True)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "looked into" in line]
    assert f"{labels}: found more" in line
    evaluate(*folders, allow_missing=True, json=True)
    warnings = json.loads(capfd.readouterr().out)["warnings"]
    assert [(each["code"], each["found"]) for each in warnings][:1] == [("data.passed-over", "more")]


@pytest.mark.parametrize("labels", [{"0": "background", "1": "core"}, {"background": 0, "core": 1, "whole": [1, 2]}])
def test_classes_are_named_by_the_data_set_and_cases_stand_worst_first(
    labels: dict[str, object], folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    masks, truth = folders
    (truth.parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    for case in "bc":
        voxels = np.zeros((4, 4, 4), np.uint8)
        voxels[1 : 2 if case == "c" else 3] = 1
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), masks / f"{case}.nii.gz")
    evaluate(masks, truth, allow_missing=True)
    rows = [line.split() for line in capfd.readouterr().out.splitlines() if line]
    assert [row[0] for row in rows] == ["case", "c", "a", "b", "class", "core", "mean"]
    assert rows[1][1] == "0.667"
