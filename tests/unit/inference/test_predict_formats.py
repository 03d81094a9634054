"""Scans of every format through ``predict``: grids, volumes, pictures, DICOM SEG; the network is a threshold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from matplotlib.image import imread
from refusal import codes, refused
from scanner import INTERCEPT, SPACING_MM, STEP_MM, volume, write_series

from pcl_auto.data.formats.scans import list_scans
from pcl_auto.data.formats.volume import Source
from pcl_auto.errors import StateError, UsageError
from pcl_auto.inference import predict as module
from pcl_auto.inference.predict import Outputs, Prediction, predict
from pcl_auto.method.confidence import Reference
from pcl_auto.nnunet.data.images import Properties, read_image
from pcl_auto.workspace.output import visible

# A box of 3 x 5 x 5 voxels is brighter than this.
BRIGHT = 500
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


class ThresholdPredictor:
    def __init__(self, model: Path, device: Any, *, mirroring: bool) -> None:
        self.channels = CHANNELS[0]
        self.classes = {"box": (1, 2), "right half": (2,), "absent": (3,)}
        self.reference = Reference()

    def segment(
        self, files: Sequence[Source], *, confidence: bool
    ) -> tuple[np.ndarray, Properties, float | None, int, tuple[str, ...]]:
        image, properties = read_image(files)
        assert len(image) == self.channels
        mask = (image[-1] > BRIGHT).astype(np.uint8)
        mask[:, :, : mask.shape[2] // 2] *= 2
        return mask, properties, 0.9 if confidence else None, 1, ()


CHANNELS = [1]


@pytest.fixture(autouse=True)
def stub_network(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("pcl_auto.nnunet.inference.predictor")
    vars(stub)["ModelPredictor"] = ThresholdPredictor
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.setattr(module, "choose_device", str)
    monkeypatch.setattr(module, "prepare_environment", lambda: None)


@pytest.fixture
def two_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CHANNELS", [2])


def run(scans: Path, output: Path, **outputs: bool) -> list[Prediction]:
    model = output.parent / "model"
    model.mkdir(exist_ok=True)
    return predict([scans], output, model, outputs=Outputs(**outputs), listener=lambda _event, _values: None)


def geometry(image: SimpleITK.Image) -> list[float]:
    return [*image.GetSize()[:3], *image.GetSpacing()[:3], *image.GetOrigin()[:3], *direction(image)]


def direction(image: SimpleITK.Image) -> list[float]:
    axes = image.GetDimension()
    return [float(value) for value in np.reshape(image.GetDirection(), (axes, axes))[:3, :3].flatten()]


def make(file: Path, voxels: np.ndarray, *, vector: bool = False) -> SimpleITK.Image:
    """Write an oblique volume far from the origin; a fourth axis, the first in memory, holds channels."""
    image = SimpleITK.GetImageFromArray(voxels, isVector=vector)
    more = image.GetDimension() - 3
    image.SetSpacing([0.8, 0.7, 2.5, *[1] * more])
    image.SetOrigin([-123.456, 45.0625, 1003.1, *[0] * more])
    turned = np.eye(3 + more)
    turned[:3, :3] = np.reshape(OBLIQUE, (3, 3))
    image.SetDirection(turned.flatten())
    file.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(file))
    return SimpleITK.ReadImage(str(file))


@pytest.mark.parametrize("keep_format", [False, True])
@pytest.mark.parametrize(
    ("name", "like"),
    [("a.nii.gz", ".nii.gz"), ("a.nii", ".nii.gz"), ("a.nrrd", ".nrrd"), ("a.nhdr", ".nrrd"), ("a.mha", ".mha"),
     ("a.mhd", ".mha")],
)  # fmt: skip
def test_a_mask_lies_on_its_scan(tmp_path: Path, name: str, like: str, keep_format: bool) -> None:
    scan = make(tmp_path / "scans" / name, volume())
    (result,) = run(tmp_path / "scans", tmp_path / "out", keep_format=keep_format)
    assert result.output == str(tmp_path / "out" / ("a" + (like if keep_format else ".nii.gz")))
    mask = SimpleITK.ReadImage(result.output)
    # NIfTI holds float32, and its direction as quaternions.
    exact = keep_format and like != ".nii.gz"
    np.testing.assert_allclose(
        geometry(mask), geometry(scan), rtol=1e-12 if exact else 1e-6, atol=1e-12 if exact else 1e-6
    )
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask) > 0, volume() > BRIGHT)
    assert result.volumes_ml == {"box": 0.105, "right half": 0.063, "absent": 0.0}
    (kept,) = run(tmp_path / "scans", tmp_path / "out", keep_format=keep_format)
    assert (kept.status, kept.volumes_ml) == ("kept", result.volumes_ml)


def test_a_cut_mask_like_its_scan_is_made_again(tmp_path: Path) -> None:
    make(tmp_path / "scans" / "a.nrrd", volume())
    for expected in ("done", "done", "kept"):
        (result,) = run(tmp_path / "scans", tmp_path / "out", keep_format=True)
        assert result.status == expected
        if expected == "done" and not (tmp_path / "cut").exists():
            mask = Path(str(result.output))
            mask.write_bytes(mask.read_bytes()[:-5])
            (tmp_path / "cut").touch()


def test_two_masks_of_a_scan_in_two_formats_are_not_made(tmp_path: Path) -> None:
    make(tmp_path / "scans" / "a.nrrd", volume())
    run(tmp_path / "scans", tmp_path / "out")
    (result,) = run(tmp_path / "scans", tmp_path / "out", keep_format=True)
    assert result.status == "failed"
    assert result.exit_code == StateError.exit_code
    assert "another format" in str(result.error)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.usefixtures("two_channels")
def test_4d(tmp_path: Path, name: str) -> None:
    scan = make(tmp_path / "scans" / name, np.stack([volume(1) * 0, volume()]))
    (result,) = run(tmp_path / "scans", tmp_path / "out", keep_format=True)
    assert result.error is None
    mask = SimpleITK.ReadImage(str(result.output))
    assert mask.GetDimension() == 3
    np.testing.assert_allclose(geometry(mask), geometry(scan), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask) > 0, volume() > BRIGHT)


@pytest.mark.usefixtures("two_channels")
def test_4d_as_slicer_writes_it(tmp_path: Path) -> None:
    scan = make(tmp_path / "scans" / "a.nrrd", np.stack([volume(1) * 0, volume()], axis=-1), vector=True)
    assert (scan.GetDimension(), scan.GetNumberOfComponentsPerPixel()) == (3, 2)
    (result,) = run(tmp_path / "scans", tmp_path / "out", keep_format=True)
    mask = SimpleITK.ReadImage(str(result.output))
    assert geometry(mask) == pytest.approx(geometry(scan), rel=1e-12)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask) > 0, volume() > BRIGHT)


def test_a_dicom_series(tmp_path: Path) -> None:
    turned = (*OBLIQUE[0::3], *OBLIQUE[1::3])
    # One bad series and a scout among good ones.
    write_series(tmp_path / "study" / "anna", volume(), orientation=turned, RescaleSlope=2)
    write_series(tmp_path / "study" / "bert", volume(), positions_mm=[(0, index, 2 * index) for index in range(6)])
    write_series(tmp_path / "study" / "scout", volume()[:3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    results = {result.id: result for result in run(tmp_path / "study", tmp_path / "out", keep_format=True)}
    assert {case: result.status for case, result in results.items()} == {
        "anna": "done",
        "bert": "failed",
        "scout_3": "skipped",
    }
    assert "gantry tilt" in str(results["bert"].error)
    assert results["bert"].exit_code == 3
    mask = SimpleITK.ReadImage(str(results["anna"].output))
    np.testing.assert_allclose(geometry(mask), [10, 12, 6, *SPACING_MM, STEP_MM, 1.5, 2, 3, *OBLIQUE], atol=1e-6)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask) > 0, 2 * volume() + INTERCEPT > BRIGHT)


def test_every_slice_has_its_own_scale(tmp_path: Path) -> None:
    """As in PET: the first slice's whole numbers do not make whole numbers of the others."""
    written = write_series(tmp_path / "anna", volume())
    for index, file in enumerate(written):
        slice_ = pydicom.dcmread(file)
        slice_.RescaleSlope, slice_.RescaleIntercept = 1 + index / 4, 0
        slice_.save_as(file)
    scan = list_scans([tmp_path / "anna"], 1)[0]
    expected = volume() * (1 + np.arange(6)[:, None, None] / 4)
    np.testing.assert_array_equal(read_image(scan.files)[0][0], expected.astype(np.float32))


@pytest.mark.usefixtures("two_channels")
def test_series_as_channels(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "anna_0000", volume() * 0)
    write_series(tmp_path / "study" / "anna_0001", volume())
    write_series(tmp_path / "study" / "bert_0000", volume())
    write_series(tmp_path / "study" / "bert_0001", volume(), PixelSpacing=[0.5, 0.5])
    anna, bert = run(tmp_path / "study", tmp_path / "out")
    assert (anna.id, anna.status, bert.status) == ("anna", "done", "failed")
    assert "different grids" in str(bert.error)
    # Each series of the scanner has a frame of its own here.
    assert anna.quality is not None
    assert "channels are in different frames of reference" in anna.quality["reasons"]


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_what_is_cut_is_refused_in_words(tmp_path: Path, name: str) -> None:
    file = tmp_path / "scans" / name
    make(file, volume())
    cut = file.with_suffix(".raw") if file.suffix == ".mhd" else file
    cut.write_bytes(cut.read_bytes()[:-20])
    (result,) = run(tmp_path / "scans", tmp_path / "out")
    assert result.status == "failed"
    assert [(problem.code, problem.where) for problem in result.problems] == [("data.truncated", str(cut))]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_number_are_refused(tmp_path: Path, value: float) -> None:
    voxels = volume().astype(np.float32)
    voxels[2, 3, 4] = value
    make(tmp_path / "scans" / "a.nrrd", voxels)
    (result,) = run(tmp_path / "scans", tmp_path / "out")
    assert "NaN or infinite voxels" in str(result.error)


def test_a_flat_picture_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()[0]), str(tmp_path / "scans" / "a.nrrd"))
    (result,) = run(tmp_path / "scans", tmp_path / "out")
    assert "image is no volume" in str(result.error)


def test_masks_are_not_put_into_the_folder_that_is_searched(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "anna", volume())
    with refused(UsageError, "predict.masks-among-scans"):
        run(tmp_path / "study", tmp_path / "study")


def test_a_picture_shows_the_outline(tmp_path: Path) -> None:
    make(tmp_path / "scans" / "a.nrrd", volume())
    (result,) = run(tmp_path / "scans", tmp_path / "out", preview=True)
    pixels = imread(str(result.preview))[..., :3]
    assert pixels.shape[1] > 800
    # The image is gray, the outlines are not.
    assert (np.ptp(pixels, axis=2) > 0.3).sum() > 100
    picture = Path(str(result.preview))
    picture.unlink()
    (kept,) = run(tmp_path / "scans", tmp_path / "out", preview=True)
    assert (kept.status, picture.is_file()) == ("kept", True)


@pytest.mark.parametrize("why", ["overwrite", "cut"])
def test_a_picture_does_not_outlive_its_mask(tmp_path: Path, why: str) -> None:
    make(tmp_path / "scans" / "a.nrrd", volume())
    (result,) = run(tmp_path / "scans", tmp_path / "out", preview=True)
    if why == "cut":
        Path(str(result.output)).write_bytes(b"")
        run(tmp_path / "scans", tmp_path / "out")
    else:
        predict([tmp_path / "scans"], tmp_path / "out", tmp_path / "model", overwrite=True, listener=lambda *_: None)
    assert sorted(path.name for path in visible(tmp_path / "out")) == ["a.nii.gz", "predictions.json"]


def test_a_picture_of_nothing_found(tmp_path: Path) -> None:
    make(tmp_path / "scans" / "a.nrrd", volume() * 0)
    (result,) = run(tmp_path / "scans", tmp_path / "out", preview=True)
    assert Path(str(result.preview)).is_file()
    assert result.volumes_ml == {"box": 0.0, "right half": 0.0, "absent": 0.0}


def test_a_dicom_seg_beside_its_series(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "study" / "anna", volume())
    make(tmp_path / "study" / "bert.nrrd", volume())
    anna, bert = run(tmp_path / "study", tmp_path / "out", dicom_seg=True)
    assert (anna.dicom_seg, bert.dicom_seg) == (str(tmp_path / "out" / "anna.dcm"), None)
    found = highdicom.seg.segread(str(anna.dicom_seg))
    assert [found.get_segment_description(number).segment_label for number in found.segment_numbers] == [
        "box", "right half", "absent",
    ]  # fmt: skip
    assert str(found.PatientID) == "P1"
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in slices]
    voxels = found.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(anna.output)))
    np.testing.assert_array_equal(voxels[..., 0], mask > 0)
    np.testing.assert_array_equal(voxels[..., 1], mask == 2)
    assert not voxels[..., 2].any()


def test_a_dicom_seg_has_the_distance_of_the_slices(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "anna", volume(), SpacingBetweenSlices=10.0, SliceThickness=3)
    for file in slices:
        file.rename(file.with_suffix(".dcm")).write_bytes(file.with_suffix(".dcm").read_bytes()[132:])
    (result,) = run(tmp_path / "anna", tmp_path / "out", dicom_seg=True)
    measures = highdicom.seg.segread(str(result.dicom_seg)).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (STEP_MM, 3)


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "SOPClassUID", "StudyInstanceUID"])
@pytest.mark.parametrize("how", [delattr, lambda slice_, keyword: setattr(slice_, keyword, "")])
def test_a_series_without_identity_gets_its_mask_and_no_dicom_seg(
    tmp_path: Path, keyword: str, how: Callable[[pydicom.Dataset, str], None]
) -> None:
    for file in write_series(tmp_path / "anna", volume()):
        slice_ = pydicom.dcmread(file)
        how(slice_, keyword)
        slice_.save_as(file)
    (result,) = run(tmp_path / "anna", tmp_path / "out", dicom_seg=True)
    assert codes(result.problems) == ["dicom.no-segmentation"]
    assert result.error == str(result.problems[0])
    assert (result.status, result.output) == ("failed", str(tmp_path / "out" / "anna.nii.gz"))
    assert Path(str(result.output)).is_file()
