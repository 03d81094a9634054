"""plan, predict, evaluate: what comes out, and what is refused (the whole way: test_golden_path.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from shared import PLAN_OPTIONS
from shell import Shell


def test_plan_says_what_it_found(shell: Shell, task: Path, planned_once: Path) -> None:
    again = shell.pclauto("plan", task, "--workspace", planned_once, *PLAN_OPTIONS, "--json")
    facts = json.loads(again.stdout)
    assert facts["up_to_date"] is True
    assert facts["dataset"] == "Dataset099_Phantom"
    assert len(facts["labeled"]) == 2
    assert len(facts["unlabeled"]) == 4
    assert facts["problems"] == []
    chosen = facts["configurations"][facts["configuration"]]
    assert chosen["batch_size"] >= 4
    assert len(chosen["patch_voxels"]) == len(chosen["spacing_mm"]) == 3


def test_nothing_is_written_into_the_task_or_by_a_dry_run(shell: Shell, own_copy: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_copy.rglob("*")}
    shell.pclauto("plan", own_copy, "--workspace", tmp_path / "dry", *PLAN_OPTIONS, "--dry-run")
    assert not (tmp_path / "dry").exists()
    assert {path: path.stat().st_mtime_ns for path in own_copy.rglob("*")} == before


def test_three_problems_are_refused_in_one_run(shell: Shell, own_copy: Path, tmp_path: Path) -> None:
    images, labels = sorted((own_copy / "imagesTr").iterdir()), sorted((own_copy / "labelsTr").iterdir())
    images[-1].write_bytes(images[-1].read_bytes()[: images[-1].stat().st_size // 2])
    first = nibabel.load(labels[0])
    voxels = np.asanyarray(first.dataobj).copy()
    voxels[0, 0, 0] = 7
    nibabel.save(nibabel.Nifti1Image(voxels, first.affine, first.header), labels[0])
    second = nibabel.load(labels[1])
    moved = second.affine.copy()
    moved[0, 3] += 40
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(second.dataobj), moved), labels[1])

    done = shell.pclauto("plan", own_copy, "--workspace", tmp_path / "work", "--json", code=3)

    problems = {Path(entry["where"].split(" and ")[0]).name: entry for entry in json.loads(done.stdout)["problems"]}
    assert len(problems) == 3
    for file in (images[-1], labels[0], labels[1]):
        matching = [entry for entry in problems.values() if file.name in str(entry)]
        assert matching, f"{file.name} is not named"
        assert all(entry["fix"] and entry["found"] for entry in matching)
        assert file.name in done.stderr
    assert not (tmp_path / "work" / "nnUNet_preprocessed" / "Dataset099_Phantom" / "pclauto" / "plan.json").exists()


@pytest.mark.slow
def test_predictions_keep_name_and_geometry(shell: Shell, task: Path, trained: Path) -> None:
    scans = sorted((task / "imagesTs").iterdir())
    bad = shell.folder / "scans" / "broken.nii.gz"
    bad.parent.mkdir()
    bad.write_bytes(scans[0].read_bytes()[:3000])
    odd_name = bad.parent / "Any name, really.nii.gz"
    shutil.copyfile(scans[0], odd_name)

    done = shell.pclauto("predict", bad.parent, scans[1], "-o", "masks", "--workspace", trained, "--json", code=3)

    result = json.loads(done.stdout)
    assert (result["done"], result["failed"]) == (2, 1)
    status = {case["id"]: case for case in result["cases"]}
    assert "broken.nii.gz" in status["broken"]["error"]
    assert status["broken"]["output"] is None
    for scan in (odd_name, scans[1]):
        case = status[scan.name.removesuffix(".nii.gz")]
        mask, image = nibabel.load(shell.folder / case["output"]), nibabel.load(scan)
        assert mask.shape == image.shape[:3]
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)

    kept = json.loads(shell.pclauto("predict", scans[1], "-o", "masks", "--workspace", trained, "--json").stdout)
    assert [case["status"] for case in kept["cases"]] == ["kept"]


@pytest.mark.slow
def test_evaluate_scores_the_predictions(shell: Shell, task: Path, trained: Path) -> None:
    shell.pclauto("predict", task / "imagesTs", "-o", "scored", "--workspace", trained)
    result = json.loads(shell.pclauto("evaluate", "scored", task / "labelsTs", "--json").stdout)
    assert set(result) >= {"mean", "per_class", "cases"}
    assert set(result["mean"]) >= {"dice", "hd95_mm"}
    assert len(result["cases"]) == 2
