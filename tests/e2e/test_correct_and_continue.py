"""Pseudo-labels out to an editor of masks, corrections back in as labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from shell import Shell, codes

from pcl_auto.nnunet.data.pseudo_label_files import read_labels
from pcl_auto.workspace.files import file_digest

pytestmark = pytest.mark.slow


def save_like(mask: Path, voxels: np.ndarray, target: Path, affine: Any = None) -> None:
    image = nibabel.load(mask)
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine if affine is None else affine), target)


def test_a_corrected_case_is_labeled_from_then_on(shell: Shell, task: Path, own_trained: Path, model: Path) -> None:
    ours = ("--workspace", own_trained, "--model", model.name)
    quick = ("--epochs", "2", "--device", "cpu")
    told = json.loads(shell.pclauto("review", *ours, "-n", "2", "--json").stdout)
    folder, cases = Path(told["folder"]), told["cases"]
    assert len(cases) == 2
    for case in cases:
        image = nibabel.load(folder / "images" / f"{case}.nii.gz")
        mask = nibabel.load(folder / "pseudo_labels" / f"{case}.nii.gz")
        assert mask.shape == image.shape[:3]
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    assert codes(shell.refusal("continue", *ours, code=4)) == ["review.no-correction"]

    case = cases[0]
    mask, corrected = folder / "pseudo_labels" / f"{case}.nii.gz", folder / "corrected"
    voxels = np.zeros(nibabel.load(mask).shape, np.uint8)
    voxels[2:8, 3:9, 2:6] = 1
    voxels[8:12, 3:9, 2:6] = 2
    wrong = voxels.copy()
    wrong[0, 0, 0] = 9
    save_like(mask, wrong, corrected / f"{case}.nii.gz")
    second = folder / "pseudo_labels" / f"{cases[1]}.nii.gz"
    shifted = np.ones(nibabel.load(second).shape, np.uint8)
    save_like(second, shifted, corrected / second.name, np.diag([9.0, 9, 9, 1]))
    save_like(mask, voxels, corrected / "nobody.nii.gz")
    kept = folder.parents[1].rglob("*")
    before = {file: file_digest(file) for file in kept if file.is_file() and corrected not in file.parents}
    problems = {Path(entry["where"]).name: entry["code"] for entry in shell.refusal("continue", *ours, code=3)}
    assert problems == {
        f"{case}.nii.gz": "label.undeclared-values",
        second.name: "label.apart",
        "nobody.nii.gz": "review.unknown-case",
    }

    for file in corrected.iterdir():
        file.unlink()
    save_like(mask, voxels, corrected / f"{case}.nii.gz")
    seen = shell.pclauto("continue", *ours, *quick, "--dry-run", "--json")
    assert "nothing was written" in seen.stderr
    foreseen = json.loads(seen.stdout)
    assert list(foreseen["corrected"]) == [case]
    assert case in foreseen["split"]["labeled"]
    assert foreseen["wall_s"] > 0
    assert f"{foreseen['recipe']['schedule']['rounds']} rounds of" in seen.stderr
    (corrected / "notes.txt").touch()
    told = json.loads(shell.pclauto("continue", *ours, *quick, "--json").stdout)
    assert codes(told["warnings"]) == ["data.passed-over"]
    (corrected / "notes.txt").unlink()
    split, made = told["split"], Path(told["model"])
    assert case in split["labeled"]
    assert case not in split["unlabeled"]
    (entry,) = json.loads(Path(told["split_file"]).read_text())["history"]
    assert (entry["case"], entry["model"], entry["mask"]) == (
        case, model.name, file_digest(corrected / f"{case}.nii.gz"),
    )  # fmt: skip
    rows = list(csv.DictReader((made / "fold_all" / "pseudo_labels" / "round_1" / "ledger.csv").open()))
    assert case not in {row["case"] for row in rows}
    (stored,) = own_trained.glob(f"nnUNet_preprocessed/Dataset*/splits/{split['name']}/labeled_*/{case}.b2nd")
    learned = read_labels(stored.parent, case)
    assert set(np.unique(learned)) == {0, 1, 2}
    # The run that was corrected stays as it was.
    assert {file: file_digest(file) for file in before} == before

    scan = next((task / "imagesTs").iterdir())
    done = shell.pclauto("predict", scan, "-o", own_trained / "out", "--workspace", own_trained)
    assert str(made) in done.stderr
    # Repeated, it means the same training, which is done; another length would be of masks that are taken up.
    before = {file: file_digest(file) for file in made.rglob("checkpoint*.pth")}
    again = json.loads(shell.pclauto("continue", "--workspace", own_trained, *quick, "--json").stdout)
    assert Path(again["model"]) == made
    assert {file: file_digest(file) for file in made.rglob("checkpoint*.pth")} == before
    assert codes(shell.refusal("continue", "--workspace", own_trained, code=4)) == ["review.no-correction"]
    # The honest baseline, on the corrected case too.
    baseline = shell.train(
        "--split", told["split_file"], "--supervised-only", "--recipe", "tiny.toml",
        "--workspace", own_trained, "--prepare-only", "--json",
    )  # fmt: skip
    assert case in json.loads(baseline.stdout)["split"]["labeled"]
    folds = ("--split", told["split_file"], "--folds", "2", "--workspace", own_trained)
    assert codes(shell.refusal("train", *folds, code=2)) == ["split.folds-and-corrections"]


def test_reviews_are_not_mixed(shell: Shell, own_trained: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("one")
    ours = ("--workspace", own_trained, "--model", model.name)
    assert codes(shell.refusal("review", *ours, "-o", other, code=4)) == ["review.folder-taken"]
    assert codes(shell.refusal("review", *ours, "--cases", "nobody", code=2)) == ["review.no-pseudo-label"]
