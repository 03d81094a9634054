"""F93 and F94: slices of several scans in one series, and DICOM values that readers take differently."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from scanner import INTERCEPT, STEP_MM, volume, write_series
from tiny_model import make_model

from pcl_auto.data.formats.dicom import Series, differ_in_frame
from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.inference.predict import predict

SAME_UID = "1.2.3.4.5"
OWN = {
    name: (f"1.2.{number}.1", f"1.2.{number}.2")
    for number, name in enumerate(("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"))
}


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    warnings.simplefilter("ignore")  # pydicom's, of what is written on purpose


def write_two(first: Path, second: Path, uid: str | None, tags: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Write six slices of one scan, and six that go on where they end: by their places alone they are one volume."""
    for part, folder in enumerate((first, second)):
        places = [(0, 0, STEP_MM * (6 * part + index)) for index in range(6)]
        names = f"1.2.{part}"  # of the files
        for file in write_series(folder, volume(part), positions_mm=places, uid=names, **tags[part]):
            header = pydicom.dcmread(file)
            if uid is None:
                del header.SeriesInstanceUID
            else:
                header.SeriesInstanceUID = uid
            header.save_as(file)
            file.rename(folder / f"{file.name}_{part}")


def two(*names: str, **same: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tags of two scans that differ in those of some names."""
    first = {"StudyInstanceUID": "1.9", "FrameOfReferenceUID": "1.8", **same}
    return first | {name: OWN[name][0] for name in names}, first | {name: OWN[name][1] for name in names}


def codes(folder: Path) -> dict[str, str]:
    return {scan.id: scan.problem.code if scan.problem else "" for scan in list_scans([folder], 1)}


def only(folder: Path) -> Scan:
    (scan,) = list_scans([folder], 1)
    return scan


# --- F93 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [None, "", SAME_UID])
def test_f93_two_patients_are_two_scans(tmp_path: Path, uid: str | None) -> None:
    write_two(tmp_path / "in" / "anna", tmp_path / "in" / "bert", uid, two(*OWN))
    scans = list_scans([tmp_path / "in"], 1)
    assert [(scan.id, scan.problem) for scan in scans] == [("anna", None), ("bert", None)]
    for number, scan in enumerate(scans):
        np.testing.assert_array_equal(read_volume(scan.files[0]).voxels[0], volume(number) + INTERCEPT)
    model = make_model(tmp_path / "model")
    results = predict(
        [tmp_path / "in"], tmp_path / "out", model, device="cpu", mirroring=False, listener=lambda _event, _values: None
    )
    assert [(result.id, result.status) for result in results] == [("anna", "done"), ("bert", "done")]


@pytest.mark.parametrize("uid", [None, "", SAME_UID])
@pytest.mark.parametrize("name", OWN)
def test_f93_whatever_differs_parts_the_scans_of_two_folders(tmp_path: Path, name: str, uid: str | None) -> None:
    write_two(tmp_path / "anna", tmp_path / "bert", uid, two(name))
    assert codes(tmp_path) == {"anna": "", "bert": ""}


@pytest.mark.parametrize("uid", [None, "", SAME_UID])
@pytest.mark.parametrize("name", OWN)
def test_f93_slices_of_two_scans_in_one_folder_are_refused_by_what_differs(
    tmp_path: Path, name: str, uid: str | None
) -> None:
    write_two(tmp_path / "both", tmp_path / "both", uid, two(name))
    problem = only(tmp_path).problem
    assert problem is not None
    assert problem.code == "dicom.mixed-series"
    assert problem.found.startswith(f"{name} differ")


def test_f93_a_bad_series_does_not_stop_its_namesakes(tmp_path: Path) -> None:
    write_two(tmp_path / "bad", tmp_path / "bad", SAME_UID, two("PatientID"))
    write_two(tmp_path / "anna", tmp_path / "bert", SAME_UID, two("FrameOfReferenceUID", PatientID="carl"))
    assert codes(tmp_path) == {"anna": "", "bad": "dicom.mixed-series", "bert": ""}


@pytest.mark.parametrize("study", [None, ""])
@pytest.mark.parametrize("uid", [None, "", SAME_UID])
def test_f93_without_uids_slices_of_two_folders_never_meet(tmp_path: Path, uid: str | None, study: str | None) -> None:
    nameless = {"PatientID": "", "PatientName": "", "FrameOfReferenceUID": "", "StudyInstanceUID": study}
    write_two(tmp_path / "anna", tmp_path / "bert", uid, (nameless, nameless))
    assert codes(tmp_path) == {"anna": "", "bert": ""}


@pytest.mark.parametrize("name", ["PatientID", "PatientName", "FrameOfReferenceUID", "StudyInstanceUID"])
def test_f93_channels_of_two_patients_are_refused(tmp_path: Path, name: str) -> None:
    for number, tags in enumerate(two(name)):
        write_series(tmp_path / "anna" / f"_{number:04d}", volume(number), uid=f"1.2.{number}", **tags)
    (scan,) = list_scans([tmp_path], 2)
    assert (scan.problem.code if scan.problem else "") == ("dicom.mixed-channels" if "Patient" in name else "")
    series = [source for source in scan.files if isinstance(source, Series)]
    assert differ_in_frame(series) == (name == "FrameOfReferenceUID")


def test_f93_a_scan_without_a_patient_is_read(tmp_path: Path) -> None:
    nameless: dict[str, Any] = {"PatientID": "", "PatientName": None, "FrameOfReferenceUID": ""}
    write_series(tmp_path / "anna", volume(), StudyInstanceUID="", **nameless)
    write_two(tmp_path / "bert" / "1", tmp_path / "bert" / "2", SAME_UID, two(**nameless))
    assert codes(tmp_path) == {"anna": "", "bert": ""}


def test_f93_two_numbers_of_series_without_uids_are_refused(tmp_path: Path) -> None:
    first, second = two()
    write_two(tmp_path / "both", tmp_path / "both", "", (first | {"SeriesNumber": 1}, second | {"SeriesNumber": 2}))
    assert codes(tmp_path) == {"both": "dicom.mixed-series"}


# --- F94 ------------------------------------------------------------------------------------------------------


def change(file: Path, changed: Callable[[Dataset], None], syntax: UID = ExplicitVRLittleEndian) -> None:
    header = pydicom.dcmread(file)
    changed(header)
    if syntax == ExplicitVRBigEndian:
        header.PixelData = np.frombuffer(header.PixelData, "<i2").astype(">i2").tobytes()
    header.file_meta.TransferSyntaxUID = syntax
    order = {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian}
    pydicom.dcmwrite(file, header, **order)


def _monochrome(header: Dataset) -> None:
    header.PhotometricInterpretation = "MONOCHROME1"


def _unknown(header: Dataset) -> None:
    header.PhotometricInterpretation = "MONO"


def _lut(header: Dataset) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [1001, 0, 16])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", np.arange(1001, dtype="<u2")[::-1].tobytes())
    header.ModalityLUTSequence = [item]
    del header.RescaleSlope, header.RescaleIntercept


def _lut_beside_a_slope(header: Dataset) -> None:
    _lut(header)
    header.RescaleSlope, header.RescaleIntercept = 1, 0


def _functional(header: Dataset) -> None:
    scale = Dataset()
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 5, 3, "US"
    group = Dataset()
    group.PixelValueTransformationSequence = [scale]
    header.SharedFunctionalGroupsSequence = [group]


def _high_bit(header: Dataset) -> None:
    header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 15, 0


OTHERWISE = {
    "MONOCHROME1": (_monochrome, "dicom.photometric"),
    "an unknown interpretation": (_unknown, "dicom.photometric"),
    "a lookup table": (_lut, "dicom.unsupported"),
    "a lookup table and a slope": (_lut_beside_a_slope, "dicom.unsupported"),
    "a scale of frames": (_functional, "dicom.unsupported"),
    "a shifted value": (_high_bit, "dicom.unsupported"),
}
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("which", ["every slice", "one slice"])
@pytest.mark.parametrize("how", OTHERWISE)
def test_f94_values_that_readers_take_differently_are_refused(
    tmp_path: Path, how: str, which: str, syntax: UID
) -> None:
    changed, expected = OTHERWISE[how]
    slices = write_series(tmp_path / "bad", volume())
    for file in slices if which == "every slice" else slices[3:4]:
        change(file, changed, syntax)
    write_series(tmp_path / "good", volume())
    assert codes(tmp_path) == {"bad": expected, "good": ""}


def test_f94_a_deflated_file_is_refused(tmp_path: Path) -> None:
    slices = write_series(tmp_path, volume())
    change(slices[2], lambda _header: None, DeflatedExplicitVRLittleEndian)
    assert codes(tmp_path).popitem()[1] in ("dicom.unsupported", "dicom.unreadable-slices")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored", [8, 12, 16])
@pytest.mark.parametrize("allocated", [8, 16])
def test_f94_values_are_those_of_the_standard(tmp_path: Path, stored: int, allocated: int, signed: bool) -> None:
    """Slope times stored value plus intercept, whatever the display, and whatever stands in the other bits."""
    if stored > allocated:
        return
    low = -(1 << stored - 1) if signed else 0
    values = np.random.default_rng(0).integers(low, low + (1 << stored), (6, 12, 10))
    for index, file in enumerate(write_series(tmp_path, volume())):
        header = pydicom.dcmread(file)
        bits = values[index] & ((1 << stored) - 1)
        if stored < allocated and index % 2:
            bits |= 1 << stored  # an overlay, as old scanners keep it there
        header.PixelData = bits.astype(f"<u{allocated // 8}").tobytes()
        header.BitsAllocated, header.BitsStored, header.HighBit = allocated, stored, stored - 1
        header.PixelRepresentation = int(signed)
        header.RescaleSlope, header.RescaleIntercept = (1, -1024) if index % 3 else (0.5, 12.25)
        header.WindowCenter, header.WindowWidth, header.PresentationLUTShape = 40, 400, "INVERSE"
        header.save_as(file)
    scan = only(tmp_path)
    assert scan.problem is None
    assert isinstance(scan.files[0], Series)
    expected = [plane * 1.0 - 1024 if index % 3 else plane * 0.5 + 12.25 for index, plane in enumerate(values)]
    np.testing.assert_array_equal(read_volume(scan.files[0]).voxels[0], expected)
