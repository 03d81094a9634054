"""F99, F100: test cases of a benchmark that cannot be scored, or that a training sees."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from refusal import codes
from refusals import rewrite

from pcl_auto.benchmark.check_test_cases import check_test_cases
from pcl_auto.benchmark.test_cases import HeldOut, find_held_out, hold_out
from pcl_auto.errors import DataError, Problem
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.workspace.folders import DatasetFolder, Workspace


@pytest.fixture
def data(planned_once: Path) -> DatasetFolder:
    return Workspace.at(planned_once, "test").planned()[0]


@pytest.fixture
def folder(task: Path, tmp_path: Path) -> Path:
    """Two test scans with their labels."""
    for kind in ("imagesTs", "labelsTs"):
        for file in sorted((task / kind).iterdir()):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / kind / file.name)
    return tmp_path


def first(folder: Path, kind: str = "labelsTs", index: int = 0) -> Path:
    return sorted((folder / kind).iterdir())[index]


def found_in(folder: Path, data: DatasetFolder) -> tuple[HeldOut, Plan]:
    plan = read_plan(data)
    held_out, problems = find_held_out(folder / "imagesTs", folder / "labelsTs", plan)
    assert problems == []
    assert held_out is not None
    return held_out, plan


def warned(folder: Path, data: DatasetFolder) -> list[Problem]:
    return check_test_cases(*found_in(folder, data), data)


def refusals(folder: Path, data: DatasetFolder) -> list[str]:
    with pytest.raises(DataError) as caught:
        warned(folder, data)
    assert all(problem.fix and problem.where for problem in caught.value.problems)
    return codes(caught.value.problems)


def shifted(file: Path) -> None:
    affine = np.asarray(nibabel.load(file).affine).copy()
    affine[0, 3] += 50
    rewrite(file, lambda voxels: voxels, affine)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda file: rewrite(file, lambda voxels: voxels * 3), "score.undeclared-values"),
        (lambda file: rewrite(file, lambda voxels: voxels * 0.5, dtype=np.float32), "score.not-whole"),
        (lambda file: rewrite(file, lambda voxels: voxels[1:]), "score.other-size"),
        (shifted, "score.other-position"),
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "data.truncated"),
    ],
)
def test_f99_labels_that_cannot_be_scored(
    folder: Path, data: DatasetFolder, change: Callable[[Path], None], code: str
) -> None:
    assert warned(folder, data) == []
    change(first(folder))
    assert refusals(folder, data) == [code]


@pytest.mark.parametrize(("value", "code"), [(0, "data.constant"), (np.nan, "benchmark.test-scan-not-finite")])
def test_f99_scans_that_cannot_be_segmented(folder: Path, data: DatasetFolder, value: float, code: str) -> None:
    scan = first(folder, "imagesTs")
    rewrite(scan, lambda voxels: np.full(voxels.shape, value, np.float32), dtype=np.float32)
    assert code in refusals(folder, data)


def test_f99_labels_in_other_formats_are_read_or_named(folder: Path, data: DatasetFolder) -> None:
    label = first(folder)
    other = label.with_name(label.name.replace(".nii.gz", ".nrrd"))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(label)), str(other))
    label.unlink()
    held_out, plan = found_in(folder, data)
    assert len(held_out.scans) == 2
    assert check_test_cases(held_out, plan, data) == []
    before = held_out.digest()
    other.rename(other.with_suffix(".mgz"))
    _, problems = find_held_out(folder / "imagesTs", folder / "labelsTs", plan)
    assert codes(problems) == ["benchmark.test-label-format"]
    assert before


def test_f99_labels_without_a_class_and_in_subfolders(folder: Path, data: DatasetFolder) -> None:
    rewrite(first(folder), lambda voxels: voxels * 0)
    (folder / "labelsTs" / "more").mkdir()
    assert codes(warned(folder, data)) == ["label.empty", "data.passed-over"]
    for file in (folder / "labelsTs").glob("*.gz"):
        rewrite(file, lambda voxels: voxels * 0)
    assert refusals(folder, data) == ["label.all-empty"]


def copied(source: Path, target: Path) -> None:
    shutil.copy(source, target)


def saved_anew(source: Path, target: Path) -> None:
    target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1))


@pytest.mark.parametrize("put", [copied, os.link, os.symlink, saved_anew])
@pytest.mark.parametrize("labeled", [True, False])
def test_f100_a_training_scan_among_the_test_scans(
    folder: Path, data: DatasetFolder, own_copy: Path, put: Callable[[Path, Path], None], *, labeled: bool
) -> None:
    content = read_plan(data).content
    # A link changes the times of the file that it leads to: not of one that other tests read at the same time.
    plan = Plan({**content, "task": {**content["task"], "root": str(own_copy)}})
    case = next(case for case in plan.cases.values() if (case.label is not None) is labeled)
    scan = first(folder, "imagesTs")
    scan.unlink()
    put(case.image, scan)
    held_out, problems = find_held_out(folder / "imagesTs", folder / "labelsTs", plan)
    assert held_out is not None
    with pytest.raises(DataError) as caught:
        check_test_cases(held_out, plan, data)
    assert "benchmark.test-scan-trained-on" in codes([*problems, *caught.value.problems])


def test_f100_one_label_or_scan_for_two_test_cases(folder: Path, data: DatasetFolder) -> None:
    one, two = (first(folder, "imagesTs", index) for index in (0, 1))
    shutil.copy(one, two)
    shutil.copy(first(folder), first(folder, index=1))
    assert codes(warned(folder, data)) == ["label.equal", "data.twins"]
    first(folder, index=1).unlink()
    os.link(first(folder), folder / "labelsTs" / two.name)
    assert refusals(folder, data) == ["label.of-two-cases"]


def test_f100_cases_of_the_pool_are_held_out_with_their_labels_closed(
    data: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_plan(data)
    held_out, problems = hold_out(plan, 1)
    assert problems == []
    assert held_out is not None
    monkeypatch.setattr("pcl_auto.benchmark.check_test_cases.check_label", None)
    assert check_test_cases(held_out, plan, data) == []
    tested = held_out.scans[0].id
    other = next(case for case in plan.cases if case != tested)
    plan.content["cases"][other]["digest"] = plan.cases[tested].digest
    with pytest.raises(DataError) as caught:
        check_test_cases(held_out, plan, data)
    assert codes(caught.value.problems) == ["benchmark.test-scan-trained-on"]
