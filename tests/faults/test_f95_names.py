"""F95: names that are not UTF-8, as of old exports, odd names of data sets, and outputs with too long names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from headed_files import SHAPE, metaimage, nrrd
from refusal import refused
from refusals import small_task
from scanner import volume, write_series
from tiny_model import make_model, make_scan

from pcl_auto.data.checks.check_dataset import diagnose
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.formats.scans import list_scans
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import ResourceError, UsageError
from pcl_auto.evaluation.metrics import evaluate
from pcl_auto.inference.estimate import estimate_prediction
from pcl_auto.inference.predict import Outputs, Prediction, predict
from pcl_auto.planning.make_plan import dataset_folder, plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.workspace.folders import Workspace

# Müller in Latin-1, as Python has the name of such a file.
LATIN = os.fsdecode(b"M\xfcller")
VOXELS = np.random.default_rng(0).normal(100, 20, SHAPE[::-1]).astype("<i2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("f95") / "model")


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A folder of such a name, where the file system has them."""
    folder = tmp_path / LATIN
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no names that are not UTF-8")
    return folder


def detached_metaimage(file: Path) -> Path:
    (file.parent / "voxels").mkdir()
    (file.parent / "voxels" / "a.raw").write_bytes(VOXELS.tobytes())
    return metaimage(file.with_suffix(".mhd"), {"ElementDataFile": "voxels/a.raw"})


def detached_nrrd(file: Path) -> Path:
    (file.parent / "a.raw").write_bytes(VOXELS.tobytes())
    return nrrd(file.with_suffix(".nhdr"), {"data file": "a.raw"})


SCANS: dict[str, Callable[[Path], Path]] = {
    "mha": lambda file: metaimage(file.with_suffix(".mha"), data=VOXELS.tobytes()),
    "nrrd": lambda file: nrrd(file.with_suffix(".nrrd"), data=VOXELS.tobytes()),
    "mhd": detached_metaimage,
    "nhdr": detached_nrrd,
}


def segment(inputs: list[Path], out: Path, model: Path, **outputs: bool) -> dict[str, Prediction]:
    found = predict(
        inputs,
        out,
        model,
        device="cpu",
        mirroring=False,
        outputs=Outputs(quality=False, **outputs),
        listener=lambda _event, _values: None,
    )
    return {prediction.id: prediction for prediction in found}


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("folder_is_plain", [True, False])
def test_f95_a_scan_is_read_under_any_name(latin: Path, kind: str, *, folder_is_plain: bool) -> None:
    file = SCANS[kind]((latin.parent / LATIN) if folder_is_plain else (latin / "a"))
    np.testing.assert_array_equal(read_volume(file).voxels[0], VOXELS)


def test_f95_a_series_is_found_and_read_in_any_folder(latin: Path) -> None:
    voxels = volume()
    write_series(latin, voxels)
    (scan,) = list_scans([latin.parent], 1)
    assert scan.problem is None
    read = read_volume(scan.files[0]).voxels[0]
    write_series(latin.parent / "plain", voxels)
    (plain,) = list_scans([latin.parent / "plain"], 1)
    np.testing.assert_array_equal(read, read_volume(plain.files[0]).voxels[0])


def test_f95_scans_and_outputs_of_such_names(latin: Path, model: Path) -> None:
    scans, out = latin.parent / "scans", latin / "out"
    scans.mkdir()
    metaimage(scans / f"{LATIN}.mha", data=VOXELS.tobytes())
    metaimage(scans / "plain.mha", data=VOXELS.tobytes())
    make_scan(scans / f"{LATIN}2.nii.gz")
    found = segment([scans], out, model, keep_format=True, preview=True)
    assert {case: prediction.status for case, prediction in found.items()} == {
        LATIN: "done",
        f"{LATIN}2": "done",
        "plain": "done",
    }
    assert all(Path(each.output or "").is_file() and Path(each.preview or "").is_file() for each in found.values())
    mine, plain = (read_volume(out / f"{case}.mha") for case in (LATIN, "plain"))
    np.testing.assert_array_equal(mine.voxels, plain.voxels)
    assert mine.geometry == plain.geometry
    assert {each.status for each in segment([scans], out, model, keep_format=True).values()} == {"kept"}
    assert {each.scan.status for each in estimate_prediction([scans], latin / "new", model, Outputs())} == {"done"}
    copy = latin / f"{LATIN}.mha"
    shutil.copy(out / f"{LATIN}.mha", copy)
    assert evaluate(out / f"{LATIN}.mha", copy).cases


def test_f95_a_model_of_such_a_name_is_named_in_dicom(latin: Path, model: Path) -> None:
    pytest.importorskip("highdicom")
    write_series(latin / "series", volume())
    shutil.copytree(model, latin / LATIN)
    (made,) = segment([latin / "series"], latin / "out", latin / LATIN, dicom_seg=True).values()
    assert made.status == "done", made.error
    assert Path(made.dicom_seg or "").is_file()


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_f95_the_terminal_names_them(latin: Path, model: Path, locale: dict[str, str]) -> None:
    (latin / "empty.mha").touch()
    metaimage(latin / "a.mha", data=VOXELS.tobytes())
    options = ["-o", str(latin / "out"), "--model", str(model), "--device", "cpu", "--no-quality"]
    command = [os.fsencode(word) for word in (sys.executable, "-m", "pcl_auto", "predict", str(latin), *options)]
    ended = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, check=False, timeout=300)
    assert ended.returncode == 3, ended.stderr
    assert b"1 of 2 masks in" in ended.stderr
    assert b"M\\xdcfcller" in ended.stderr


def test_f95_a_workspace_that_is_not_utf8_is_refused_first(latin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(UsageError, "output.not-utf8"):
        Workspace.find(latin)
    monkeypatch.setenv("nnUNet_preprocessed", str(latin))
    monkeypatch.setenv("nnUNet_results", str(latin))
    with refused(UsageError, "output.not-utf8"):
        Workspace.find(None)
    # The default is refused where it is needed.
    monkeypatch.chdir(latin)
    workspace = Workspace.find(None, {})
    with refused(UsageError, "output.not-utf8"):
        plan_task(latin / "no data set", workspace, PlanSettings())
    assert not any(latin.iterdir())


def test_f95_no_place_for_links(latin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, plain = SCANS["mha"](latin / "a"), SCANS["mha"](latin.parent / "a")
    monkeypatch.setattr("tempfile.tempdir", str(latin))
    read_volume(plain)
    with refused(ResourceError, "disk.temporary-folder"):
        read_volume(scan)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Task05_Prostate (copy)", "Dataset005_Prostate_copy"),
        ("Task05_M\udcfcller, 'new' $1\u2026", "Dataset005_M_ller_new_1"),
        ("data\nset", "Dataset500_data_set"),
        ("($)", "Dataset500_data"),
        (f"Task05_{'x' * 240}", f"Dataset005_{'x' * 100}"),
        # As in earlier versions:
        ("Task05_My prostate.v2+-_", "Dataset005_My_prostate.v2+-_"),
        ("Task05_M\u00fcller", "Dataset005_M\u00fcller"),
        ("Task05_a  b", "Dataset005_a__b"),
    ],
)
def test_f95_the_name_of_a_data_set_is_made_plain(tmp_path: Path, folder: str, name: str) -> None:
    root = tmp_path / folder
    root.mkdir()
    small_task(tmp_path / "Task05_made").rename(root)
    task, problems = read_task(root)
    assert task is not None
    assert problems == []
    assert dataset_folder(task, Workspace.at(tmp_path / "work", "test"), None).name == name


def test_f95_what_check_accepts_plan_accepts(tmp_path: Path) -> None:
    root = small_task(tmp_path / "Task05_made").rename(tmp_path / f"Task05_{LATIN} (copy)")
    assert diagnose(root, threads=1).exit_code == 0
    outcome = plan_task(root, Workspace.at(tmp_path / "work", "test"), PlanSettings())
    assert outcome.data.name == "Dataset005_M_ller_copy"
    again = plan_task(root, Workspace.at(tmp_path / "work", "test"), PlanSettings())
    assert again.up_to_date


@pytest.mark.parametrize("outputs", [{}, {"preview": True, "keep_format": True}])
def test_f95_a_mask_whose_name_would_be_too_long(tmp_path: Path, model: Path, outputs: dict[str, bool]) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    long = "z" * (255 - len(".nrrd"))
    nrrd(scans / f"{long}.nrrd", data=VOXELS.tobytes())
    nrrd(scans / "good.nrrd", data=VOXELS.tobytes())
    found = segment([scans], tmp_path / "out", model, **outputs)
    assert found["good"].status == "done"
    if outputs:
        assert found[long].status == "done"
        return
    assert (found[long].exit_code, found[long].problems[0].code) == (5, "disk.name-too-long")
    estimates = {each.scan.id: each.scan for each in estimate_prediction([scans], tmp_path / "new", model, Outputs())}
    assert estimates[long].exit_code == 5
