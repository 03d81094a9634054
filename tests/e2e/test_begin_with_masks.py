"""A training that begins with masks of another tool: it learns from them at first, and never opens a hidden label."""

from __future__ import annotations

import csv
import gzip
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from golden import TRAIN, events, fold, ledgers, user, weights
from shared import PLAN_OPTIONS, made_once
from shell import Shell, codes

from pcl_auto.nnunet.data.pseudo_label_files import read_labels
from pcl_auto.workspace.files import file_digest

pytestmark = pytest.mark.slow
# Two of the three whose labels are hidden, and the one without a label.
WITH_MASK = ("phantom_001", "phantom_002", "phantom_006")
MASKS = ("--initial-pseudo-labels", "masks")


def make_masks(shell: Shell) -> None:
    """Draw a ball of one class in a ball of another on images that are not looked at, as floats."""
    for case in WITH_MASK:
        image = nibabel.load(shell.folder / "Task99_Phantom" / "imagesTr" / f"{case}.nii.gz")
        shape = image.shape[:3]
        places = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        distance = np.sqrt(sum(place**2 for place in places))
        mask = np.where(distance < 0.3, 2, np.where(distance < 0.6, 1, 0)).astype(np.float32)
        (shell.folder / "masks").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, image.affine), shell.folder / "masks" / f"{case}.nii.gz")


def files_of(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}


def train(shell: Shell, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    return shell.python("-m", "pcl_auto", *TRAIN, *MASKS, *options, pictures=False, **variables)


@pytest.fixture(scope="module")
def begun(shared_folder: Path, five_labels: Path) -> Path:
    """A training that was looked at by a dry run, killed and repeated, with hidden labels that nothing can read."""

    def make(folder: Path) -> None:
        shell = user(folder, five_labels)
        shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
        for number in (1, 2, 4):
            label = folder / "Task99_Phantom" / "labelsTr" / f"phantom_{number:03d}.nii.gz"
            label.write_bytes(gzip.compress(b"nobody may look at this"))
        make_masks(shell)
        before = files_of(folder)
        dry = train(shell, "--dry-run", "--json")
        assert dry.returncode == 0, dry.stderr
        assert files_of(folder) == before
        # Among the masks: two are stored as pseudo-labels, the third is not.
        killed = train(shell, PCLAUTO_FAULT="sync:22")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        begun = fold(folder) / "pseudo_labels" / "round_0"
        assert 0 < len(list((begun / "cases").glob("*.pkl"))) < len(WITH_MASK)
        assert not (begun / "ledger.csv").exists()
        done = train(shell)
        assert done.returncode == 0, done.stderr

    return made_once(shared_folder / "begun_with_masks", make)


def rows_of(folder: Path, number: int) -> list[dict[str, str]]:
    with (fold(folder) / "pseudo_labels" / f"round_{number}" / "ledger.csv").open() as table:
        return list(csv.DictReader(table))


def test_the_masks_are_the_pseudo_labels_of_round_0(begun: Path) -> None:
    rows = rows_of(begun, 0)
    assert [(row["case"], row["source"]) for row in rows] == [(case, "given") for case in WITH_MASK]
    later = rows_of(begun, 1)
    assert {row["case"] for row in later} == {*WITH_MASK, "phantom_004"}
    assert not any("source" in row for row in later)
    assert [bool(row["dice_to_last_round"]) for row in later] == [row["case"] in WITH_MASK for row in later]
    stages = [event["stage"] for event in events(begun, "epoch")]
    assert stages == [f"round {number}" for number in (0, 0, 1, 1, 2, 2)]


def test_they_lie_on_the_grids_of_the_images(begun: Path) -> None:
    compared = 0
    for case in WITH_MASK:
        mask = np.asanyarray(nibabel.load(begun / "masks" / f"{case}.nii.gz").dataobj).T
        stored = read_labels(fold(begun) / "pseudo_labels" / "round_0" / "cases", case)
        assert set(np.unique(stored)) == {0, 1, 2}
        if stored.shape == mask.shape:  # not resampled
            assert np.array_equal(stored, mask)
            compared += 1
    assert compared


def test_the_record_names_them(begun: Path) -> None:
    record = json.loads((fold(begun) / "run.json").read_text())
    digests = {case: file_digest(begun / "masks" / f"{case}.nii.gz") for case in WITH_MASK}
    assert record["identity"]["initial_pseudo_labels"] == digests
    assert record["identity"]["split"]["hidden"] == ["phantom_001", "phantom_002", "phantom_004"]


def test_the_same_command_again_is_done_and_another_try_gives_the_same_bytes(begun: Path) -> None:
    shell, model = Shell(begun), fold(begun).parent
    before, learned = files_of(model), (weights(begun), ledgers(begun))
    again = train(shell)
    assert again.returncode == 0, again.stderr
    assert files_of(model) == before
    anew = train(shell, "--restart")
    assert anew.returncode == 0, anew.stderr
    assert (weights(begun), ledgers(begun)) == learned


def test_other_masks_are_another_model(begun: Path, tmp_path: Path) -> None:
    mask = nibabel.load(begun / "masks" / f"{WITH_MASK[0]}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), tmp_path / f"{WITH_MASK[0]}.nii.gz")
    done = Shell(begun).pclauto(*TRAIN, MASKS[0], tmp_path, "--dry-run", "--json", pictures=False)
    model = Path(json.loads(done.stdout)["model"])
    assert model.parent == fold(begun).parent.parent
    assert not model.exists()


def test_the_folder_of_the_labels_is_refused(begun: Path) -> None:
    labels = begun / "Task99_Phantom" / "labelsTr"
    problems = Shell(begun).refusal(*TRAIN, MASKS[0], labels, code=3)
    assert set(codes(problems)) == {"split.label-is-hidden"}
    assert len(problems) == 3
