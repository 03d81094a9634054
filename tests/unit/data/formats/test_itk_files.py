"""MetaImage and NRRD: read as ITK reads them, or refused before anything is taken for a voxel."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from headed_files import NRRD, VOXELS, Changes, metaimage, nrrd
from refusal import refused

from pcl_auto.data.formats.itk_files import data_files, read_by_itk, require_sound
from pcl_auto.errors import DataError

SUPPORT = Path(__file__).parents[3] / "support"
WRITE = {".mha": metaimage, ".nrrd": nrrd}
COMPRESSED: dict[str, Changes] = {".mha": {"CompressedData": "True"}, ".nrrd": {"encoding": "gzip"}}
GZIPPED = gzip.compress(VOXELS.tobytes(), mtime=0)
ZIPPED = zlib.compress(VOXELS.tobytes())
# Without directions.
PLAIN: Changes = {"space": None, "space origin": None, "space directions": None}
NO_LENGTHS = ("nan", "inf", "0", "-1", "1e-30", "1e30", "x")
TYPES = ["Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64"]


def voxels_of(file: Path) -> np.ndarray:
    array: np.ndarray = SimpleITK.GetArrayFromImage(read_by_itk(file))
    return array


def expected_voxels() -> np.ndarray:
    """The voxels (z, y, x) in plain loops."""
    array = np.zeros((6, 5, 4), np.int16)
    for index, value in enumerate(VOXELS):
        array[index // 20, index // 4 % 5, index % 4] = value
    return array


# --- what is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_what_itk_writes_is_read_in_every_type(tmp_path: Path, suffix: str, compress: bool) -> None:
    for index, name in enumerate(TYPES * 2):
        vector = index >= len(TYPES)
        kind = getattr(SimpleITK, f"sitk{'Vector' if vector else ''}{name}")
        image = SimpleITK.Image((3, 4, 5), kind, 2 if vector else 0)
        shape = (5, 4, 3, 2) if vector else (5, 4, 3)
        values = np.arange(np.prod(shape)).reshape(shape).astype(SimpleITK.GetArrayViewFromImage(image).dtype)
        image = SimpleITK.GetImageFromArray(values, isVector=vector)
        image.SetSpacing((0.1234567, 1, 2.5))
        image.SetOrigin((-101.3, 20.04, 1 / 3))
        turn = np.deg2rad(17.3)
        image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, -1))
        image.SetMetaData("0010|0010", "Doe^Jane = x: y")
        file = tmp_path / f"{name}{vector}{suffix}"
        SimpleITK.WriteImage(image, str(file), useCompression=compress)
        read = read_by_itk(file)
        assert np.array_equal(SimpleITK.GetArrayFromImage(read), values)
        assert np.allclose(read.GetSpacing(), image.GetSpacing())
        assert len(data_files(file)) == (suffix in (".mhd", ".nhdr"))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_a_4d_file_is_read(tmp_path: Path, suffix: str) -> None:
    values = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3)
    image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(volume) for volume in values])
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    assert np.array_equal(voxels_of(tmp_path / f"a{suffix}"), values)


@pytest.mark.parametrize(
    ("suffix", "changes", "data"),
    [
        (".mha", {}, None),
        (".mha", {"CompressedData": "True"}, None),
        (".mha", {"CompressedData": "True", "CompressedDataSize": str(len(GZIPPED))}, GZIPPED),
        (".mha", {"BinaryDataByteOrderMSB": "True"}, VOXELS.astype(">i2").tobytes()),
        (".mha", {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "1"}, VOXELS.astype(">i2").tobytes()),
        (".mha", {"TransformMatrix": None, "Orientation": "0 1 0 -1 0 0 0 0 1"}, None),
        (".mha", {"Offset": None, "Position": "5 -6 7.25"}, None),
        (".mha", {"ElementSpacing": None, "ElementSize": "0.5 1 2.5"}, None),
        (".mha", {"Comment": "", "AnatomicalOrientation": "RAI", "0028|1050": "40 = level"}, None),
        (".mha", {"ElementDataFile": "Local", "DistanceUnits": "mm"}, None),
        (".mha", {"AnatomicalOrientation": "???", "CenterOfRotation": "0 0 0", "ElementNBits": "16"}, None),
        (".mha", {"ElementMin": "0", "ElementMax": "5", "Modality": "MET_MOD_CT", "Color": "1 0 0 1"}, None),
        (".nrrd", {}, None),
        (".nrrd", {"encoding": "gzip"}, None),
        (".nrrd", {"encoding": "gzip", "byte skip": "3"}, gzip.compress(b"abc" + VOXELS.tobytes())),
        (".nrrd", {"endian": "big"}, VOXELS.astype(">i2").tobytes()),
        (".nrrd", {"line skip": "2", "byteskip": "1"}, b"one\ntwo\n." + VOXELS.tobytes()),
        (".nrrd", {"type": "INT16", "kinds": "space ??? none", "number": "7", "space units": '"mm" "mm" "mm"'}, None),
        (".nrrd", {"old min": "nan", "min": "0", "max": "5", "thicknesses": "1 2 9", "sample units": '"HU"'}, None),
        (".nrrd", {"centers": "cell cell node"}, None),
        (
            ".nrrd",
            {"space": "RAS", "space directions": "(0,-0.5,0) (1,0,0) (0,0,2.5)", "space origin": "(-5,6,7.25)"},
            None,
        ),
        (
            ".nrrd",
            {"space": "LAS", "space directions": "(0,-0.5,0) (-1,0,0) (0,0,2.5)", "space origin": "(5,6,7.25)"},
            None,
        ),
    ],
)
def test_a_header_by_hand_is_read(tmp_path: Path, suffix: str, changes: Changes, data: bytes | None) -> None:
    file = WRITE[suffix](tmp_path / f"a{suffix}", changes, data)
    if changes.get("ElementDataFile") == "Local":
        file.write_bytes(file.read_bytes() + VOXELS.tobytes())
    image = read_by_itk(file)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), expected_voxels())
    assert np.allclose(image.GetSpacing(), (0.5, 1, 2.5))
    assert np.allclose(image.GetOrigin(), (5, -6, 7.25))
    assert np.allclose(image.GetDirection(), (0, -1, 0, 1, 0, 0, 0, 0, 1))


def test_windows_ends_of_lines_are_read(tmp_path: Path) -> None:
    for name, write in (("a.mha", metaimage), ("a.nrrd", nrrd)):
        file = write(tmp_path / name)
        head, end, data = file.read_bytes().partition(b"LOCAL\n" if name == "a.mha" else b"\n\n")
        file.write_bytes((head + end).replace(b"\n", b"\r\n") + data)
        assert np.array_equal(voxels_of(file), expected_voxels())


@pytest.mark.parametrize("place", [0, 3])
def test_a_list_of_values_per_voxel_is_read_as_slicer_and_pynrrd_write_it(tmp_path: Path, place: int) -> None:
    vectors = NRRD["space directions"].split()
    vectors.insert(place, "none")
    kinds = ["domain"] * 3
    kinds.insert(place, "list")
    sizes = ["4", "5", "3"]
    sizes.insert(place, "2")
    changes: Changes = {"dimension": "4", "sizes": " ".join(sizes), "kinds": " ".join(kinds)}
    changes |= {"space directions": " ".join(vectors), "measurement frame": "(1,0,0) (0,1,0) (0,0,1)"}
    image = read_by_itk(nrrd(tmp_path / "a.nrrd", changes))
    assert (image.GetSize(), image.GetNumberOfComponentsPerPixel()) == ((4, 5, 3), 2)
    array = SimpleITK.GetArrayFromImage(image)  # (z, y, x, value)
    stored = VOXELS.reshape((3, 5, 4, 2)) if place == 0 else np.moveaxis(VOXELS.reshape((2, 3, 5, 4)), 0, -1)
    assert np.array_equal(array, stored)


def test_detached_voxels_are_read_and_listed(tmp_path: Path) -> None:
    raw, half = VOXELS.tobytes(), len(VOXELS.tobytes()) // 2
    contents = {"a.raw": raw, "b.raw.gz": GZIPPED, "c.zraw": ZIPPED, "h.raw": b"head" + raw, "one.raw": raw[:half]}
    contents |= {"two.raw": raw[half:], **{f"s{i:02d}.raw": raw[40 * i : 40 * i + 40] for i in range(6)}}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    slices = [f"s{i:02d}.raw" for i in range(6)]
    cases: list[tuple[str, Changes, tuple[str, ...], list[str]]] = [
        ("a.mhd", {"ElementDataFile": "a.raw"}, (), ["a.raw"]),
        ("h.mhd", {"ElementDataFile": "h.raw", "HeaderSize": "4"}, (), ["h.raw"]),
        ("i.mhd", {"ElementDataFile": "h.raw", "HeaderSize": "-1"}, (), ["h.raw"]),
        ("c.mhd", {"ElementDataFile": "c.zraw", "CompressedData": "True", "CompressedDataSize": None}, (), ["c.zraw"]),
        ("p.mhd", {"ElementDataFile": "s%02d.raw 0 5 1"}, (), slices),
        ("q.mhd", {"ElementDataFile": "s%02d.raw 0"}, (), slices),
        ("l.mhd", {"ElementDataFile": "LIST"}, tuple(slices), slices),
        ("m.mhd", {"ElementDataFile": "LIST 2D"}, tuple(slices), slices),
        ("a.nhdr", {"data file": "a.raw"}, (), ["a.raw"]),
        ("b.nhdr", {"data file": "b.raw.gz", "encoding": "gzip"}, (), ["b.raw.gz"]),
        ("h.nhdr", {"byte skip": "-1", "data file": "h.raw"}, (), ["h.raw"]),
        ("p.nhdr", {"data file": "s%02d.raw 0 5 1"}, (), slices),
        ("l.nhdr", {"data file": "LIST"}, tuple(slices), slices),
        ("t.nhdr", {"data file": "LIST 3"}, ("one.raw", "two.raw"), ["one.raw", "two.raw"]),
    ]
    for name, changes, more, used in cases:
        write = metaimage if name.endswith(".mhd") else nrrd
        file = write(tmp_path / name, changes, None, *more)
        assert data_files(file) == tuple(tmp_path / each for each in used), name
        assert np.array_equal(voxels_of(file), expected_voxels()), name


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"NDims": "three"}, "header.field"),
        ({"NDims": None}, "header.field"),
        ({"NDims": "11"}, "header.field"),
        ({"DimSize": "4 5"}, "header.field"),
        ({"DimSize": "4 5 6 7"}, "header.field"),
        ({"DimSize": "4 5 -6"}, "header.field"),
        ({"DimSize": "4 5 0"}, "header.field"),
        ({"DimSize": "4 5 6.5"}, "header.field"),
        ({"dimsize": "1 1 1"}, "header.field"),
        ({"ElementType": "MET_FOO"}, "header.field"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "header.field"),
        ({"ElementNumberOfChannels": "0"}, "header.field"),
        ({"BinaryDataByteOrderMSB": "maybe"}, "header.field"),
        ({"ElementByteOrderMSB": "True"}, "header.field"),
        ({"Orientation": "1 0 0 0 1 0 0 0 1"}, "header.field"),
        ({"Position": "1 2 3"}, "header.field"),
        ({"a line without a sign\nNDims": "3"}, "header.field"),
        ({"BinaryData": "False"}, "header.unsupported"),
        ({"DistanceUnits": "cm"}, "header.unsupported"),
        ({"ElementToIntensityFunctionSlope": "2"}, "header.unsupported"),
        ({"ElementToIntensityFunctionOffset": "nan"}, "header.unsupported"),
        ({"HeaderSize": "4"}, "header.unsupported"),
        ({"HeaderSizesPerDataFile": "4"}, "header.unsupported"),
        ({"ElementNBits": "12"}, "header.unsupported"),
        ({"CenterOfRotation": "5 5 5"}, "header.unsupported"),
        ({"CenterOfRotation": "nan 0 0"}, "header.unsupported"),
        ({"CenterOfRotation": "0 0"}, "header.field"),
        ({"AnatomicalOrientation": "LPI", "TransformMatrix": None}, "header.unsupported"),
        ({"HeaderSize": "-2"}, "header.field"),
        *(({"ElementSpacing": f"{bad} 1 2"}, "header.spacing") for bad in NO_LENGTHS),
        ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "header.orientation"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, "header.orientation"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "header.orientation"),
        ({"TransformMatrix": "1 0 0 0.5 0.866 0 0 0 1"}, "header.orientation"),
        ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "header.orientation"),
        ({"Offset": "nan 0 0"}, "header.origin"),
        ({"Offset": "1e400 0 0"}, "header.origin"),
        ({"DimSize": "4 5 7"}, "data.truncated"),
        ({"DimSize": "30000 30000 30000"}, "data.truncated"),
        ({"DimSize": "999999999999999999 999999999999999999 9"}, "data.truncated"),
        ({"DimSize": "4 5 5"}, "header.trailing-data"),
        ({"CompressedData": "True", "DimSize": "4 5 5"}, "header.other-length"),
        ({"CompressedData": "True", "DimSize": "4 5 7"}, "header.other-length"),
        ({"CompressedData": "True", "DimSize": "30000 30000 30000"}, "data.truncated"),
        ({"CompressedData": "True", "CompressedDataSize": "9999"}, "data.truncated"),
        ({"CompressedData": "True", "CompressedDataSize": "20"}, "data.truncated"),
        ({"CompressedData": "True", "CompressedDataSize": None}, "header.field"),
    ],
)  # fmt: skip
def test_a_metaimage_that_makes_no_sense_is_refused(tmp_path: Path, changes: Changes, code: str) -> None:
    with refused(DataError, code):
        read_by_itk(metaimage(tmp_path / "a.mha", changes))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dimension": "4"}, "header.field"),
        ({"dimension": "99"}, "header.field"),
        ({"sizes": "4 5 x"}, "header.field"),
        ({"sizes": "4 5 0"}, "header.field"),
        ({"SIZES": "4 5 6"}, "header.field"),
        ({"shape": "4 5 6"}, "header.field"),
        ({"type": "block"}, "header.field"),
        ({"type": None}, "header.field"),
        ({"endian": None}, "header.field"),
        ({"endian": "middle"}, "header.field"),
        ({"kinds": "domain domain"}, "header.field"),
        ({"kinds": "list list list"}, "header.field"),
        ({"content": "a\rtype: float"}, "header.field"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "header.field"),
        ({"space directions": "(1,0) (0,1) (0,0)"}, "header.field"),
        ({"space directions": "(1,0,0) (0,1,0) 3"}, "header.field"),
        ({"encoding": "ascii"}, "header.unsupported"),
        ({"encoding": "hex"}, "header.unsupported"),
        ({"encoding": "bzip2"}, "header.unsupported"),
        ({"encoding": None}, "header.unsupported"),
        ({"space units": '"m" "m" "m"'}, "header.unsupported"),
        ({"space units": '"mm" "mm" "10mm"'}, "header.unsupported"),
        ({"space units": '"pixel" "pixel" "mm"'}, "header.unsupported"),
        ({**PLAIN, "spacings": "1 1 1", "units": '"mm" "cm" "mm"'}, "header.unsupported"),
        ({"old min": "-1024"}, "header.unsupported"),
        ({"oldmax": "3071"}, "header.unsupported"),
        ({**PLAIN, "axis mins": "10 20 30", "axis maxs": "12 26 42"}, "header.unsupported"),
        ({**PLAIN, "axis mins": "10 20 30"}, "header.unsupported"),
        ({**PLAIN, "axismaxs": "12 26 42"}, "header.unsupported"),
        ({**PLAIN, "spacings": "1 1 1", "axis mins": "10 20 30", "axis maxs": "12 26 42"}, "header.unsupported"),
        ({"byte skip": "-1"}, "header.unsupported"),
        ({"line skip": "1000000"}, "header.unsupported"),
        ({"byte skip": "-2"}, "header.field"),
        ({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "header.spacing"),
        ({"space directions": "(nan,nan,nan) (0,1,0) (0,0,1)"}, "header.spacing"),
        ({"space directions": "none (0,1,0) (0,0,1)"}, "header.spacing"),
        ({"space directions": "(0,0,0) (0,1,0) (0,0,1)"}, "header.spacing"),
        ({"space directions": "(1e300,0,0) (0,1,0) (0,0,1)"}, "header.spacing"),
        ({"space directions": "(1,0,0) (1,0,0) (0,0,1)"}, "header.orientation"),
        ({"space directions": "(1,0,0) (1,1,0) (0,0,1)"}, "header.orientation"),
        ({"space origin": "(nan,nan,nan)"}, "header.origin"),
        ({"space origin": "none"}, "header.origin"),
        ({"space": None, "space origin": None, "space directions": None, "spacings": "nan 1 1"}, "header.spacing"),
        ({"space": None, "space origin": None, "space directions": None, "spacings": "-1 1 1"}, "header.spacing"),
        ({"space": None, "space origin": None, "space directions": None, "spacings": "1 1"}, "header.field"),
        ({"sizes": "4 5 7"}, "data.truncated"),
        ({"sizes": "99999999999 99999999999 99999999999"}, "data.truncated"),
        ({"sizes": "4 5 5"}, "header.trailing-data"),
        ({"encoding": "gzip", "sizes": "4 5 7"}, "header.other-length"),
        ({"encoding": "gzip", "sizes": "4 5 5"}, "header.other-length"),
        ({"encoding": "gzip", "sizes": "30000 30000 30000"}, "data.truncated"),
    ],
)
def test_an_nrrd_that_makes_no_sense_is_refused(tmp_path: Path, changes: Changes, code: str) -> None:
    with refused(DataError, code):
        read_by_itk(nrrd(tmp_path / "a.nrrd", changes))


def test_a_space_that_itk_takes_for_another_is_refused(tmp_path: Path) -> None:
    # Right-anterior-superior-time: ITK leaves the signs as they are.
    changes: Changes = {"dimension": "4", "sizes": "4 5 3 2", "space": "RAST", "kinds": "domain domain domain time"}
    changes |= {"space directions": "(1,0,0,0) (0,1,0,0) (0,0,1,0) (0,0,0,1)", "space origin": "(5,6,7,0)"}
    with refused(DataError, "header.read-otherwise"):
        read_by_itk(nrrd(tmp_path / "a.nrrd", changes))
    assert read_by_itk(nrrd(tmp_path / "b.nrrd", {**changes, "space": "LPST"})).GetSize() == (4, 5, 3, 2)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_any_flipped_bit_of_compressed_voxels_is_noticed(tmp_path: Path, suffix: str) -> None:
    file = WRITE[suffix](tmp_path / f"a{suffix}", COMPRESSED[suffix])
    whole, packed = file.read_bytes(), len(ZIPPED if suffix == ".mha" else GZIPPED)
    found: set[str] = set()
    for place in range(packed):
        content = bytearray(whole)
        content[len(whole) - packed + place] ^= 1 << place % 8
        file.write_bytes(content)
        try:
            array = voxels_of(file)
        except DataError as error:
            found |= {problem.code for problem in error.problems}
            continue
        # A bit that means nothing, as in gzip's field of the time.
        assert np.array_equal(array, expected_voxels())
    assert "header.damaged-data" in found


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_every_cut_is_noticed(tmp_path: Path, suffix: str) -> None:
    for changes in ({}, COMPRESSED[suffix]):
        file = WRITE[suffix](tmp_path / f"a{suffix}", changes)
        whole = file.read_bytes()
        for length in range(0, len(whole), 7):
            file.write_bytes(whole[:length])
            with pytest.raises(DataError):
                read_by_itk(file)


def test_a_list_that_ends_early_is_refused(tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / f"{index}").write_bytes(VOXELS[:20].tobytes())
    file = metaimage(tmp_path / "a.mhd", {"ElementDataFile": "LIST"}, None, *"012345")
    assert len(require_sound(file).pieces) == 6
    file.write_bytes(file.read_bytes()[:-1])  # ITK skips a name without the end of its line
    with refused(DataError, "header.field"):
        require_sound(file)
    for value in ("LISTING.raw", "LIST x", "LIST 1"):
        with refused(DataError, "header.field"):
            require_sound(metaimage(tmp_path / "a.mhd", {"ElementDataFile": value}, None, *"012345"))


@pytest.mark.parametrize("value", ["%d.raw 1 6", "%d.raw 1 6 0", "%d.raw 1 5 1", "%s.raw", "%d%d.raw", "%d.raw a b c"])
def test_a_pattern_that_makes_no_sense_is_refused(tmp_path: Path, value: str) -> None:
    with refused(DataError, "header.field"):
        require_sound(metaimage(tmp_path / "a.mhd", {"ElementDataFile": value}))
    if value != "%d.raw 1 5 1":  # NRRD's pieces may have any size
        with refused(DataError, "header.field"):
            require_sound(nrrd(tmp_path / "a.nhdr", {"data file": value}))


# --- files beside the header ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "list", "pattern"])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nhdr", ".nrrd"])
def test_files_in_other_places_are_refused_unread(tmp_path: Path, suffix: str, kind: str) -> None:
    scans, secret = tmp_path / "scans", tmp_path / "elsewhere" / "secret1.raw"
    scans.mkdir()
    secret.parent.mkdir()
    secret.write_bytes(VOXELS.tobytes())
    (scans / "link1.raw").symlink_to(secret)
    (scans / "folder").symlink_to(secret.parent)
    for name in (
        str(secret),
        "../elsewhere/secret1.raw",
        "link1.raw",
        "folder/secret1.raw",
        "x/../../elsewhere/secret1.raw",
    ):
        value, more = {
            "single": (name, ()),
            "list": ("LIST 3", (name,)),
            "pattern": (
                name.replace("t1.", "t%d.").replace("k1.", "k%d.")
                + " 1 1 1"
                + (" 3" if suffix in (".nhdr", ".nrrd") else ""),
                (),
            ),
        }[kind]
        if suffix in (".nhdr", ".nrrd"):
            file = nrrd(scans / f"a{suffix}", {"data file": value}, None, *more)
        else:
            size = {"DimSize": "120 1 1"} if kind == "pattern" else {}
            file = metaimage(scans / f"a{suffix}", {"ElementDataFile": value, **size}, None, *more)
        before = secret.stat().st_atime_ns
        with refused(DataError, "header.data-outside") as refusal:
            read_by_itk(file)
        assert refusal.problem.where == str(file)
        assert secret.stat().st_atime_ns == before
        assert data_files(file) == ()


@pytest.mark.parametrize("name", ["-", "a:b.raw", "a\\b.raw", "tab\there", "scan\u00e9"])
def test_names_that_readers_take_otherwise_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(VOXELS.tobytes())
    for file in (
        metaimage(tmp_path / "a.mhd", {"ElementDataFile": name}),
        nrrd(tmp_path / "a.nhdr", {"data file": name}),
    ):
        with refused(DataError, "header.data-outside"):
            read_by_itk(file)


def test_a_folder_of_links_to_an_archive_is_read(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "scans").mkdir()
    metaimage(tmp_path / "archive/a.mhd", {"ElementDataFile": "a.raw"})
    (tmp_path / "archive/a.raw").write_bytes(VOXELS.tobytes())
    for name in ("a.mhd", "a.raw"):
        (tmp_path / "scans" / name).symlink_to(tmp_path / "archive" / name)
    assert np.array_equal(voxels_of(tmp_path / "scans/a.mhd"), expected_voxels())


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mha")
    os.mkfifo(tmp_path / "a.raw")
    (tmp_path / "folder.nrrd").mkdir()
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # the path of a socket is short
    try:
        server.bind("socket.mhd")
    finally:
        os.chdir(here)
        server.close()
    (tmp_path / "device.nhdr").symlink_to("/dev/zero")
    metaimage(tmp_path / "a.mhd", {"ElementDataFile": "a.raw"})
    for name in ("pipe.mha", "folder.nrrd", "socket.mhd", "device.nhdr", "a.mhd", "a.raw"):
        with refused(DataError, "data.not-a-file"):
            read_by_itk(tmp_path / name)
    with refused(DataError, "header.data-missing"):
        read_by_itk(metaimage(tmp_path / "b.mhd", {"ElementDataFile": "b.raw"}))
    with refused(DataError, "data.missing"):
        read_by_itk(tmp_path / "nothing.mha")


@pytest.mark.parametrize("name", ["scan", "scan.img", "scan.vtk", "scan.png"])
def test_formats_that_are_not_checked_are_not_read(tmp_path: Path, name: str) -> None:
    file = nrrd(tmp_path / name, {"data file": "/etc/hostname"})
    with refused(DataError, "data.unknown-format"):
        read_by_itk(file)
    assert data_files(file) == ()


# --- at random ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [400, pytest.param(40000, marks=pytest.mark.soak)])
def test_changed_headers_are_read_as_itk_reads_them_or_refused(tmp_path: Path, files: int) -> None:
    """In a process of its own: ITK may take memory, or die, for what is not refused."""
    command = [sys.executable, str(SUPPORT / "fuzz_text_headers.py"), str(files), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    accepted, refused_count = map(int, done.stdout.split())
    assert accepted > 20
    assert refused_count > 100
