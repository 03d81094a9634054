"""F103: compressed DICOM slices that are damaged, or whose codestream is of another image than their header."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless
from scanner import INTERCEPT, volume, write_series

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.scans import list_scans
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import DataError

Encode = Callable[[np.ndarray], bytes]
VOXELS = volume(1).astype(np.int32) * 13 % 4096


def lossless_jpeg(bits: int = 16, predictor: int = 1) -> Encode:
    def encode(plane: np.ndarray) -> bytes:
        dtype = np.uint8 if bits <= 8 else np.uint16
        made = imagecodecs.jpeg8_encode(plane.astype(dtype), bitspersample=bits, lossless=True, predictor=predictor)
        return bytes(made)

    return encode


def of_16_bits(encode: Callable[..., Any], **options: Any) -> Encode:
    return lambda plane: bytes(encode(plane.astype(np.uint16), **options))


def run_lengths(plane: np.ndarray) -> bytes:
    """Encode by run lengths: the higher bytes of all voxels, then the lower ones."""
    slice_ = pydicom.Dataset()
    slice_.file_meta = pydicom.dataset.FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slice_.Rows, slice_.Columns = plane.shape
    slice_.BitsAllocated = slice_.BitsStored = 16
    slice_.HighBit, slice_.PixelRepresentation = 15, 0
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.SOPClassUID, slice_.SOPInstanceUID = "1.2", "1.3"
    slice_.PixelData = plane.astype("<u2").tobytes()
    slice_.compress(RLELossless)
    return next(generate_frames(slice_.PixelData, number_of_frames=1))


JPEG, SV1, LS, J2K = (f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 90))
KINDS: dict[str, tuple[str, Encode]] = {
    "run lengths": (str(RLELossless), run_lengths),
    "lossless JPEG": (SV1, of_16_bits(imagecodecs.ljpeg_encode)),
    "JPEG-LS": (LS, of_16_bits(imagecodecs.jpegls_encode, level=0)),
    "JPEG 2000": (J2K, of_16_bits(imagecodecs.jpeg2k_encode, level=0, reversible=True, codecformat="j2k")),
    **{f"lossless JPEG, rule {rule}": (JPEG, lossless_jpeg(predictor=rule)) for rule in range(1, 8)},
}


def compressed(
    folder: Path,
    kind: tuple[str, Encode],
    voxels: np.ndarray = VOXELS,
    damage: Callable[[bytes], bytes] = bytes,
    **tags: Any,
) -> list[Path]:
    """Write a series whose slices are compressed; ``damage`` changes one of them."""
    uid, encode = kind
    slices = write_series(folder, voxels.astype(np.int16), PixelRepresentation=0)
    for index, (file, plane) in enumerate(zip(slices, voxels, strict=True)):
        frame = damage(encode(plane)) if index == 2 else encode(plane)
        slice_ = pydicom.dcmread(file)
        slice_.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
        slice_["PixelData"].is_undefined_length = True
        slice_.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
        for keyword, value in tags.items():
            setattr(slice_, keyword, value)
        slice_.save_as(file)
    return slices


def read(folder: Path) -> np.ndarray:
    (scan,) = list_scans([folder], 1)
    assert scan.problem is None
    assert isinstance(scan.files[0], Series)
    voxels: np.ndarray = read_volume(scan.files[0]).voxels[0]
    return voxels


def refusal(folder: Path) -> str:
    """Return what the only series is refused with, as it is found or as it is read; its parts are refused alike."""
    scans = list_scans([folder], 1)
    if all(scan.problem for scan in scans):
        return "+".join(sorted(scan.problem.code for scan in scans if scan.problem))
    (scan,) = scans
    with pytest.raises(DataError) as refused:
        read_volume(scan.files[0])
    return refused.value.problems[0].code


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    warnings.simplefilter("ignore")  # pydicom's, of what is written on purpose


@pytest.mark.parametrize("kind", KINDS)
def test_f103_a_sound_series_is_read_voxel_by_voxel(tmp_path: Path, kind: str) -> None:
    compressed(tmp_path, KINDS[kind], RescaleSlope="0.5", RescaleIntercept="-3.25")
    np.testing.assert_array_equal(read(tmp_path), VOXELS * 0.5 - 3.25)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("lowest", [0, -2000])
def test_f103_slices_of_gdcm_itself_are_read(tmp_path: Path, compressor: str, lowest: int) -> None:
    voxels = VOXELS + lowest
    for index, plane in enumerate(voxels):
        image = SimpleITK.GetImageFromArray(plane[None].astype(np.int16 if lowest else np.uint16))
        image.SetOrigin((1, 2, 3 + 2.5 * index))
        series = {"0020|000e": "1.2.3", "0020|000d": "1.2.4", "0020|0052": "1.2.5", "0008|0060": "CT"}
        for tag, value in (series | {"0020|0032": f"1\\2\\{3 + 2.5 * index}", "0020|0037": "1\\0\\0\\0\\1\\0"}).items():
            image.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.SetFileName(str(tmp_path / f"{index}.dcm"))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(image)
    np.testing.assert_array_equal(read(tmp_path), voxels)


def test_f103_other_precisions_and_signs_are_read(tmp_path: Path) -> None:
    compressed(tmp_path / "a", (JPEG, lossless_jpeg(12)), BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(tmp_path / "a"), VOXELS + INTERCEPT)
    compressed(tmp_path / "b", (JPEG, lossless_jpeg(8)), VOXELS % 256, BitsAllocated=8, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(read(tmp_path / "b"), VOXELS % 256 + INTERCEPT)
    below_zero = VOXELS - 2000
    signed: dict[str, Any] = {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    compressed(tmp_path / "c", (LS, lambda plane: KINDS["JPEG-LS"][1](plane % 4096)), below_zero, **signed)
    np.testing.assert_array_equal(read(tmp_path / "c"), (below_zero + 2048) % 4096 - 2048 + INTERCEPT)


def test_f103_lossy_slices_are_read_nearly(tmp_path: Path) -> None:
    def lossy(plane: np.ndarray) -> bytes:
        return bytes(imagecodecs.jpeg8_encode(plane.astype(np.uint8), level=98))

    smooth = np.broadcast_to(np.add.outer(np.arange(12), np.arange(10)) * 9, VOXELS.shape)
    eight: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    compressed(tmp_path, ("1.2.840.10008.1.2.4.50", lossy), smooth, **eight)
    assert np.abs(read(tmp_path) - smooth - INTERCEPT).max() <= 5


def zero(frame: bytes) -> bytes:
    middle = len(frame) * 2 // 3
    return frame[:middle] + bytes(24) + frame[middle + 24 :]


@pytest.mark.parametrize("kind", ["run lengths", "lossless JPEG", "JPEG-LS", "lossless JPEG, rule 4"])
def test_f103_a_damaged_codestream_is_refused(tmp_path: Path, kind: str) -> None:
    compressed(tmp_path, KINDS[kind], damage=zero)
    assert refusal(tmp_path) == "dicom.damaged-slice"


@pytest.mark.parametrize("kind", ["lossless JPEG", "JPEG-LS", "JPEG 2000"])
def test_f103_a_codestream_that_is_cut_or_followed_by_another_is_refused(tmp_path: Path, kind: str) -> None:
    compressed(tmp_path / "cut", KINDS[kind], damage=lambda frame: frame[: len(frame) // 2])
    assert "dicom.unreadable" in refusal(tmp_path / "cut")
    compressed(tmp_path / "two", KINDS[kind], damage=lambda frame: frame + frame)
    assert refusal(tmp_path / "two") == "dicom.voxel-count"


@pytest.mark.parametrize("kind", KINDS)
def test_f103_a_multi_frame_file_is_called_one(tmp_path: Path, kind: str) -> None:
    first, *others = compressed(tmp_path, KINDS[kind])
    for file in others:
        file.unlink()
    content = pydicom.dcmread(first)
    frames = [KINDS[kind][1](plane) for plane in VOXELS]
    content.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2) for frame in frames])
    content["PixelData"].is_undefined_length = True
    content.NumberOfFrames = len(frames)
    content.save_as(first)
    assert refusal(tmp_path) == "dicom.multi-frame"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tags", [{"Rows": 6}, {"Columns": 20}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}])
def test_f103_a_header_of_another_image_than_the_codestream_is_refused(
    tmp_path: Path, kind: str, tags: dict[str, Any]
) -> None:
    compressed(tmp_path, KINDS[kind], **tags)
    # Run lengths do not say of how many rows and columns they are.
    expected = "dicom.damaged-slice" if kind == "run lengths" and "BitsStored" not in tags else "dicom.voxel-count"
    assert refusal(tmp_path) == expected


def test_f103_signed_values_under_an_unsigned_header_are_refused(tmp_path: Path) -> None:
    def signed(plane: np.ndarray) -> bytes:
        made = imagecodecs.jpeg2k_encode(plane.astype(np.int16), level=0, reversible=True, codecformat="j2k")
        return bytes(made)

    compressed(tmp_path / "a", (J2K, signed), VOXELS - 2000, PixelRepresentation=1)
    np.testing.assert_array_equal(read(tmp_path / "a"), VOXELS - 2000 + INTERCEPT)
    compressed(tmp_path / "b", (J2K, signed), VOXELS - 2000, PixelRepresentation=0)
    assert refusal(tmp_path / "b") == "dicom.damaged-slice"


@pytest.mark.parametrize("claim", [(SV1, b"\xff\xc3"), (LS, b"\xff\xf7"), (J2K, b"\xff\x51")])
def test_f103_a_codestream_that_claims_gigavoxels_is_refused_before_it_is_decoded(
    tmp_path: Path, claim: tuple[str, bytes]
) -> None:
    uid, marker = claim
    (kind,) = (kind for kind in KINDS.values() if kind[0] == uid)

    def enlarge(frame: bytes) -> bytes:
        at = frame.index(marker) + (6 if uid == J2K else 5)
        size = b"\0\0\x75\x30" * 2 if uid == J2K else b"\x75\x30" * 2
        return frame[:at] + size + frame[at + len(size) :]

    compressed(tmp_path, kind, damage=enlarge)
    assert refusal(tmp_path) == "dicom.voxel-count"


# Each ended the process, by SIGFPE or SIGSEGV.
FATAL: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no segments": ("run lengths", lambda frame: bytes(len(frame))),
    "255 bits": ("lossless JPEG", lambda frame: frame.replace(b"\xff\xc3\0\x0b\x10", b"\xff\xc3\0\x0b\xff")),
}


@pytest.mark.parametrize("how", FATAL)
def test_f103_what_ends_a_decoder_does_not_end_pclauto(tmp_path: Path, how: str) -> None:
    kind, damage = FATAL[how]
    assert damage(KINDS[kind][1](VOXELS[0])) != KINDS[kind][1](VOXELS[0])
    compressed(tmp_path / "a", KINDS[kind])
    compressed(tmp_path / "b", KINDS[kind], damage=damage)
    code = (
        "import sys, pathlib; from pcl_auto.data.formats.scans import list_scans\n"
        "scans = list_scans([pathlib.Path(sys.argv[1])], 1)\n"
        "print(*(scan.problem.code if scan.problem else 'sound' for scan in scans))"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    first, *others = told.stdout.split()
    assert first == "sound"
    assert others
    assert "sound" not in others


def test_f103_a_table_of_frames_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    slices = compressed(tmp_path, KINDS["run lengths"])
    content = bytearray(slices[2].read_bytes())
    item = content.rfind(b"\xfe\xff\x00\xe0", 0, content.rfind(b"\xfe\xff\x00\xe0"))
    content[item + 7] = 0xFF
    slices[2].write_bytes(content)
    assert "dicom.unreadable" in refusal(tmp_path)


def test_f103_a_value_of_unknown_type_before_the_voxels_hides_nothing(tmp_path: Path) -> None:
    """Private sequences of type UN are implicit inside, whatever the file is."""
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x0a\0\x10\x10\x04\0\0\0abcd" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = b"\x19\0\x01\x10UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for file in compressed(tmp_path, KINDS["JPEG-LS"]):
        content = file.read_bytes()
        at = content.index(b"\x20\0\x0d\0UI")
        file.write_bytes(content[:at] + b"\x19\0\x10\0LO\x04\0ANNA" + unknown + content[at:])
    np.testing.assert_array_equal(read(tmp_path), VOXELS + INTERCEPT)


def test_f103_a_codestream_in_boxes_is_read(tmp_path: Path) -> None:
    boxed = of_16_bits(imagecodecs.jpeg2k_encode, level=0, reversible=True, codecformat="jp2")
    compressed(tmp_path, (J2K, boxed))
    np.testing.assert_array_equal(read(tmp_path), VOXELS + INTERCEPT)


def test_f103_encodings_that_are_not_checked_are_refused_by_name(tmp_path: Path) -> None:
    compressed(tmp_path, ("1.2.840.10008.1.2.4.201", KINDS["JPEG 2000"][1]))
    (scan,) = list_scans([tmp_path], 1)
    assert scan.problem is not None
    assert (scan.problem.code, scan.problem.found.split(" of ")[0]) == (
        "dicom.unsupported", "voxels in the encoding 1.2.840.10008.1.2.4.201",
    )  # fmt: skip


def _ending(folder: Path) -> int:
    """Read a series in a fork; return the signal that ended it (negative), 1 for a fault, 0 or 3 for a refusal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.alarm(60)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print
        for scan in list_scans([folder], 1):
            if scan.problem is None:
                read_volume(scan.files[0])
        code = 0
    except DataError:
        code = 3
    finally:
        os._exit(code)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["plain", "run lengths", "lossless JPEG", "JPEG-LS", "JPEG 2000"])
def test_f103_no_damage_ends_the_process(tmp_path: Path, kind: str) -> None:
    slices = write_series(tmp_path, VOXELS.astype(np.int16)) if kind == "plain" else compressed(tmp_path, KINDS[kind])
    whole = slices[2].read_bytes()
    voxels_at = whole.rfind(b"\xe0\x7f\x10\0")
    draw = random.Random(0)
    endings = set()
    for number in range(600):
        content = bytearray(whole)
        first, last = ((132, voxels_at + 12), (voxels_at, len(whole)), (voxels_at, voxels_at + 140))[number % 3]
        for _ in range(draw.choice((1, 1, 2, 4))):
            content[min(draw.randrange(first, last), len(whole) - 1)] = draw.choice((0, 1, 255, draw.randrange(256)))
        slices[2].write_bytes(content)
        ending = _ending(tmp_path)
        assert ending in (0, 3), number
        endings.add(ending)
    assert endings == ({0} if kind == "plain" else {0, 3})
