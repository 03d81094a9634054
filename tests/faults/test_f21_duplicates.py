"""F21: one scan under two names, above all as labeled and as test scan; and what `pclauto check` says of a folder."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from refusals import image, rewrite, small_task
from shell import Shell

from pcl_auto.data.checks.check_dataset import diagnose


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return small_task(tmp_path, labeled=3, unlabeled=6, test=2)


def test_f21_a_sound_data_set(task: Path) -> None:
    found = diagnose(task, threads=1)
    assert (found.refused, found.wrong, found.warnings, found.exit_code) == ((), (), (), 0)
    assert found.cases == {"labeled": 3, "unlabeled": 6, "test": 2}


def test_f21_a_labeled_scan_among_the_test_scans(task: Path) -> None:
    target = task / "imagesTs" / "patient_x.nii.gz"
    # Another name, another compression, another type: the same values.
    volume = nibabel.load(image(task))
    same = nibabel.Nifti1Image(np.asanyarray(volume.dataobj).astype(np.float32), volume.affine)
    nibabel.save(same, task / "patient_x.nii")
    target.write_bytes(gzip.compress((task / "patient_x.nii").read_bytes(), compresslevel=9))
    (task / "patient_x.nii").unlink()
    found = diagnose(task, threads=1)
    (problem,) = found.wrong
    assert problem.code == "data.labeled-twin-in-test"
    assert problem.found == "phantom_001 (labeled) = patient_x (test)"
    assert found.exit_code == 3


def test_f21_a_test_scan_stays_one_when_the_pool_takes_it_in(task: Path) -> None:
    shutil.copy(image(task), task / "imagesTs" / "patient_x.nii.gz")
    found = diagnose(task, threads=1, use_test_images=True)
    assert [(problem.code, problem.found) for problem in found.wrong] == [
        ("data.labeled-twin-in-test", "phantom_001 (labeled) = patient_x (test)")
    ]
    assert found.exit_code == 3


def test_f21_twins_within_training_are_a_warning(task: Path) -> None:
    shutil.copy(image(task, 1), task / "imagesTr" / "twin.nii.gz")
    found = diagnose(task, threads=1)
    assert [(problem.code, problem.found) for problem in found.warnings] == [
        ("data.twins", "phantom_001 (labeled) = twin (unlabeled)")
    ]
    assert found.exit_code == 1


def test_f21_checks_says_what_plan_refuses_and_what_is_worth_a_look(shell: Shell, task: Path) -> None:
    rewrite(image(task, 2), lambda voxels: voxels[..., 0])
    shutil.copy(image(task, 4), task / "imagesTr" / "twin.nii.gz")
    done = shell.pclauto("check", task, code=3)
    refused, looked_at = done.stdout.split("worth a look")
    assert "pclauto plan refuses" in refused
    assert "wrong number of channels" in refused
    assert "phantom_002" in refused
    assert "one scan under several names" in looked_at
    as_json = json.loads(shell.pclauto("check", task, "--json", code=3).stdout)
    assert [problem["what"] for problem in as_json["refused"]] == ["wrong number of channels"]
    assert len(as_json["warnings"]) == 1
    # `plan` says the same of what it refuses.
    assert "wrong number of channels" in shell.pclauto("plan", task, code=3).stderr


def test_f21_a_damaged_test_scan_is_worth_a_look(task: Path) -> None:
    scan = next((task / "imagesTs").iterdir())
    scan.write_bytes(scan.read_bytes()[:100])
    found = diagnose(task, threads=1)
    assert [problem.where for problem in found.warnings] == [str(scan)]
    assert diagnose(task, threads=1, use_test_images=True).refused[0].where == str(scan)
