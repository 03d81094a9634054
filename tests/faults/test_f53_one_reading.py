"""F53 to F57: headers that readers take differently are read in one way by every command, or refused by all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from refusal import codes, refused
from refusals import accepted, image, label, refusal, small_task
from tiny_model import make_model, make_scan
from toys import patch
from typer.testing import CliRunner

from pcl_auto.cli.main import app
from pcl_auto.data.checks.check_dataset import diagnose
from pcl_auto.data.formats.repair import repair
from pcl_auto.errors import DataError
from pcl_auto.evaluation.metrics import evaluate
from pcl_auto.inference.predict import Prediction, predict
from pcl_auto.nnunet.data.images import read_image

PIXDIM, SCALING, CODES, QUATERN, SROW, INTENT = 76, 112, 252, 256, 280, 68
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("f53") / "model")


def segment(scans: Path, output: Path, model: Path) -> list[Prediction]:
    return predict([scans], output, model, device="cpu", mirroring=False, listener=lambda _event, _values: None)


def places(file: Path) -> tuple[list[float], list[float]]:
    """Return where ITK and nibabel place a volume; FSL takes the same fields as nibabel."""
    read = sitk.ReadImage(str(file))
    return [*read.GetOrigin(), *read.GetSpacing(), *read.GetDirection()], nib.load(file).affine.ravel().tolist()


def with_two_places(file: Path, code: int) -> Path:
    scan = nib.load(make_scan(file))
    scan.set_qform(AFFINE, 1)
    turned = AFFINE.copy()
    turned[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    turned[:3, 3] = 56
    scan.set_sform(turned, code)
    nib.save(scan, file)
    return file


def as_acdc(file: Path) -> None:
    """Give a file the header of ACDC: the spacing in pixdim and qform, a unit sform, half a turn about z."""
    patch(file, CODES, "<hh", 1, 1)
    patch(file, PIXDIM, "<4f", 1, 1.3158, 1.3158, 10)
    patch(file, QUATERN, "<6f", 0, 0, 1, 0, 0, 0)
    patch(file, SROW, "<12f", -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)


@pytest.mark.parametrize("code", [1, 2, 4])
def test_f53_a_mask_lies_on_a_scan_that_states_two_places(tmp_path: Path, model: Path, code: int) -> None:
    scan = with_two_places(tmp_path / "scans" / "a.nii.gz", code)
    (result,) = segment(tmp_path / "scans", tmp_path / "out", model)
    assert result.status == "done"
    assert places(tmp_path / "out" / "a.nii.gz") == places(scan)


def test_f53_a_label_of_either_place_is_scored(tmp_path: Path, model: Path) -> None:
    scan = with_two_places(tmp_path / "scans" / "a.nii.gz", 2)
    segment(tmp_path / "scans", tmp_path / "out", model)
    labels = tmp_path / "labels" / "a.nii.gz"
    labels.parent.mkdir()
    voxels = np.ones((10, 9, 8), np.uint8)
    for saved in (nib.Nifti1Image(voxels, nib.load(scan).affine), nib.Nifti1Image(voxels, AFFINE)):
        nib.save(saved, labels)
        assert len(evaluate(tmp_path / "out", labels.parent).cases) == 1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), labels)
    with refused(DataError, "score.other-position"):
        evaluate(tmp_path / "out", labels.parent)


def mirrored(file: Path, *, both: bool) -> None:
    """Store the voxels of ``file`` the other way along x and let the sform say so; ``both``: the qform too."""
    volume = nib.load(file)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = volume.shape[0] - 1
    turned = nib.Nifti1Image(np.asarray(volume.dataobj)[::-1], volume.affine @ flip)
    turned.set_qform(turned.affine if both else volume.affine, 1)
    turned.set_sform(turned.affine, 1)
    nib.save(turned, file)


@pytest.mark.parametrize("both", [True, False])
def test_f53_a_label_that_only_another_place_puts_on_its_scan_is_not_taken_mirrored(tmp_path: Path, both: bool) -> None:
    task = small_task(tmp_path / "task", test=0)
    truth = tmp_path / "truth" / label(task).name
    truth.parent.mkdir()
    shutil.copyfile(label(task), truth)
    mirrored(label(task), both=both)
    assert "label.other-axes" in codes(diagnose(task, threads=1).refused)
    with refused(DataError, "score.other-position"):
        evaluate(truth.parent, label(task).parent, allow_missing=True)
    straight = repair(label(task), tmp_path / "straight", like=image(task))
    read = [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (straight, truth)]
    np.testing.assert_array_equal(*read)


def test_f53_a_label_that_may_be_mirrored_is_not_repaired(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task", test=0)
    mirrored(label(task), both=False)
    file = nib.load(label(task))
    file.set_sform(file.affine + 3 * np.eye(4, k=3), 1)  # elsewhere, and along -x
    nib.save(file, label(task))
    assert "label.apart" in codes(diagnose(task, threads=1).refused)
    with refused(DataError, "repair.other-axes"):
        repair(label(task), tmp_path / "straight", like=image(task))
    assert repair(label(task), tmp_path / "straight", geometry="qform").is_file()


def test_f53_a_channel_that_only_another_place_puts_on_its_scan_is_refused(tmp_path: Path) -> None:
    files = [make_scan(tmp_path / name) for name in ("a_0000.nii.gz", "a_0001.nii.gz")]
    mirrored(files[1], both=False)
    with refused(DataError, "data.channel-grids"):
        read_image(files)


def test_f54_labels_that_itk_saved_on_scans_without_codes(tmp_path: Path, model: Path) -> None:
    task = small_task(tmp_path / "task", test=0)
    for file in [*task.glob("imagesTr/*.gz"), *task.glob("labelsTr/*.gz")]:
        patch(file, CODES, "<hh", 0, 0)
    for file in task.glob("labelsTr/*.gz"):
        sitk.WriteImage(sitk.ReadImage(str(file)), str(file))
    assert accepted(task)
    scan = patch(make_scan(tmp_path / "scans" / "a.nii.gz"), CODES, "<hh", 0, 0)
    (result,) = segment(tmp_path / "scans", tmp_path / "out", model)
    assert result.status == "done"
    assert places(tmp_path / "out" / "a.nii.gz") == places(scan)


@pytest.mark.parametrize(("slope", "intercept"), [(0, 1), (np.nan, 1), (np.inf, 1), (1, np.nan), (1e-20, 1)])
def test_f55_scaling_that_readers_take_differently(tmp_path: Path, model: Path, slope: float, intercept: float) -> None:
    task = small_task(tmp_path / "task", test=0)
    patch(label(task), SCALING, "<ff", slope, intercept)
    patch(image(task, 2), SCALING, "<ff", slope, intercept)
    problems = refusal(task)
    assert codes(problems) == ["nifti.scaling", "nifti.scaling"]
    assert {problem.where for problem in problems} == {str(label(task)), str(image(task, 2))}
    scan = make_scan(tmp_path / "scans" / "a.nii.gz")
    segment(tmp_path / "scans", tmp_path / "out", model)
    with refused(DataError, "nifti.scaling"):
        evaluate(tmp_path / "out" / "a.nii.gz", patch(scan, SCALING, "<ff", slope, intercept))
    (result,) = segment(tmp_path / "scans", tmp_path / "new", model)
    assert (result.status, result.exit_code, codes(result.problems)) == ("failed", 3, ["nifti.scaling"])


def test_f55_one_refused_scan_among_good_ones_gives_its_exit_code(tmp_path: Path, model: Path) -> None:
    make_scan(tmp_path / "scans" / "good.nii.gz")
    patch(make_scan(tmp_path / "scans" / "a.nii.gz"), SCALING, "<ff", 0, 1)
    arguments = ["predict", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "--model", str(model)]
    assert CliRunner().invoke(app, [*arguments, "--device", "cpu"]).exit_code == DataError.exit_code
    assert [file.name for file in (tmp_path / "out").glob("*.nii.gz")] == ["good.nii.gz"]


def test_f55_repair_writes_the_values_that_are_meant(tmp_path: Path, model: Path) -> None:
    scan = patch(make_scan(tmp_path / "scans" / "a.nii.gz"), SCALING, "<ff", 0, -1024)
    (result,) = segment(tmp_path / "scans", tmp_path / "out", model)
    command = result.problems[0].fix.partition(": ")[2].split(", or")[0].replace("FOLDER", str(tmp_path / "new"))
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0
    (result,) = segment(tmp_path / "new", tmp_path / "out", model)
    assert result.status == "done"
    np.testing.assert_array_equal(nib.load(tmp_path / "new" / "a.nii.gz").get_fdata(), nib.load(scan).get_fdata())


@pytest.mark.parametrize("intent", [1004, 1005, 1006])
def test_f55_an_intent_that_readers_take_differently(tmp_path: Path, model: Path, intent: int) -> None:
    task = small_task(tmp_path / "task", test=0)
    patch(label(task), INTENT, "<h", intent)
    patch(image(task, 2), INTENT, "<h", intent)
    problems = refusal(task)
    assert codes(problems) == ["nifti.intent", "nifti.intent"]
    assert {problem.where for problem in problems} == {str(label(task)), str(image(task, 2))}
    scan = patch(make_scan(tmp_path / "scans" / "a.nii.gz"), INTENT, "<h", intent)
    (result,) = segment(tmp_path / "scans", tmp_path / "out", model)
    assert (result.status, result.exit_code, codes(result.problems)) == ("failed", 3, ["nifti.intent"])
    command = result.problems[0].fix.partition(": ")[2].replace("FOLDER", str(tmp_path / "new"))
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0
    (result,) = segment(tmp_path / "new", tmp_path / "out", model)
    assert result.status == "done"
    np.testing.assert_array_equal(nib.load(tmp_path / "new" / "a.nii.gz").get_fdata(), nib.load(scan).get_fdata())


def test_f56_a_nifti_2_file_is_named_as_such_by_all(tmp_path: Path, model: Path) -> None:
    task = small_task(tmp_path / "task", test=1)
    for file in (image(task), *task.glob("imagesTs/*.gz")):
        volume = nib.load(file)
        nib.save(nib.Nifti2Image(np.asarray(volume.dataobj), volume.affine), file)
    assert codes(refusal(task)) == ["nifti.version-2"]
    diagnosis = diagnose(task, threads=1)
    assert (codes(diagnosis.refused), codes(diagnosis.warnings)) == (["nifti.version-2"], ["nifti.version-2"])
    scan = make_scan(tmp_path / "scans" / "a.nii.gz")
    nib.save(nib.Nifti2Image(np.asarray(nib.load(scan).dataobj), np.eye(4)), scan)
    (result,) = segment(tmp_path / "scans", tmp_path / "out", model)
    assert (result.exit_code, codes(result.problems)) == (3, ["nifti.version-2"])
    assert "pclauto repair" in result.problems[0].fix


def test_f57_scans_of_acdc_as_shipped_are_read_as_itk_reads_them(tmp_path: Path, model: Path) -> None:
    task = small_task(tmp_path / "task", test=0)
    for file in [*task.glob("imagesTr/*.gz"), *task.glob("labelsTr/*.gz")]:
        as_acdc(file)
    assert accepted(task)
    diagnosis = diagnose(task, threads=1)
    assert diagnosis.refused == ()
    assert "nifti.two-places" in codes(diagnosis.warnings)
    scan = make_scan(tmp_path / "scans" / "a.nii.gz")
    as_acdc(scan)
    (result,) = segment(tmp_path / "scans", tmp_path / "out", model)
    assert result.status == "done"
    assert places(tmp_path / "out" / "a.nii.gz") == places(scan)
    assert sitk.ReadImage(str(scan)).GetSpacing() == pytest.approx((1.3158, 1.3158, 10))
