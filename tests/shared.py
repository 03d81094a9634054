"""What several tests look at is made once for the whole run of tests, by whichever process asks first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from filelock import FileLock

from pcl_auto.data.phantom import make_phantom


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
