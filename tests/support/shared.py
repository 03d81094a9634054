"""Make data sets and models that several tests read, once for the whole test run, under a file lock."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from filelock import FileLock
from shell import Shell

from pcl_auto.data.phantom import make_phantom

# Seconds of training in all, but every part of a run: a supervised epoch, two rounds.
TINY_RECIPE = """
description = "a few steps"
[schedule]
steps_per_epoch = 2
supervised_epochs = 2
rounds = 2
epochs_per_round = 2
[optimizer]
name = "adamw"
learning_rate = 2e-3
weight_decay = 1e-2
[batch]
patches = 4
[network]
width = 0.25
[contrast]
anchors = 4
mean_voxels = 64
[pseudo_labels]
mirroring = false
segmentation_weight = 0.5
[mixing]
copy_paste = true
[teacher]
ema_rounds = 0.5
[collapse_guard]
volume_margin = 0.0
"""
SUPPORT = Path(__file__).parent
PLAN_OPTIONS = ("--gpu-memory-gb", "1")


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return ``folder``, which ``make`` fills if no process of this run has done so yet.

    What failed half-way is made anew.
    """
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    """Copy a folder that was made for all, for a test that writes in it."""
    return Path(shutil.copytree(folder, target, symlinks=True))


def make_coarse_phantom(
    folder: Path, *, seed: int = 1, labeled: int = 2, unlabeled: int = 4, test: int = 2, shrink: int = 2
) -> Path:
    """Make the phantom task with every second voxel in plane: a quarter of the work for every step.

    Args:
        folder: gets the task.
        seed: of the anatomies.
        labeled: training cases with a label.
        unlabeled: training cases without one.
        test: test cases.
        shrink: takes every so-many-th voxel.
    """
    task = make_phantom(folder, seed=seed, labeled=labeled, unlabeled=unlabeled, test=test)
    for file in task.rglob("*.nii.gz"):
        volume = nibabel.load(file)
        affine = volume.affine.copy()
        affine[:, :2] *= shrink
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(volume.dataobj)[::shrink, ::shrink], affine), file)
    return task


def shell_in(folder: Path) -> Shell:
    """A user's shell in ``folder``, where the tiny recipe lies."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(TINY_RECIPE)
    return Shell(folder)


def model_of(workspace: Path) -> Path:
    """The one model of our trainer in a workspace."""
    (found,) = (workspace / "nnUNet_results").glob("Dataset*/nnUNetTrainerPCL__*")
    return found
