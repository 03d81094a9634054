"""The main job on other kinds of data and settings: 2D, CT, validation cases."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from shared import PLAN_OPTIONS, make_coarse_phantom
from shell import Shell

pytestmark = pytest.mark.slow


@pytest.fixture
def fuller_task(tmp_path: Path) -> Path:
    """A phantom with three labeled, one unlabeled and one test volume."""
    return make_coarse_phantom(tmp_path, seed=5, labeled=3, unlabeled=1, test=1)


def run(shell: Shell, task: Path, workspace: Path, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Plan, train on two labels, predict; the training's JSON and its events."""
    shell.pclauto("plan", task, "--workspace", workspace, *PLAN_OPTIONS)
    done = shell.train("--workspace", workspace, "--labeled", "2", "--recipe", "tiny.toml", "--json", *options)
    trained = json.loads(done.stdout)
    shell.pclauto("predict", task / "imagesTs", "-o", workspace / "masks", "--workspace", workspace)
    lines = (Path(trained["model"]) / "fold_all" / "events.jsonl").read_text().splitlines()
    return trained, [json.loads(line) for line in lines]


def test_slices_instead_of_volumes(shell: Shell, fuller_task: Path, tmp_path: Path) -> None:
    trained, events = run(shell, fuller_task, tmp_path / "work", "--configuration", "2d")
    assert trained["configuration"] == "2d"
    joint = [event["losses"] for event in events if event["event"] == "epoch" and event["stage"] != "supervised"]
    assert joint
    assert all(losses["contrast"] > 0 for losses in joint)


def test_ct_takes_its_intensities_from_the_splits_own_labels(shell: Shell, fuller_task: Path, tmp_path: Path) -> None:
    description = fuller_task / "dataset.json"
    content = json.loads(description.read_text())
    content["modality"] = {"0": "CT", "1": "ADC"}
    description.write_text(json.dumps(content))
    workspace = tmp_path / "work"
    trained, _ = run(shell, fuller_task, workspace)
    data = workspace / "nnUNet_preprocessed" / "Dataset099_Phantom"
    assert len(list((data / "pclauto" / "store").iterdir())) == 1, "CT waits for a split"
    plans = json.loads((data / f"{trained['plans']}.json").read_text())
    assert plans["foreground_intensity_properties_per_channel"]["0"]["std"] > 1
    other = ("--labeled", "2", "--seed", "1", "--recipe", "tiny.toml", "--supervised-only", "--prepare-only")
    shell.train("--workspace", workspace, *other)
    assert len(list((data / "pclauto" / "store").iterdir())) == 2, "another split, other intensities, another store"


def test_validation_cases_choose_the_model(shell: Shell, fuller_task: Path, tmp_path: Path) -> None:
    trained, events = run(shell, fuller_task, tmp_path / "work", "--validation", "1")
    assert len(trained["split"]["validation"]) == 1
    assert not set(trained["split"]["validation"]) & {*trained["split"]["labeled"], *trained["split"]["unlabeled"]}
    assert [event["epoch"] for event in events if event["event"] == "best"], "no epoch was the best"
    content = torch.load(Path(trained["model"]) / "fold_all" / "checkpoint_final.pth", weights_only=True)
    for name, best in content["pclauto"]["best_weights"].items():
        assert torch.equal(content["network_weights"][name], best)


def test_a_round_may_leave_out_what_is_unlike_the_labeled_cases(shell: Shell, task: Path, tmp_path: Path) -> None:
    (shell.folder / "strict.toml").write_text(
        'extends = "tiny.toml"\n[contrast]\nrestart_head = true\nintensity_views = true\n'
        "[pseudo_label_filter]\ndrop_outside_range = true\nrange_margin = 1.0\nlargest_component = true\n"
        "min_agreement = 0.5\n"
        "[pseudo_labels]\ndice_weight = 0.5\nmatch_volumes = 1.0\n[mixing]\nmin_coverage = 1.0\n"
    )
    trained, events = run(shell, task, tmp_path / "work", "--recipe", "strict.toml")
    labels = Path(trained["model"]) / "fold_all" / "pseudo_labels"
    said = {event["round"]: event for event in events if event["event"] == "pseudo_labels"}
    for number in (1, 2):
        with (labels / f"round_{number}" / "ledger.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        assert said[number]["cases"] == len(rows) == 4
        assert all(0 <= float(row["agreement"]) <= 1 for row in rows)
        assert 1 <= said[number]["used"] <= 4
        rolled_back = rows[0]["remarks"] == "rolled back"
        assert sum(row["used"] == "1" for row in rows) == (0 if rolled_back else said[number]["used"])
        assert all("dropped" in row["remarks"] for row in rows if row["used"] == "0" and not rolled_back)
    for matched in (event for event in events if event["event"] == "volumes_matched"):
        file = labels / f"round_{matched['round']}" / "logit_shifts.json"
        assert json.loads(file.read_text()) == matched["logit_shifts"]
        named = json.loads((task / "dataset.json").read_text())["labels"]
        assert [*matched["logit_shifts"]] == [named[value] for value in named if int(value)]
        assert all(-2 <= shift <= 2 for shift in matched["logit_shifts"].values())
    assert [event["round"] for event in events if event["event"] == "volumes_matched"] == [1, 2]
    assert not [event for event in events if event["event"] == "copy_paste_off"], "a patch covers the phantom"
    assert len([event for event in events if event["event"] == "epoch"]) == 6


def test_shading_is_evened_out_in_training_and_prediction(shell: Shell, tmp_path: Path) -> None:
    # Few cases: a field takes seconds to fit.
    task = make_coarse_phantom(tmp_path, labeled=1, unlabeled=0, test=1)
    place = ("--workspace", tmp_path / "work")
    planned = shell.pclauto("plan", task, *place, *PLAN_OPTIONS, "--bias-correction", "--json")
    assert json.loads(planned.stdout)["bias_correction"] is True
    done = shell.train(*place, "--recipe", "tiny.toml", "--supervised-only", "--json")
    model = Path(json.loads(done.stdout)["model"])
    plans = json.loads((model / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["preprocessor_name"] == "BiasCorrectingPreprocessor"
    shell.pclauto("predict", task / "imagesTs", "-o", tmp_path / "masks", *place, "--supervised-only")
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 1
    # As it is known from the plan, another plan is another one.
    again = shell.pclauto("plan", task, *place, *PLAN_OPTIONS, "--json", "--dry-run")
    assert json.loads(again.stdout)["up_to_date"] is False


def test_patches_are_mirrored_along_the_axes_of_symmetry(shell: Shell, tmp_path: Path) -> None:
    (shell.folder / "symmetric.toml").write_text('extends = "tiny.toml"\n[augmentation]\nmirroring = "symmetric"\n')
    task = make_coarse_phantom(tmp_path, seed=3, labeled=2, unlabeled=8, test=1)
    for file in (task / "imagesTr").glob("*.nii.gz"):
        brighter_to_the_front(file)
    workspace = tmp_path / "work"
    options = ("--labeled", "2", "--recipe", "symmetric.toml", "--workspace", workspace, "--json")
    shell.pclauto("plan", task, "--workspace", workspace, *PLAN_OPTIONS)
    ours = shell.train(*options)
    baseline = shell.train(*options, "--supervised-only")
    assert re.search(r"mirroring +along (z|x|z and x|no axis) \(", ours.stderr)
    assert re.search(r"mirroring +along every axis, as stock nnU-Net; with rounds this recipe mirrors", baseline.stderr)
    trained = json.loads(ours.stdout)
    plans = workspace / "nnUNet_preprocessed" / "Dataset099_Phantom" / f"{trained['plans']}.json"
    axes = json.loads(plans.read_text())["configurations"]["3d_fullres"]["pclauto"]["mirror_axes"]
    assert 1 not in axes
    assert mirrored_in_prediction(trained) == axes
    assert mirrored_in_prediction(json.loads(baseline.stdout)) == [0, 1, 2]
    shell.pclauto("predict", task / "imagesTs", "-o", workspace / "masks", "--workspace", workspace)


def test_patches_are_not_mirrored_along_axes_in_which_classes_are_in_order(shell: Shell, tmp_path: Path) -> None:
    (shell.folder / "unordered.toml").write_text('extends = "tiny.toml"\n[augmentation]\nmirroring = "unordered"\n')
    task = make_coarse_phantom(tmp_path, seed=3, labeled=4, unlabeled=2, test=1)
    workspace = tmp_path / "work"
    options = ("--labeled", "2", "--recipe", "unordered.toml", "--workspace", workspace, "--json")
    shell.pclauto("plan", task, "--workspace", workspace, *PLAN_OPTIONS)
    dry = json.loads(shell.train(*options, "--dry-run").stdout)
    for file in (task / "labelsTr").glob("*.nii.gz"):  # of hidden cases the other way round: nobody may look
        halves_along_x(file, swapped=file.name[: -len(".nii.gz")] not in dry["split"]["labeled"])
    shell.pclauto("plan", task, "--workspace", workspace, *PLAN_OPTIONS)
    done = shell.train(*options)
    assert re.search(r"mirroring +along z and y \(distance between classes .*x [1-9]", done.stderr)
    assert mirrored_in_prediction(json.loads(done.stdout)) == [0, 1]


def halves_along_x(file: Path, *, swapped: bool) -> None:
    image = nib.load(file)
    foreground = np.asarray(image.dataobj) > 0
    right = np.arange(foreground.shape[0])[:, None, None] >= np.argwhere(foreground)[:, 0].mean()
    labels = np.where(right != swapped, 2, 1) * foreground
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), image.affine), file)


def brighter_to_the_front(file: Path) -> None:
    """Let the signal rise along y, as near a coil."""
    scan = nib.load(file)
    voxels = np.asarray(scan.dataobj)
    rising = np.linspace(0.2, 1.8, voxels.shape[1])[None, :, None, None]
    nib.save(nib.Nifti1Image((voxels * rising).astype(voxels.dtype), scan.affine, scan.header), file)


def mirrored_in_prediction(trained: dict[str, Any]) -> list[int]:
    """The axes that a model's predictions may be mirrored along."""
    content = torch.load(Path(trained["model"]) / "fold_all" / "checkpoint_final.pth", weights_only=True)
    return list(content["inference_allowed_mirroring_axes"] or ())
