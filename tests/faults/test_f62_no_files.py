"""F62: pipes, devices and sockets in the place of a file are named, and never opened."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from refusals import image, label, refusal, small_task
from scanner import volume, write_series
from shell import Shell
from tiny_model import make_model, make_scan

from pcl_auto.benchmark.test_cases import HeldOut
from pcl_auto.data.formats.nifti import probe_image, probe_label
from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.data.phantom import PHANTOM_NAME, make_phantom
from pcl_auto.errors import PclautoError, UsageError
from pcl_auto.evaluation.metrics import evaluate
from pcl_auto.inference.predict import Outputs, predict
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.planning.planner import read_plans
from pcl_auto.recipe.load import load_recipe
from pcl_auto.training.corrected_masks import gzipped
from pcl_auto.training.request import _read_split_file
from pcl_auto.workspace.files import file_digest, read_json
from pcl_auto.workspace.lock import _lock_file, is_held

SECONDS = 120


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """End a test that waits for somebody to write into a pipe."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def bind(path: Path) -> None:
    """Leave a socket behind; its path must be short."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def test_f62_the_command_segments_the_scan_and_names_the_pipe(tmp_path: Path, shell: Shell) -> None:
    model = make_model(tmp_path / "model")
    make_scan(tmp_path / "scans/a.nii.gz")
    pipe(tmp_path / "scans/b.mha")
    for option in (("--dry-run",), ()):
        words = ["predict", tmp_path / "scans", "-o", tmp_path / "out", "--model", model, "--device", "cpu"]
        done = shell.pclauto(*words, "--no-quality", *option, code=3)
        assert "scans/b.mha" in done.stderr + done.stdout
    assert (tmp_path / "out/a.nii.gz").is_file()


def test_f62_every_scan_that_is_no_file_is_named(tmp_path: Path) -> None:
    scans, model = tmp_path / "scans", make_model(tmp_path / "model")
    make_scan(scans / "a.nii.gz")
    for name in ("b.mha", "c.nii.gz", "d.nii", "e"):
        pipe(scans / name)
    (scans / "g.nhdr").symlink_to("/dev/zero")
    bind(scans / "h.mhd")
    for given in ([scans], [*scans.glob("*")]):
        results = predict(
            given, tmp_path / "out", model, device="cpu", mirroring=False, outputs=Outputs(quality=False),
            listener=lambda _event, _values: None,
        )  # fmt: skip
        found = {each.id: each.problems[0].code if each.problems else each.status for each in results}
        sound = found.pop("a")
        assert sound in ("done", "kept")
        assert found == dict.fromkeys("bcdegh", "data.not-a-file")


def test_f62_a_pipe_among_the_slices_spoils_their_series(tmp_path: Path) -> None:
    write_series(tmp_path / "study", volume())
    assert codes_of(list_scans([tmp_path / "study"], 1)) == [None]
    pipe(tmp_path / "study/IM99.dcm")
    assert codes_of(list_scans([tmp_path / "study"], 1)) == ["dicom.unreadable-slices"]


def codes_of(scans: list[Scan]) -> list[str | None]:
    return [scan.problem.code if scan.problem else None for scan in scans]


@pytest.mark.parametrize("which", [image, label])
def test_f62_plan_names_a_pipe_in_a_data_set(tmp_path: Path, which: Callable[[Path], Path]) -> None:
    task = small_task(tmp_path)
    place = pipe(which(task))
    assert [(problem.code, problem.where) for problem in refusal(task)] == [("data.not-a-file", str(place))]


def test_f62_a_description_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    pipe(task / "dataset.json")
    assert [problem.code for problem in refusal(task)] == ["dataset-json.missing"]


def test_f62_masks_and_labels_that_are_pipes_are_named(tmp_path: Path) -> None:
    for wrong in ("masks", "labels"):
        folders = [tmp_path / wrong / name for name in ("masks", "labels")]
        for folder in folders:
            make_scan(folder / "a.nii.gz")
        place = pipe(tmp_path / wrong / wrong / "a.nii.gz")
        with pytest.raises(PclautoError) as caught:
            evaluate(*folders)
        assert {problem.where for problem in caught.value.problems} == {str(place)}


@pytest.mark.parametrize(
    "read",
    [
        read_json,
        file_digest,
        gzipped,
        read_checkpoint,
        _read_split_file,
        lambda file: load_recipe(str(file)),
        lambda file: read_plans(file, "Dataset001_A", {}),
        lambda file: HeldOut((Scan("a", (Path(__file__),)),), file.parent).digest(),
    ],
)
@pytest.mark.parametrize("place", ["a.nii", "link"])
def test_f62_what_a_user_names_is_a_file(tmp_path: Path, read: Callable[[Path], Any], place: str) -> None:
    file = pipe(tmp_path / "a.nii")
    if place == "link":
        (tmp_path / "link").symlink_to(file)
    with pytest.raises(PclautoError) as caught:
        read(tmp_path / place)
    assert all(problem.fix for problem in caught.value.problems)


def test_f62_probes_open_no_device() -> None:
    for problems in (probe_image(Path("/dev/zero"))[1], probe_label(Path("/dev/zero"), {0})[1]):
        assert [problem.code for problem in problems] == ["data.not-a-file"]


def test_f62_a_lock_or_a_description_that_is_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    pipe(_lock_file(tmp_path / "run"))
    assert is_held(tmp_path / "run") in (None, False)
    (tmp_path / PHANTOM_NAME).mkdir()
    pipe(tmp_path / PHANTOM_NAME / "dataset.json")
    with pytest.raises(UsageError) as caught:
        make_phantom(tmp_path)
    assert [problem.code for problem in caught.value.problems] == ["data.place-taken"]
