"""F69: a label that changed after it was checked is checked again where it is used; hidden ones stay closed."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from refusal import refused
from refusals import label, rewrite, small_task
from shell import Shell, codes

from pcl_auto.errors import DataError, PclautoError, StateError
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.training.request import Run, TrainRequest, resolve_run
from pcl_auto.workspace.folders import Workspace

SETTINGS = PlanSettings(memory_gb=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned task of three labeled cases, in folders that are copied for every test."""
    folder = tmp_path_factory.mktemp("made")
    plan_task(small_task(folder), Workspace.at(folder / "work", "test"), SETTINGS)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, planned again where it is now."""
    shutil.copytree(made, tmp_path / "own", symlinks=True)
    plan_task(task_of(tmp_path / "own"), Workspace.at(tmp_path / "own" / "work", "test"), SETTINGS)
    return tmp_path / "own"


def task_of(folder: Path) -> Path:
    (found,) = folder.glob("Task*")
    return found


def resolve(folder: Path, **options: object) -> Run:
    request = {"labeled_cases": ("phantom_001", "phantom_002"), **options}
    return resolve_run(TrainRequest(**request), Workspace.at(folder / "work", "test"))  # type: ignore[arg-type]


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 6 // 10])


def undeclared(file: Path) -> None:
    rewrite(file, lambda voxels: np.where(voxels == 2, 7, voxels))


def shifted(file: Path) -> None:
    affine = nibabel.load(file).affine.copy()
    affine[0, 3] += 50
    rewrite(file, lambda voxels: voxels, affine)


def shorter(file: Path) -> None:
    rewrite(file, lambda voxels: voxels[..., 1:])


CHANGES: list[tuple[Callable[[Path], None], type[PclautoError], str]] = [
    (cut, DataError, "data.truncated"),
    (undeclared, DataError, "label.undeclared-values"),
    (shifted, DataError, "label.apart"),
    (shorter, DataError, "label.other-shape"),
    (Path.unlink, StateError, "plan.label-gone"),
]


@pytest.mark.parametrize(("change", "kind", "code"), CHANGES)
@pytest.mark.parametrize("group", ["labeled", "validation"])
def test_f69_a_label_that_is_no_longer_one(
    folder: Path, change: Callable[[Path], None], kind: type[PclautoError], code: str, group: str
) -> None:
    groups = {"validation": {"labeled_cases": ("phantom_002", "phantom_003"), "validation": 1}, "labeled": {}}
    changed = label(task_of(folder), 1)
    change(changed)
    with refused(kind, code) as refusal:
        resolve(folder, **groups[group])
    assert refusal.problem.where == str(changed)


def test_f69_size_and_time_are_not_enough(folder: Path) -> None:
    changed = label(task_of(folder), 1)
    before = changed.stat()
    values = np.asanyarray(nibabel.load(changed).dataobj)
    content = bytearray(gzip.decompress(changed.read_bytes()))
    content[-values.size :] = bytes(np.where(values == 2, 7, values).astype(np.uint8).tobytes(order="F"))
    for level in range(10):
        changed.write_bytes(gzip.compress(bytes(content), level))
        if changed.stat().st_size <= before.st_size:
            break
    # Behind a gzip stream zeros are let pass.
    changed.write_bytes(changed.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with refused(DataError, "label.undeclared-values"):
        resolve(folder)


def test_f69_a_sound_label_that_was_corrected_since_is_taken(folder: Path) -> None:
    before = resolve(folder).labels
    changed = label(task_of(folder), 1)
    times = changed.stat()
    rewrite(changed, lambda voxels: np.where(voxels == 2, 1, voxels))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = resolve(folder).labels
    assert [case for case in after if after[case] != before[case]] == ["phantom_001"]


def test_f69_a_label_that_became_a_link_out_of_the_data_set(folder: Path, tmp_path: Path) -> None:
    changed = label(task_of(folder), 1)
    shutil.copy(changed, tmp_path / "elsewhere.nii.gz")
    changed.unlink()
    changed.symlink_to(tmp_path / "elsewhere.nii.gz")
    with refused(DataError, "data.link-outside"):
        resolve(folder)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_f69_a_label_that_became_a_link_to_a_hidden_one(folder: Path, link: Callable[[Path, Path], None]) -> None:
    shown, hidden = (label(task_of(folder), number) for number in (1, 3))
    shown.unlink()
    link(hidden, shown)
    with refused(DataError, "split.label-is-hidden"):
        resolve(folder)


def test_f69_hidden_labels_stay_closed(folder: Path) -> None:
    label(task_of(folder), 3).write_bytes(b"nobody may look at this")
    assert resolve(folder).split.hidden == ("phantom_003",)


@pytest.mark.parametrize("options", [(), ("--prepare-only",), ("--restart",), ("--dry-run",), ("--folds", "2")])
def test_f69_train_ends_with_3_and_makes_nothing(shell: Shell, folder: Path, options: tuple[str, ...]) -> None:
    results = folder / "work" / "nnUNet_results"
    left = sorted(results.rglob("*"))
    changed = label(task_of(folder), 1)
    cut(changed)
    train = ("train", "--workspace", folder / "work", "--recipe", "tiny.toml", "--device", "cpu", *options)
    problems = shell.refusal(*train, code=3)
    assert codes(problems) == ["data.truncated"]
    assert sorted(results.rglob("*")) == left
