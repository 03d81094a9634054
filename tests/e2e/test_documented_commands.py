"""Run every command that the pages and the help show, as it is shown. Hours of training stay dry runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from documents import COMMANDS_PAGE, PAGES, ROOT, block_commands
from pretrained_files import adaptation_plan, architecture, network, write_nnssl
from scanner import write_series
from shared import copy_of, make_coarse_phantom
from shell import Shell

from pcl_auto.cli.verbs import VERBS, load_verb

EXAMPLE = re.compile(r"^ *(pclauto .*)$", re.MULTILINE)
# Trainings of minutes to days are resolved to the last setting, and not started.
NOT_STARTED = {"train", "continue", "benchmark", "sweep"}
# The demo has a test of its own; what has no verb is for the shell.
NOT_HERE = {"demo", "--install-completion"}
# What a page may take for granted: the data set is planned, and a scan is segmented.
BEFORE = [["plan", "Task05_Prostate"], ["predict", "new_scan.nii.gz", "-o", "out/"]]
# The page of commands is made from the help, which the next test runs.
SHOWING = [page for page in PAGES if page != COMMANDS_PAGE and block_commands(page)]
pytestmark = pytest.mark.soak


@pytest.fixture
def user(tmp_path: Path) -> Shell:
    """Make a folder with the data sets and scans of the pages, phantoms all."""
    (tmp_path / "readme").mkdir()
    shell = Shell(tmp_path / "readme")
    for name in ("Task05_Prostate", "Task04_Hippocampus"):
        made = make_coarse_phantom(shell.folder, labeled=9, unlabeled=3, test=1)
        made.rename(shell.folder / name)
    shutil.copytree(ROOT / "benchmarks", shell.folder / "benchmarks")
    scan = next((shell.folder / "Task05_Prostate" / "imagesTs").iterdir())
    (shell.folder / "new_scan.nii.gz").write_bytes(scan.read_bytes())
    for channel, voxels in enumerate(np.asanyarray(nibabel.load(scan).dataobj).transpose(3, 2, 1, 0)):
        write_series(shell.folder / "study" / "anna" / f"_{channel:04d}", voxels)
    shutil.copytree(shell.folder / "study", shell.folder / "study_from_the_scanner")
    for name in ("Task05_Prostate", "Task04_Hippocampus"):
        shutil.copytree(shell.folder / name, shell.folder / "data" / name)
    make_plain_folders(shell.folder)
    shutil.copytree(shell.folder / "Task05_Prostate" / "labelsTs", shell.folder / "labelsTs")
    shutil.copytree(shell.folder / "Task05_Prostate" / "labelsTr", shell.folder / "their_masks")
    (shell.folder / "labelsTr").mkdir()
    for name in ("scan.nii.gz", "label.nii.gz", "labelsTr/case_01.nii.gz"):
        shutil.copyfile(next((shell.folder / "labelsTs").iterdir()), shell.folder / name)
    (shell.folder / "mine.toml").write_text((ROOT / "plans" / "quick.toml").read_text())
    (shell.folder / "small.toml").write_text((ROOT / "plans" / "demo.toml").read_text())
    (shell.folder / "tiny.toml").write_text((ROOT / "plans" / "demo.toml").read_text())
    of = architecture(features=(8, 8, 16))
    write_nnssl(shell.folder / "weights" / "ResEncL", network(of).state_dict(), adaptation_plan(of))
    cases = sorted(
        file.name.removesuffix(".nii.gz") for file in (shell.folder / "Task05_Prostate" / "labelsTr").iterdir()
    )
    (shell.folder / "split.json").write_text(json.dumps({"labeled": cases[:2], "unlabeled": cases[2:6]}))
    return shell


def make_plain_folders(folder: Path) -> None:
    """Make the folders of somebody who has no data set yet: scans; new scans and masks."""
    task = folder / "Task05_Prostate"
    (folder / "images").mkdir()
    for image in sorted((task / "imagesTr").iterdir()):
        volume = nibabel.load(image)
        first_channel = np.asanyarray(volume.dataobj)[..., 0]
        nibabel.save(nibabel.Nifti1Image(first_channel, volume.affine), folder / "images" / image.name)
    shutil.copytree(task / "imagesTs", folder / "new")
    shutil.copytree(task / "labelsTs", folder / "new_masks")


def draw_masks(folder: Path, classes: int) -> None:
    """Make masks of two of the scans in ``images``, with as many classes as the command names."""
    (folder / "masks").mkdir(exist_ok=True)
    for label in sorted((folder / "Task05_Prostate" / "labelsTr").iterdir())[:2]:
        volume = nibabel.load(label)
        voxels = np.minimum(np.asanyarray(volume.dataobj), classes).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(voxels, volume.affine), folder / "masks" / label.name)


@pytest.fixture
def work(user: Shell, trained: Path) -> Path:
    """Return a workspace with a trained run, to write in."""
    return copy_of(trained, user.folder / "trained")


def run_all(commands: list[list[str]], user: Shell, model: Path, work: Path) -> None:
    """Run ``commands`` one after the other; a run that is there stands for one that would take hours."""
    ours = ["--model", model.name, "--workspace", str(work)]
    for verb, *given in commands:
        rest = list(given)
        if verb in NOT_STARTED and "--dry-run" not in rest:
            rest.append("--dry-run")
        if "--gpus" in rest:  # there may be none
            del rest[rest.index("--gpus") : rest.index("--gpus") + 2]
        if verb == "init":
            draw_masks(user.folder, len(rest[rest.index("--labels") + 1].split(",")))
        if verb == "plan":
            rest += ["--gpu-memory-gb", "1"]
        if verb == "pretrain" and "--dry-run" not in rest:
            rest += ["--set", "pretraining.steps_per_epoch=1", *([] if "--epochs" in rest else ["--epochs", "2"])]
        if verb == "predict":
            rest = [argument for argument in rest if argument != "--supervised-only"] + ["--model", str(model)]
            if (user.folder / rest[rest.index("-o") + 1]).exists() and "--dry-run" not in rest:
                rest.append("--overwrite")
        if verb in {"report", "suggest", "review", "continue"}:
            rest += ours
        if verb == "continue":
            correct_one(work, user.folder)
        if verb == "evaluate":
            match_names(user.folder, rest[0])
            rest += [] if Path(rest[0]).suffix else ["--allow-missing"]
        user.pclauto(verb, *rest)


def match_names(folder: Path, masks: str) -> None:
    """Make a mask for the label that it is compared with."""
    made = folder / "out" / "new_scan.nii.gz"
    label = next((folder / "Task05_Prostate" / "labelsTs").iterdir())
    mask = folder / masks if Path(masks).suffix else folder / masks / label.name
    mask.write_bytes(made.read_bytes())
    (folder / "label.nii.gz").write_bytes(label.read_bytes())


def correct_one(work: Path, folder: Path) -> None:
    """Change a mask and save it under its name, as somebody does in an editor, in the review that was made last."""
    made = [*work.rglob("review.json"), *folder.glob("*/review.json")]
    review = max(made, key=lambda path: path.stat().st_mtime_ns).parent
    mask = min((review / "pseudo_labels").iterdir())
    image = nibabel.load(mask)
    voxels = np.zeros(image.shape, np.uint8)
    voxels[2:8, 3:9, 2:6], voxels[8:12, 3:9, 2:6] = 1, 2
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), review / "corrected" / mask.name)


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_commands_of_a_page_run_in_order(page: Path, user: Shell, model: Path, work: Path) -> None:
    commands = [command for command in block_commands(page) if command[0] not in NOT_HERE]
    run_all([*BEFORE, *commands], user, model, work)


def test_every_help_page_has_examples_and_they_run(user: Shell, model: Path, work: Path) -> None:
    pages = {name: load_verb(name).__doc__ for name in VERBS}
    examples = {name: [shlex.split(line)[1:] for line in EXAMPLE.findall(page or "")] for name, page in pages.items()}
    assert all(examples.values())
    del examples["demo"]  # the next test; it takes minutes
    # In the order in which they need one another.
    first, last = ["plan", "train", "predict", "review"], ["continue"]
    verbs = [*first, *(verb for verb in examples if verb not in first + last), *last]
    run_all([command for verb in verbs for command in examples[verb]], user, model, work)


def test_demo_goes_the_whole_way(shell: Shell) -> None:
    done = shell.pclauto("demo", "demo-folder")
    assert "nnU-Net alone" in done.stdout
    assert "mean Dice" in done.stdout
    assert (shell.folder / "demo-folder" / "scores.json").is_file()
