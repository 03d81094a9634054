"""Small data sets to damage, and the refusals of ``pclauto plan``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pcl_auto.data.checks.check_files import check_cases
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.phantom import make_phantom
from pcl_auto.errors import DataError, Problem
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.workspace.folders import Workspace


def small_task(folder: Path, labeled: int = 3, unlabeled: int = 1, test: int = 1) -> Path:
    """Write a phantom task of two channels."""
    return make_phantom(folder, seed=1, labeled=labeled, unlabeled=unlabeled, test=test)


def refusal(task: Path, **settings: Any) -> list[Problem]:
    """Return the problems that ``pclauto plan`` lists; it ends with code 3 and writes nothing."""
    work = task.parent / "work"
    with pytest.raises(DataError) as caught:
        plan_task(task, Workspace.at(work, "test"), PlanSettings(**settings), dry_run=True)
    assert caught.value.exit_code == 3
    assert not work.exists()
    assert all(problem.fix and problem.where for problem in caught.value.problems)
    return list(caught.value.problems)


def accepted(task: Path) -> bool:
    """Tell whether every file passes the probes; nothing is planned."""
    found, problems = read_task(task)
    return found is not None and not problems and not check_cases(found, threads=1).problems


def image(task: Path, number: int = 1) -> Path:
    """Return the image of a case."""
    return task / "imagesTr" / f"phantom_{number:03d}.nii.gz"


def label(task: Path, number: int = 1) -> Path:
    """Return the label of a case."""
    return task / "labelsTr" / f"phantom_{number:03d}.nii.gz"


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray], affine: Any = None, dtype: Any = None) -> None:
    """Let ``change`` make other voxels of a volume."""
    volume = nibabel.load(file)
    voxels = change(np.asanyarray(volume.dataobj).copy())
    new = nibabel.Nifti1Image(
        voxels if dtype is None else voxels.astype(dtype), volume.affine if affine is None else affine
    )
    nibabel.save(new, file)


def describe(task: Path, **changes: Any) -> None:
    """Change keys of dataset.json; None removes one."""
    file = task / "dataset.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
