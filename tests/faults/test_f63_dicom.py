"""F63 to F65: series that lie nowhere or hold other voxels than they say, names from headers, and namesakes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import RLELossless
from scanner import volume, write_series
from tiny_model import make_model

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.dicom_pixels import claims_too_much
from pcl_auto.data.formats.grid import MAX_SPACING_MM
from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.inference.predict import Prediction, predict

POSITION, ORIENTATION, SPACING = "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"


def write_text(file: Path, keyword: str, text: str) -> None:
    """Write a value into a slice as it stands, which pydicom would refuse."""
    header = pydicom.dcmread(file)
    tag = Tag(pydicom.datadict.tag_for_keyword(keyword) or 0)
    value = text.encode("latin-1") + b" " * (len(text) % 2)
    header[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)
    header.save_as(file)


def only(folder: Path) -> Scan:
    (scan,) = list_scans([folder], 1)
    return scan


def code(folder: Path) -> str:
    """Return the code that the only scan of a folder is refused with, or nothing."""
    scan = only(folder)
    assert not scan.is_auxiliary
    return scan.problem.code if scan.problem else ""


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    warnings.simplefilter("ignore")  # pydicom's, of what is written on purpose


# --- F63 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["every slice", "one slice"])
@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        (ORIENTATION, "0\\0\\0\\0\\0\\0"),
        (ORIENTATION, "nan\\0\\0\\0\\1\\0"),
        (ORIENTATION, "inf\\0\\0\\0\\1\\0"),
        (ORIENTATION, "1\\0\\0\\1\\0\\0"),
        (ORIENTATION, "2\\0\\0\\0\\2\\0"),
        (ORIENTATION, "1\\0\\0\\0.05\\0.99875\\0"),
        (ORIENTATION, "1\\0\\0"),
        (ORIENTATION, "left"),
        (SPACING, "0\\0"),
        (SPACING, "-1\\-1"),
        (SPACING, "nan\\1"),
        (SPACING, "1e-30\\1"),
        (SPACING, "1e6\\1e6"),
        (SPACING, "1"),
        (POSITION, "nan\\0\\0"),
        (POSITION, "0\\inf\\0"),
        (POSITION, "1e30\\0\\0"),
        (POSITION, "0\\0"),
    ],
)
def test_f63_a_series_that_lies_nowhere_is_refused(tmp_path: Path, keyword: str, text: str, which: str) -> None:
    slices = write_series(tmp_path, volume())
    for file in slices if which == "every slice" else slices[3:4]:
        write_text(file, keyword, text)
    assert code(tmp_path) == "dicom.no-position"


def test_f63_axes_that_gdcm_replaces_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), orientation=(1, 0, 0, 0.0015, 0.999999, 0))
    assert code(tmp_path) == "dicom.read-otherwise"


def test_f63_rounded_axes_are_accepted_and_read_as_written(tmp_path: Path) -> None:
    orientation = (0.8003, 0.5997, 0, -0.5997, 0.8003, 0)
    write_series(tmp_path, volume(), orientation=orientation)
    scan = only(tmp_path)
    assert scan.problem is None
    assert isinstance(scan.files[0], Series)
    image = SimpleITK.ReadImage([str(file) for file in scan.files[0].files])
    axes = np.reshape(image.GetDirection(), (3, 3))[:, :2].T.ravel()
    np.testing.assert_allclose(axes, orientation, atol=1e-3)


@pytest.mark.parametrize(
    ("step_mm", "expected"),
    [(0, "dicom.duplicate-slices"), (1e-6, "dicom.duplicate-slices"), (1e4, "dicom.far-apart"),
     (1e5, "dicom.far-apart"), (MAX_SPACING_MM - 1, "")],
)  # fmt: skip
def test_f63_slices_in_one_place_and_slices_far_apart(tmp_path: Path, step_mm: float, expected: str) -> None:
    write_series(tmp_path, volume(), positions_mm=[(0, 0, step_mm * index) for index in range(6)])
    assert code(tmp_path) == expected


def test_f63_slices_are_never_stacked_by_their_names_or_numbers(tmp_path: Path) -> None:
    slices = write_series(tmp_path, volume())
    for file in slices[:2]:
        write_text(file, "InstanceNumber", "7")
    for file in slices[3:]:
        write_text(file, "InstanceNumber", "")
    shuffled = sorted(slices, key=lambda file: file.name[::-1])
    for number, file in enumerate(shuffled):
        file.rename(tmp_path / f"{number}.dcm")
    scan = only(tmp_path)
    assert scan.problem is None
    voxels = [pydicom.dcmread(file).pixel_array for file in scan.paths]
    np.testing.assert_array_equal(voxels, volume())


def _cut(file: Path, lost: int) -> None:
    file.write_bytes(file.read_bytes()[:-lost])


def _cut_after_the_header(file: Path) -> None:
    _cut(file, 12 * 10 * 2)


def _cut_compressed(file: Path) -> None:
    header = pydicom.dcmread(file)
    header.compress(RLELossless)
    header.save_as(file)
    _cut(file, 40)


def _change(**values: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        header = pydicom.dcmread(file)
        for keyword, value in values.items():
            setattr(header, keyword, value)
        header.save_as(file)

    return change


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "one byte is missing": (lambda file: _cut(file, 1), "dicom.unreadable-slices"),
    "half is missing": (lambda file: _cut(file, 120), "dicom.unreadable-slices"),
    "no voxels": (_cut_after_the_header, "dicom.unreadable-slices"),
    "compressed and cut": (_cut_compressed, "dicom.unreadable-slices"),
    "half of the voxels, well written": (_change(PixelData=bytes(120)), "dicom.voxel-count"),
    "twice the voxels": (_change(PixelData=bytes(480)), "dicom.voxel-count"),
    "an empty value": (_change(PixelData=b""), "dicom.voxel-count"),
    "8 bits": (_change(BitsAllocated=8, BitsStored=8, HighBit=7), "dicom.voxel-count"),
    "32 bits": (_change(BitsAllocated=32, BitsStored=32, HighBit=31), "dicom.voxel-count"),
    "three colors": (
        _change(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0), "dicom.voxel-count",
    ),
    "slope 0": (lambda file: write_text(file, "RescaleSlope", "0"), "dicom.rescale"),
    "slope NaN": (lambda file: write_text(file, "RescaleSlope", "nan"), "dicom.rescale"),
    "a word as slope": (lambda file: write_text(file, "RescaleSlope", "one"), "dicom.rescale"),
    "infinite intercept": (lambda file: write_text(file, "RescaleIntercept", "inf"), "dicom.rescale"),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_f63_a_slice_that_holds_other_voxels_than_it_says_is_refused(tmp_path: Path, how: str) -> None:
    slices = write_series(tmp_path, volume())
    damage, expected = DAMAGE[how]
    damage(slices[-1])
    assert code(tmp_path) == expected
    for file in slices[:2]:
        damage(file)
    assert all(scan.problem for scan in list_scans([tmp_path], 1))


def test_f63_a_value_that_claims_gigabytes_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    slices = write_series(tmp_path, volume())
    content = bytearray(slices[-1].read_bytes())
    place = content.rfind(b"\xe0\x7f\x10\0OW")
    content[place + 8 : place + 12] = b"\xf0\xff\xff\x7f"
    slices[-1].write_bytes(content)
    assert claims_too_much(slices[-1].read_bytes())
    assert not any(claims_too_much(file.read_bytes()) for file in slices[:-1])
    assert code(tmp_path) == "dicom.unreadable-slices"


@pytest.mark.parametrize("rows", [6, 24])
def test_f63_a_header_of_other_rows_than_the_voxels_is_refused(tmp_path: Path, rows: int) -> None:
    for file in write_series(tmp_path, volume()):
        _change(Rows=rows)(file)
    assert code(tmp_path) == "dicom.voxel-count"


def test_f63_compressed_slices_and_a_padded_end_are_accepted(tmp_path: Path) -> None:
    slices = write_series(tmp_path, volume())
    for file in slices[:3]:
        header = pydicom.dcmread(file)
        header.compress(RLELossless)
        header.save_as(file)
    header = pydicom.dcmread(slices[3])
    header.PixelData += b"\0\0"
    header.save_as(slices[3])
    assert code(tmp_path) == ""


def test_f63_a_localizer_among_other_slices_is_not_passed_over_with_them(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "a", volume())
    _change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(slices[0])
    assert code(tmp_path) == "dicom.mixed-series"
    for file in slices:
        _change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(file)
    write_series(tmp_path / "b", volume())
    assert [scan.is_auxiliary for scan in list_scans([tmp_path], 1)] == [True, False]


@pytest.mark.parametrize("content", [b"", b"no slice"])
def test_f63_an_empty_or_damaged_file_that_is_named_as_slices_is_one_of_them(tmp_path: Path, content: bytes) -> None:
    slices = write_series(tmp_path, volume())
    slices[0].write_bytes(content)
    (tmp_path / "README").write_bytes(b"no slice, by its name")
    scan, note = list_scans([tmp_path], 1)
    assert scan.problem is not None
    assert scan.problem.code == "dicom.unreadable-slices"
    assert note.problem is not None
    assert (note.problem.code, note.problem.found) == ("predict.passed-over", "README")


def test_f63_slices_without_a_preamble_are_read_among_others(tmp_path: Path) -> None:
    slices = write_series(tmp_path, volume())
    slices[0].write_bytes(slices[0].read_bytes()[132:])
    scan = only(tmp_path)
    assert scan.problem is None
    assert len(scan.paths) == len(slices)


# --- F64 ------------------------------------------------------------------------------------------------------

NAMES = ["a/etc/evil", "../../evil", "\x1b[31mred\nx", "x" * 300, "-rf", "...hidden", "~", "ü" * 300, "", " ", "A", "a"]


def segment(scans: Path, output: Path, model: Path) -> list[Prediction]:
    return predict([scans], output, model, device="cpu", mirroring=False, listener=lambda _event, _values: None)


def test_f64_names_from_headers_are_plain_file_names(tmp_path: Path) -> None:
    study, output, model = tmp_path / "study", tmp_path / "out", make_model(tmp_path / "model")
    # Alone in its folder a series is named after it, so these lie together.
    for index, name in enumerate(NAMES):
        slices = write_series(study, volume(index), uid=f"1.2.{index}.3")
        for file in slices:
            write_text(file, "SeriesInstanceUID", f"1.2.3.{name[:60]}".encode().decode("latin-1") if index % 2 else "")
            write_text(file, "SeriesDescription", name.encode().decode("latin-1"))
    results = segment(study, output, model)
    assert {result.status for result in results} <= {"done", "failed"}
    again = segment(study, output, model)
    assert [(result.id, result.output) for result in again] == [(result.id, result.output) for result in results]
    for result in results:
        assert result.id.isprintable()
        assert not set(result.id) & set("/\\\n\x1b ")
        assert not result.id.startswith((".", "-"))
        assert len(result.id.encode()) < 200
    # Nothing lies in a folder below, or beside the output folder.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "study"]
    assert all(path.is_file() for path in output.iterdir())


@pytest.mark.parametrize("text", NAMES)
def test_f64_any_uid_and_description(tmp_path: Path, text: str) -> None:
    for number in range(2):
        for file in write_series(tmp_path / "study", volume(number), uid=f"1.2.{number}.3"):
            write_text(file, "SeriesInstanceUID", f"1.2.{number}.{text.encode().decode('latin-1')[:60]}")
            write_text(file, "SeriesDescription", text.encode().decode("latin-1"))
    first, second = list_scans([tmp_path / "study"], 1)
    assert (first.problem, second.problem) == (None, None)
    assert first.id.lower() != second.id.lower()
    for scan in (first, second):
        assert scan.id == Path(scan.id).name
        assert scan.id.isprintable()
        assert not scan.id.startswith((".", "-"))
        assert len(scan.id.encode()) < 200
        assert str(scan.files[0]).isprintable()


def test_f64_names_do_not_depend_on_the_order(tmp_path: Path) -> None:
    def names(folder: Path) -> dict[str, str]:
        found = list_scans([folder], 1)
        return {scan.files[0].uid: scan.id for scan in found if isinstance(scan.files[0], Series)}

    for number in range(3):
        write_series(tmp_path / "study", volume(number), uid=f"1.2.{number}.99", SeriesDescription="T2")
    before = names(tmp_path / "study")
    assert len({name.lower() for name in before.values()}) == 3
    for number, file in enumerate(sorted((tmp_path / "study").iterdir(), reverse=True)):
        shutil.copy(file, tmp_path / f"{number:03d}")
        file.unlink()
    for file in tmp_path.glob("0*"):
        file.rename(tmp_path / "study" / file.name)
    assert names(tmp_path / "study") == before


@pytest.mark.parametrize("digits", ["\u0660\u0660\u0660\u0660", "\uff10\uff10\uff10\uff10", "0000\n", "000\u0660"])
def test_f64_digits_of_other_scripts_are_no_number_of_a_channel(tmp_path: Path, digits: str) -> None:
    (tmp_path / f"d_{digits}.nii.gz").write_bytes(b"voxels")
    assert only(tmp_path).id == f"d_{digits}"
    (tmp_path / "d_0000.nii.gz").write_bytes(b"voxels")
    assert {scan.id for scan in list_scans([tmp_path], 1)} == {f"d_{digits}", "d"}


@pytest.mark.parametrize("text", ["1_0", "\xb2", "1,5", "0x1", "1 0"])
def test_f63_a_slope_that_python_alone_takes_for_a_number_is_refused(tmp_path: Path, text: str) -> None:
    for file in write_series(tmp_path, volume()):
        write_text(file, "RescaleSlope", text)
    assert code(tmp_path) == "dicom.rescale"


# --- F65 ------------------------------------------------------------------------------------------------------


def test_f65_refused_namesakes_do_not_stop_a_good_scan(tmp_path: Path) -> None:
    study, model = tmp_path / "study", make_model(tmp_path / "model")
    write_series(study / "good", volume())
    for part in (3, 4):
        uid = f"1.2.826.0.1.3.{part}.20200101.5457"
        for file in write_series(study / "twice" / "first", volume(part), uid=uid):
            shutil.copy(file, study / "twice" / f"{file.name}_{part}")
            file.rename(study / "twice" / f"{file.name}_{part}_again")
    results = {result.id: result for result in segment(study, tmp_path / "out", model)}
    assert results.pop("good").status == "done"
    assert len(results) == 2
    for result in results.values():
        assert (result.status, result.exit_code) == ("failed", 3)
        assert [problem.code for problem in result.problems] == ["dicom.duplicate-slices"]


def test_f65_of_two_good_namesakes_neither_is_segmented_and_the_others_are(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    scans = tmp_path / "scans"
    for file in (scans / "x.nrrd", scans / "x.mha", scans / "y.mha"):
        file.parent.mkdir(exist_ok=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume().astype(np.float32)), str(file))
    results = segment(scans, tmp_path / "out", model)
    assert [(result.id, result.status, result.exit_code) for result in results] == [
        ("x", "failed", 3), ("x", "failed", 3), ("y", "done", 0),
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["y.nii.gz"]
