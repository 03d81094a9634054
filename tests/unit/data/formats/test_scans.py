"""List the scans in files and folders; no voxel is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid
from refusal import refused
from scanner import SPACING_MM, STEP_MM, volume, write_series

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.errors import UsageError


def files(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"voxels")
    return [folder / name for name in names]


def scans(inputs: list[Path], channels: int = 1) -> dict[str, list[str]]:
    found = list_scans(inputs, channels)
    return {scan.id: [path.name for path in scan.paths] for scan in found if not scan.is_auxiliary}


# --- volumes in one file --------------------------------------------------------------------------------------


def test_all_missing_paths_are_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files(tmp_path / "notes", "readme.txt", "voxels.raw")
    with refused(UsageError, "data.no-such-path", "predict.no-scan") as refusal:
        list_scans([tmp_path / "a.nii", tmp_path / "empty", tmp_path / "notes", tmp_path / "b"], 1)
    assert [(problem.code, problem.where) for problem in refusal.problems] == [
        ("data.no-such-path", str(tmp_path / "a.nii")),
        ("predict.no-scan", str(tmp_path / "empty")),
        ("predict.no-scan", str(tmp_path / "notes")),
        ("data.no-such-path", str(tmp_path / "b")),
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("a/x.nii.gz", "b/x.nii.gz"),
        ("a/x.nii.gz", "a/x.nii"),
        ("a/x.nii.gz", "b/x.nrrd"),
        ("a/x_0000.nii.gz", "b/x.nii.gz"),
    ],
)
def test_two_scans_for_one_mask_are_refused_and_the_others_are_not(tmp_path: Path, names: tuple[str, str]) -> None:
    given = [files((tmp_path / name).parent, Path(name).name)[0] for name in ("c/other.nii.gz", *names)]
    other, *both = list_scans(given, 1)
    assert (other.id, other.problem) == ("other", None)
    for scan in both:
        assert scan.problem is not None
        assert (scan.id, scan.problem.code) == ("x", "predict.mask-twice")
        assert set(scan.problem.where.split(", ")) == {str(path) for path in given[1:]}


def test_a_scan_that_is_named_twice_is_one(tmp_path: Path) -> None:
    (file,) = files(tmp_path, "x.nii.gz")
    (tmp_path / "a").mkdir()
    (tmp_path / "link.nii.gz").symlink_to(file)
    assert scans([file, tmp_path, file, tmp_path / "a" / ".." / "x.nii.gz"]) == {
        "link": ["link.nii.gz"],
        "x": ["x.nii.gz"],
    }
    series = write_series(tmp_path / "anna", volume())
    assert [scan.id for scan in list_scans([tmp_path / "anna", tmp_path / "anna" / "."], 1)] == ["anna"]
    assert len(list_scans([*series, *series], 1)) == 1


def test_a_folder_of_every_format(tmp_path: Path) -> None:
    files(tmp_path, "b.nii", "a.nii.gz", "d.mha", "c.nrrd", "E.NII.GZ", "f.mhd", "f.raw", "g.nhdr", "notes.txt")
    assert list(scans([tmp_path])) == ["E", "a", "b", "c", "d", "f", "g"]


def test_hidden_files_are_no_scans(tmp_path: Path) -> None:
    files(tmp_path, ".hidden.nii.gz", "._scan.nii.gz", "scan.nii.gz")
    assert scans([tmp_path]) == {"scan": ["scan.nii.gz"]}


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    assert scans(files(tmp_path, "scan.gipl")) == {"scan.gipl": ["scan.gipl"]}


def test_channels_make_one_scan(tmp_path: Path) -> None:
    files(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nrrd", "c.nii.gz")
    assert scans([tmp_path], channels=2) == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nrrd"],
        "c": ["c.nii.gz"],
    }


def test_channels_that_are_not_all_there_are_scans_of_their_own(tmp_path: Path) -> None:
    files(tmp_path, "a_0000.nii.gz", "b_0001.nii.gz", "b_0002.nii.gz")
    assert list(scans([tmp_path], channels=2)) == ["a_0000", "b_0001", "b_0002"]


def test_channels_of_different_folders_do_not_meet(tmp_path: Path) -> None:
    given = [*files(tmp_path / "a", "x_0000.nii.gz"), *files(tmp_path / "b", "x_0001.nii.gz")]
    assert list(scans(given, channels=2)) == ["x_0000", "x_0001"]


def test_a_lone_first_channel_loses_its_number(tmp_path: Path) -> None:
    assert scans(files(tmp_path, "x_0000.nii.gz", "y.nii.gz")) == {"x": ["x_0000.nii.gz"], "y": ["y.nii.gz"]}


def test_numbered_scans_of_one_channel_keep_their_numbers(tmp_path: Path) -> None:
    *found, note = list_scans(files(tmp_path, "p_0000.nii.gz", "p_0001.nii.gz"), 1)
    assert [scan.id for scan in found] == ["p_0000", "p_0001"]
    assert note.is_auxiliary
    assert note.problem is not None
    assert (note.problem.code, note.problem.found) == ("predict.channels-apart", "p: _0000, …")
    many = files(tmp_path / "many", *(f"p_{number:04d}.nii.gz" for number in range(9)))
    gaps = files(tmp_path / "gaps", "p_0001.nii.gz", "q_0000.nii.gz", "q_0002.nii.gz")
    assert not any(scan.is_auxiliary for given in (many, gaps) for scan in list_scans(given, 1))


def test_channels_in_a_folder_per_case(tmp_path: Path) -> None:
    for case in ("anna", "bert"):
        files(tmp_path / case, "_0001.nrrd", "_0000.nii.gz", "other.nii.gz")
    assert scans([tmp_path], channels=2) == {case: ["_0000.nii.gz", "_0001.nrrd"] for case in ("anna", "bert")}


# --- DICOM ----------------------------------------------------------------------------------------------------


def only(folder: Path, channels: int = 1) -> Scan:
    (scan,) = list_scans([folder], channels)
    return scan


def refusal_of(folder: Path) -> tuple[str, str]:
    """Return the code of the refusal of a folder's only scan, and what was found; check that the scan is named."""
    scan = only(folder)
    assert scan.problem is not None
    assert not scan.is_auxiliary
    assert str(folder) in scan.problem.where
    return scan.problem.code, scan.problem.found


def test_slices_come_in_the_order_of_the_patient(tmp_path: Path) -> None:
    written = write_series(tmp_path / "anna", volume())
    scan = only(tmp_path / "anna")
    assert (scan.id, scan.problem, scan.paths) == ("anna", None, tuple(written))
    back = only(tmp_path / "anna")
    assert back == scan
    # The same slices, numbered from the other end.
    upside_down = write_series(tmp_path / "b", volume(), positions_mm=[(0, 0, -STEP_MM * index) for index in range(6)])
    assert only(tmp_path / "b").paths == tuple(reversed(upside_down))


def test_series_are_named_after_their_folders(tmp_path: Path) -> None:
    write_series(tmp_path / "study", volume())
    write_series(tmp_path / "study" / "anna" / "DICOM", volume())
    write_series(tmp_path / "study" / "bert" / "DICOM", volume())
    files(tmp_path / "study", "DICOMDIR.txt", "notes")
    *series, note = list_scans([tmp_path / "study"], 1)
    assert [scan.id for scan in series] == ["anna_DICOM", "bert_DICOM", "study"]
    assert note.problem is not None
    assert (note.is_auxiliary, note.problem.code) == (True, "predict.passed-over")
    assert note.problem.found == "DICOMDIR.txt, notes"


def test_several_series_of_a_folder_are_named_after_themselves(tmp_path: Path) -> None:
    for number, description in ((2, "T2 ax/\x1b[31m"), (3, "ADC"), (3, "ADC")):
        write_series(
            tmp_path, volume(), uid=f"1.2.{number}.{len(list(tmp_path.iterdir()))}",
            SeriesNumber=number, SeriesDescription=description,
        )  # fmt: skip
    assert [scan.id for scan in list_scans([tmp_path], 1)] == ["2_T2_ax_31m", "3_ADC_12", "3_ADC_6"]


def test_slices_by_name_are_a_series(tmp_path: Path) -> None:
    written = write_series(tmp_path / "anna", volume())
    (scan,) = list_scans(written, 1)
    assert (scan.id, scan.paths) == ("anna", tuple(written))


def test_a_series_over_several_folders_is_one(tmp_path: Path) -> None:
    uid = str(generate_uid())
    z = [(0, 0, STEP_MM * index) for index in range(6)]
    write_series(tmp_path / "s" / "1", volume()[:3], positions_mm=z[:3], uid=uid)
    write_series(tmp_path / "s" / "2", volume()[3:], positions_mm=z[3:], uid=uid)
    scan = only(tmp_path)
    assert (scan.id, len(scan.paths), scan.problem) == ("s", 6, None)


def test_gantry_tilt(tmp_path: Path) -> None:
    tilted = [(0, STEP_MM * index * np.tan(np.radians(12)), STEP_MM * index) for index in range(6)]
    write_series(tmp_path, volume(), positions_mm=tilted)
    assert refusal_of(tmp_path) == ("dicom.gantry-tilt", "12.0° off it")


def test_an_oblique_stack_is_not_tilted(tmp_path: Path) -> None:
    turn = np.radians(20)
    orientation = (np.cos(turn), np.sin(turn), 0, 0, 0, -1)
    write_series(tmp_path, volume(), orientation=orientation)
    assert only(tmp_path).problem is None


def test_positions_that_were_rounded_are_even(tmp_path: Path) -> None:
    write_series(
        tmp_path, volume(), positions_mm=[(0.01 * (index % 2), 0, round(1.33 * index, 1)) for index in range(6)]
    )
    assert only(tmp_path).problem is None


def test_missing_slices(tmp_path: Path) -> None:
    z = [0, 2.5, 5, 12.5, 15, 20]
    write_series(tmp_path, volume(), positions_mm=[(0, 0, place) for place in z])
    assert refusal_of(tmp_path) == ("dicom.missing-slices", "none between 5 and 12.5 mm")
    assert "(3)" in str(only(tmp_path).problem)


def test_uneven_slices(tmp_path: Path) -> None:
    z = [0, 2.5, 5, 7.5, 10.8, 13.3]
    write_series(tmp_path, volume(), positions_mm=[(0, 0, place) for place in z])
    assert refusal_of(tmp_path) == ("dicom.uneven-slices", "none between 7.5 and 10.8 mm")


def test_slices_that_drift(tmp_path: Path) -> None:
    """Steps of 2.6 mm, then of 2.4 mm: each is nearly even, and ITK would put the middle one elsewhere."""
    z = np.cumsum([0, *[2.6] * 15, *[2.4] * 15]).tolist()
    write_series(tmp_path, volume(shape=(31, 12, 10)), positions_mm=[(0, 0, place) for place in z])
    assert refusal_of(tmp_path) == ("dicom.uneven-slices", "slice 16 of 31 lies 1.5 mm off its place")


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    z = np.round(np.arange(31) * 2.467, 1).tolist()
    write_series(tmp_path, volume(shape=(31, 12, 10)), positions_mm=[(0, 0, place) for place in z])
    assert only(tmp_path).problem is None


@pytest.mark.parametrize(("z", "same"), [((0, 1, 2, 2, 3, 4), 1), ((0, 0, 1, 1, 2, 2), 3), ((0, 0, 0, 1, 1, 1), 4)])
def test_duplicate_slices(tmp_path: Path, z: tuple[float, ...], same: int) -> None:
    write_series(tmp_path, volume(), positions_mm=[(0, 0, place) for place in z])
    found = f"{same} slices in the place of another, 6 slices in all"
    assert refusal_of(tmp_path) == ("dicom.duplicate-slices", found)


def test_slices_of_mixed_orientation(tmp_path: Path) -> None:
    uid = str(generate_uid())
    write_series(tmp_path, volume()[:4], uid=uid)
    write_series(tmp_path / "more", volume()[:2], uid=uid, orientation=(1, 0, 0, 0, 0, -1))
    assert refusal_of(tmp_path) == ("dicom.mixed-orientation", "2 of 6 slices lie otherwise than the first")


@pytest.mark.parametrize("different", ["spacing", "size"])
def test_slices_of_mixed_grids(tmp_path: Path, different: str) -> None:
    uid = str(generate_uid())
    z = [(0, 0, STEP_MM * index) for index in range(6)]
    write_series(tmp_path, volume()[:4], uid=uid, positions_mm=z[:4])
    tags = {"PixelSpacing": [0.5, 0.5]} if different == "spacing" else {}
    rest = volume()[4:] if different == "spacing" else volume()[4:, :, :8]
    write_series(tmp_path / "more", rest, uid=uid, positions_mm=z[4:], **tags)
    found = "2 of 10 x 12, 0.5 x 0.5 mm" if different == "spacing" else "2 of 8 x 12, 0.8 x 0.7 mm"
    assert refusal_of(tmp_path) == ("dicom.mixed-grid", f"4 of 10 x 12, 0.8 x 0.7 mm | {found}")
    assert SPACING_MM == (0.8, 0.7)


def test_a_multi_frame_file(tmp_path: Path) -> None:
    voxels = volume()
    write_series(tmp_path, voxels[:1], NumberOfFrames=6, PixelData=voxels.astype("<i2").tobytes())
    assert refusal_of(tmp_path) == ("dicom.multi-frame", "6 frames")


def test_slices_without_a_place(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), ImagePositionPatient=None)
    assert refusal_of(tmp_path)[0] == "dicom.no-position"


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    written = write_series(tmp_path / "anna", volume())
    # The last one: the others look like a whole scan.
    written[5].write_bytes(written[5].read_bytes()[:-20])
    assert refusal_of(tmp_path / "anna") == ("dicom.unreadable-slices", f"1, the first {written[5].name}")
    for file in written:
        file.write_bytes(file.read_bytes()[:300])
    code, found = refusal_of(tmp_path / "anna")
    assert code == "dicom.unreadable"
    assert found.startswith("6, the first IM00")


def test_what_lies_beside_scans_is_named_and_left(tmp_path: Path) -> None:
    write_series(tmp_path / "anna", volume())
    write_series(tmp_path / "anna", volume()[:3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesNumber=1)
    write_series(tmp_path / "anna", volume()[:2], Modality="SEG", SeriesNumber=2)
    write_series(tmp_path / "anna", volume()[:1], SeriesNumber=9, SeriesDescription="screen")
    write_series(
        tmp_path / "anna", np.zeros((1, 4, 4)), SeriesNumber=7, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=bytes(48),
    )  # fmt: skip
    (tmp_path / "anna" / "report").write_bytes(
        bytes(128) + b"DICM\x02\x00\x02\x00UI\x1e\x00" + b"1.2.840.10008.5.1.4.1.1.88.22\0"
    )
    found = list_scans([tmp_path], 1)
    assert [scan.id for scan in found if not scan.is_auxiliary] == ["anna"]
    assert sorted(scan.problem.code for scan in found if scan.problem) == [
        "dicom.color-pictures",
        "dicom.derived",
        "dicom.localizer",
        "dicom.no-image",
        "dicom.single-slice",
    ]


def test_a_folder_of_scouts_alone_holds_nothing_to_segment(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with refused(UsageError, "dicom.localizer"):
        list_scans([tmp_path], 1)


def test_series_as_channels(tmp_path: Path) -> None:
    for channel in ("1", "0"):
        write_series(tmp_path / f"anna_000{channel}", volume())
        write_series(tmp_path / "bert" / f"_000{channel}", volume())
    files(tmp_path, "carl_0001.nii.gz")
    write_series(tmp_path / "carl_0000", volume())
    found = list_scans([tmp_path], 2)
    assert [scan.id for scan in found] == ["anna", "bert", "carl"]
    for scan in found[:2]:
        folders = [source.folder.name for source in scan.files if isinstance(source, Series)]
        assert [name[-4:] for name in folders] == ["0000", "0001"]
    assert [type(source) for source in found[2].files] != [Series, Series]


def test_a_bad_channel_spoils_its_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "anna_0000", volume())
    write_series(tmp_path / "anna_0001", volume(), positions_mm=[(0, index, 2 * index) for index in range(6)])
    (scan,) = list_scans([tmp_path], 2)
    assert scan.problem is not None
    assert scan.problem.code == "dicom.gantry-tilt"


def test_two_series_in_the_folder_of_a_channel_are_no_channel(tmp_path: Path) -> None:
    for folder in ("anna_0000", "anna_0001", "anna_0001"):
        write_series(tmp_path / folder, volume())
    assert len(list_scans([tmp_path], 2)) == 3
