"""Folders for outputs: none that others read, and one writer each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.errors import LockedError, Problem, ResourceError, UsageError
from pcl_auto.workspace import output
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.output import contains, refuse_input_folder, same_file, sole_writer_in, visible


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set, a workspace with a plan and a model, and a review."""
    for file in (
        "Task01_A/dataset.json", "Task01_A/labelsTs/a.nii.gz", "Task01_A/imagesTs/a.nii.gz", "Task01_A/notes/x",
        "work/nnUNet_raw/Dataset001_A/dataset.json", "work/nnUNet_preprocessed/Dataset001_A/dataset.json",
        "work/nnUNet_results/Dataset001_A/model/plans.json", "work/nnUNet_results/Dataset001_A/model/dataset.json",
        "work/nnUNet_results/Dataset001_A/model/fold_all/run.json", "review/review.json", "review/corrected/a.nii.gz",
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


@pytest.mark.parametrize(
    "folder",
    [
        "Task01_A", "Task01_A/labelsTs", "Task01_A/labelsTs/", "Task01_A/labelsTs/masks", "Task01_A/LABELSTS",
        "Task01_A/labelsTr", "Task01_A/notes/../imagesTs", "work", "work/nnUNet_raw", "work/nnUNet_results",
        "work/nnUNet_preprocessed", "work/nnUNet_preprocessed/masks", "work/nnUNet_preprocessed/Dataset001_A/splits",
        "work/nnUNet_results/Dataset001_A/model", "work/nnUNet_results/Dataset001_A/model/fold_all/masks",
        "review", "review/corrected", "review/corrected/new",
    ],
)  # fmt: skip
def test_folders_that_others_read_are_no_place_for_outputs(
    root: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(root)
    (root / "link").symlink_to(root / folder)
    for path in (Path(folder), root / folder, root / "link", root / "link" / "."):
        with refused(UsageError, "output.input-folder") as refusal:
            refuse_input_folder(path)
        assert refusal.problem.where == str(path)


@pytest.mark.parametrize(
    "folder",
    [".", "out", "Task01_A/masks", "Task01_A/labelsTs_predicted", "work/masks", "work/nnUNet_raw/Dataset001_A/masks",
     "work/nnUNet_results/Dataset001_A/masks"],
)  # fmt: skip
def test_other_folders_are(root: Path, folder: str) -> None:
    refuse_input_folder(root / folder)


def test_a_file_is_no_folder(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    file = root / "Task01_A" / "notes" / "x"
    for path in (file, file / "masks", root / "loop", root / "loop" / "masks"):
        with refused(UsageError, "output.no-folder"):
            refuse_input_folder(path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_made() -> None:
    with refused(ResourceError, "disk.unwritable"), sole_writer_in(Path("/proc/pclauto/masks")):
        pass


def test_a_review_may_go_where_one_is(root: Path) -> None:
    refuse_input_folder(root / "review", review=True)
    with refused(UsageError, "output.input-folder"):
        refuse_input_folder(root / "review" / "corrected", review=True)


def test_data_sets_may_go_where_nnunet_looks_for_them(root: Path) -> None:
    for folder in ("work", "work/nnUNet_raw"):
        refuse_input_folder(root / folder, data=True)
    for folder in ("Task01_A", "work/nnUNet_preprocessed", "review/corrected"):
        with refused(UsageError, "output.input-folder"):
            refuse_input_folder(root / folder, data=True)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with sole_writer_in(tmp_path / "out"):
        with refused(LockedError, "lock.held") as refusal, sole_writer_in(tmp_path / "link"):
            pass
        assert refusal.problem.where == str(tmp_path / "link")
        assert refusal.problem.found.startswith(f"process {os.getpid()} on ")
    with sole_writer_in(tmp_path / "link"):
        assert visible(tmp_path / "out") == []


def test_without_locks_a_folder_is_held_against_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def lockless(folder: Path) -> Iterator[None]:
        if folder.is_relative_to(tmp_path / "drive"):
            raise ResourceError(Problem("disk.no-locks", "the file system has no locks", str(folder), "choose another"))
        with sole_writer(folder):
            yield

    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(output, "sole_writer", lockless)
    with sole_writer_in(tmp_path / "drive" / "out"):
        with refused(LockedError, "lock.held") as refusal, sole_writer_in(tmp_path / "drive" / ".." / "drive" / "out"):
            pass
        assert refusal.problem.where.endswith("out")
        with sole_writer_in(tmp_path / "drive" / "other"):
            pass
    (tmp_path / "temp" / f"pclauto-locks-{os.getuid()}").rename(tmp_path / "elsewhere")
    (tmp_path / "temp" / f"pclauto-locks-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with refused(ResourceError, "disk.no-locks"), sole_writer_in(tmp_path / "drive" / "out"):
        pass


def test_folders_are_the_same_by_whatever_names(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "link").symlink_to("scans")
    assert same_file(tmp_path / "scans", tmp_path / "link" / "..") is False
    assert same_file(tmp_path / "scans", tmp_path / "link")
    assert same_file(tmp_path / "none", tmp_path / "scans" / ".." / "none")
    assert contains(tmp_path / "link", tmp_path / "scans" / "out" / "masks")
    assert not contains(tmp_path / "scans", tmp_path / "link")
    assert not contains(tmp_path / "scans", tmp_path / "scans_2")
