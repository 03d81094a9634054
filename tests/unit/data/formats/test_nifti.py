"""The probe: refusals first, then agreement with nibabel on what it accepts."""

from __future__ import annotations

import bz2
import errno
import gzip
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from refusal import codes, refused
from toys import SHAPE, label_map, patch, ramp, save

from pcl_auto.data.formats.grid import Grid
from pcl_auto.data.formats.nifti import Volume, compare_grids, probe_image, probe_label
from pcl_auto.errors import Problem, ResourceError

NAMES = ("a.nii", "a.nii.gz")
# Byte offsets of NIfTI-1 header fields.
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SCL_SLOPE, SCL_INTER, UNITS = 40, 70, 76, 108, 112, 116, 123
QFORM_CODE, SFORM_CODE, QUATERN, SROW = 252, 254, 256, 280
CLASSES = (0, 1, 2)


def refusal(
    path: Path, code: str, probe: Callable[[Path], tuple[Volume | None, list[Problem]]] = probe_image
) -> Problem:
    """Return the one problem of a file that yields no facts, of the kind ``code``, with every field filled."""
    volume, problems = probe(path)
    assert volume is None
    assert codes(problems) == [code], problems
    problem = problems[0]
    assert str(path) in problem.where
    assert problem.what
    assert problem.fix
    assert problem.expected or problem.found or code == "data.missing"
    return problem


def probe_classes(path: Path) -> tuple[Volume | None, list[Problem]]:
    return probe_label(path, CLASSES)


# Files that are not what they should be


def test_missing_file(tmp_path: Path) -> None:
    refusal(tmp_path / "a.nii.gz", "data.missing")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"")
    assert refusal(path, "data.empty").found == "0 bytes"


def test_folder_named_like_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.mkdir()
    assert refusal(path, "data.not-a-file").found == "a folder"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04" + bytes(400), "zip"),
        (b"<html>not found</html>", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (bytes(128) + b"DICM" + bytes(400), "DICOM"),
        (bytes(1000), "zeros"),
        (b"NRRD0004\n" + bytes(400), "NRRD"),
        (bz2.compress(bytes(range(256)) * 40), "bzip2"),
        (bytes(range(1, 200)) * 4, "unknown"),
    ],
)
def test_other_content_is_named(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert kind in refusal(path, "nifti.not-nifti").found
    path.write_bytes(gzip.compress(content))
    assert kind in refusal(path, "nifti.not-nifti").found


def test_gzip_without_the_name_and_name_without_gzip(tmp_path: Path) -> None:
    plain, zipped = (save(tmp_path / name, ramp()) for name in NAMES)
    content = plain.read_bytes()
    plain.write_bytes(zipped.read_bytes())
    zipped.write_bytes(content)
    assert ".nii.gz" in refusal(plain, "nifti.name-and-content").fix
    assert refusal(zipped, "nifti.name-and-content").fix.endswith(".nii")


def test_two_file_header_is_refused(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", ramp()), 344, "4s", b"ni1\0")
    assert "two-file" in refusal(path, "nifti.not-nifti").found


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", NAMES)
def test_truncated_file(tmp_path: Path, name: str, share: float) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / name, values)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    problem = refusal(path, "data.truncated")
    assert problem.fix.startswith("copy the file again")
    if name == "a.nii":
        assert problem.expected == "16000 bytes of voxels"
        assert int(problem.found) == len(content[: int(len(content) * share)]) - 352


@pytest.mark.parametrize(
    ("name", "length", "code"),
    [
        ("a.nii", 1, "nifti.not-nifti"),
        ("a.nii", 3, "nifti.not-nifti"),
        ("a.nii", 20, "nifti.header-truncated"),
        ("a.nii", 200, "nifti.header-truncated"),
        ("a.nii", 349, "nifti.offset-beyond-end"),
        ("a.nii.gz", 1, "nifti.not-nifti"),
        ("a.nii.gz", 3, "data.truncated"),
        ("a.nii.gz", 20, "data.truncated"),
        ("a.nii.gz", 200, "data.truncated"),
        ("a.nii.gz", 349, "data.truncated"),
    ],
)
def test_truncated_header(tmp_path: Path, name: str, length: int, code: str) -> None:
    path = save(tmp_path / name, ramp())
    path.write_bytes(path.read_bytes()[:length])
    refusal(path, code)


def test_truncated_header_of_the_second_format(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp(), kind=nib.Nifti2Image)
    path.write_bytes(path.read_bytes()[:400])
    refusal(path, "nifti.header-truncated")


def test_short_voxels_in_an_intact_gzip_are_no_copying_mistake(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))
    problem = refusal(path, "nifti.too-few-voxels")
    assert problem.found == str(ramp().nbytes - 10)
    assert "export" in problem.fix


def test_wrong_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    refusal(path, "data.gzip-checksum")


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 300, (16, 16, 16)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", values)
    content = path.read_bytes()
    for position in np.random.default_rng(1).integers(0, 8 * len(content), 100):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << (position % 8)
        path.write_bytes(bytes(flipped))
        volume, problems = probe_image(path)
        # A flip in gzip's own header (its time stamp, say) changes no voxel.
        assert problems or gzip.decompress(bytes(flipped)) == gzip.decompress(content), position
        assert (volume is None) == bool(problems)


@pytest.mark.parametrize("name", NAMES)
def test_data_after_the_last_voxel(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, ramp())
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    pack = gzip.compress if name.endswith(".gz") else bytes
    path.write_bytes(pack(content + bytes(512)))
    assert probe_image(path)[1] == []  # a filled-up block
    path.write_bytes(pack(content + bytes(5000)))
    refusal(path, "nifti.trailing-data")
    path.write_bytes(pack(content + b"\0\1"))
    assert refusal(path, "nifti.trailing-data").found == "2 more bytes"


def test_bytes_after_the_gzip_data(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    content = path.read_bytes()
    path.write_bytes(content + bytes(100))
    assert probe_image(path)[1] == []
    path.write_bytes(content + b"rubbish")
    refusal(path, "data.gzip-damaged")


def test_gzip_bomb_stops_early(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 26)))
    tracemalloc.start()
    problem = refusal(path, "nifti.trailing-data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.found.startswith("more than")
    assert peak < 40e6


# Headers that lie


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("claim", ["size", "offset"])
def test_absurd_claims_take_no_memory(tmp_path: Path, name: str, claim: str) -> None:
    path = save(tmp_path / name, ramp())
    if claim == "size":
        patch(path, DIM, "<4h", 3, 30000, 30000, 30000)
    else:
        patch(path, VOX_OFFSET, "<f", 1e9)
    too_much = "data.truncated" if name == "a.nii" else "nifti.claims-too-much"
    tracemalloc.start()
    problem = refusal(path, too_much if claim == "size" else "nifti.offset-beyond-end")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert "54000000000000" in problem.expected or claim != "size"


@pytest.mark.parametrize(
    ("offset", "layout", "values", "code"),
    [
        (DIM, "<h", (0,), "nifti.dimension-count"),
        (DIM, "<h", (8,), "nifti.dimension-count"),
        (DIM, "<h", (-3,), "nifti.dimension-count"),
        (DIM, "<h", (2,), "data.not-a-volume"),
        (DIM + 2, "<h", (-5,), "nifti.size-impossible"),
        (DIM + 4, "<h", (0,), "nifti.size-impossible"),
        (DATATYPE, "<h", (9999,), "nifti.voxel-type"),
        (DATATYPE, "<h", (0,), "nifti.voxel-type"),
        (VOX_OFFSET, "<f", (0,), "nifti.offset-impossible"),
        (VOX_OFFSET, "<f", (-352,), "nifti.offset-impossible"),
        (VOX_OFFSET, "<f", (352.5,), "nifti.offset-impossible"),
        (VOX_OFFSET, "<f", (np.nan,), "nifti.offset-impossible"),
        (PIXDIM + 4, "<f", (0,), "nifti.spacing-impossible"),
        (PIXDIM + 8, "<f", (-1,), "nifti.spacing-impossible"),
        (PIXDIM + 12, "<f", (np.nan,), "nifti.spacing-impossible"),
        (PIXDIM + 12, "<f", (np.inf,), "nifti.spacing-impossible"),
        (SROW, "<f", (np.nan,), "nifti.no-orientation"),
        (SROW, "<4f", (0, 0, 0, 0), "nifti.no-orientation"),
        (SROW, "<8f", (1, 0, 0, 0, 1, 0, 0, 0), "nifti.no-orientation"),
        (SFORM_CODE, "<h", (37,), "nifti.transform-code"),
        (SFORM_CODE, "<hf", (0, 2.0), "nifti.no-orientation"),
        (SFORM_CODE, "<hf", (0, np.nan), "nifti.no-orientation"),
        (SCL_SLOPE, "<ff", (2, np.nan), "nifti.scaling"),
        (SCL_SLOPE, "<ff", (0, 3), "nifti.scaling"),
        (SCL_SLOPE, "<ff", (np.nan, 3), "nifti.scaling"),
        (SCL_SLOPE, "<ff", (np.inf, 0), "nifti.scaling"),
        (SCL_SLOPE, "<ff", (1e-20, 2), "nifti.scaling"),
        (UNITS, "<B", (1,), "nifti.spacing-unit"),
        (UNITS, "<B", (3,), "nifti.spacing-unit"),
    ],
)
def test_impossible_fields_are_named(
    tmp_path: Path, offset: int, layout: str, values: tuple[float, ...], code: str
) -> None:
    for name in NAMES:
        path = patch(save(tmp_path / name, ramp()), offset, layout, *values)
        refusal(path, code)


def test_all_faults_of_a_header_are_listed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    patch(path, PIXDIM + 4, "<2f", -1, np.nan)
    patch(path, DATATYPE, "<h", 9999)
    patch(path, VOX_OFFSET, "<f", 3)
    volume, problems = probe_image(path)
    assert volume is None
    assert sorted(codes(problems)) == [
        "nifti.offset-impossible", "nifti.spacing-impossible", "nifti.spacing-impossible", "nifti.voxel-type",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_voxels(tmp_path: Path, dtype: type) -> None:
    assert "complex" in refusal(save(tmp_path / "a.nii.gz", ramp(dtype=dtype)), "nifti.voxel-type").found


def test_color_voxels(tmp_path: Path) -> None:
    pixels = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "RGB" in refusal(save(tmp_path / "a.nii.gz", pixels), "nifti.voxel-type").found


def test_header_fuzz(tmp_path: Path) -> None:
    """Whatever the header says, the probe reports or accepts; what it accepts, ITK and nibabel read the same way."""
    random = np.random.default_rng(20)
    accepted = 0
    for number in range(150):
        path = save(tmp_path / NAMES[number % 2], ramp())
        for position in random.integers(0, 352, random.integers(1, 5)):
            patch(path, int(position), "B", int(random.integers(0, 256)))
        volume, problems = probe_image(path)
        assert volume or problems
        if volume and not problems:
            accepted += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = nib.load(path)
                values = image.get_fdata()
            assert volume.shape == values.shape[:3]
            assert any(np.allclose(grid.affine, image.affine, rtol=2e-2, atol=1e-3) for grid in volume.grids)
            assert volume.nonzero_box == naive_box(values)
            assert_as_itk(path, volume)
    assert 10 < accepted < 140  # the test would prove little if all were alike


def assert_as_itk(path: Path, volume: Volume) -> None:
    """The place of a volume is where ITK reads it."""
    image = sitk.ReadImage(str(path))
    axes = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (axes, axes))[:3, :3].ravel().tolist()
    grid = Grid.of_itk(image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3], direction)
    assert volume.grids[0] == grid


# Voxels that cannot be used


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_voxels_are_counted(tmp_path: Path, value: float) -> None:
    values = ramp(dtype=np.float32)
    values[4, 1, 2] = values[0, 3, 5] = value
    volume, problems = probe_image(save(tmp_path / "a.nii.gz", values))
    assert volume is not None
    assert codes(problems) == ["data.not-finite"]
    assert problems[0].found == "2, the first at voxel (4, 1, 2)"


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_what_32_bits_cannot_hold_is_infinite(tmp_path: Path, value: float) -> None:
    values = ramp(dtype=np.float64)
    values[4, 1, 2] = value
    _, problems = probe_image(save(tmp_path / "a.nii.gz", values))
    assert codes(problems) == ["data.not-finite"]
    assert problems[0].found == "1, the first at voxel (4, 1, 2)"
    labels = label_map().astype(np.float64)
    labels[0, 0, 0] = value
    _, problems = probe_label(save(tmp_path / "b.nii.gz", labels), CLASSES)
    assert codes(problems) == ["data.not-finite"]


def test_not_finite_voxels_name_their_channel_and_count_as_zero(tmp_path: Path) -> None:
    values = np.zeros((*SHAPE, 2), dtype=np.float64)
    values[1, 2, 3, 0] = 5
    values[4, 4, 4, 1] = np.nan
    volume, problems = probe_image(save(tmp_path / "a.nii", values))
    assert volume is not None
    assert codes(problems) == ["data.not-finite"]
    assert "(4, 4, 4) of channel 1" in problems[0].found
    assert volume.nonzero_box == ((1, 2), (2, 3), (3, 4))
    assert volume.constant_channels == (1,)


def test_too_many_dimensions(tmp_path: Path) -> None:
    assert "5D" in refusal(save(tmp_path / "a.nii", ramp((3, 3, 3, 1, 2))), "nifti.too-many-dimensions").found
    volume, problems = probe_image(save(tmp_path / "b.nii", ramp((3, 3, 3, 2, 1, 1))))
    assert problems == []
    assert volume is not None
    assert volume.channels == 2


def test_label_with_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", label_map()[..., None].repeat(2, axis=3))
    assert refusal(path, "label.not-3d", probe_classes).found.startswith("4D")


@pytest.mark.parametrize("value", [0.5, 1.0000001192092896, -0.25, 1e30])
def test_fractional_label(tmp_path: Path, value: float) -> None:
    values = label_map().astype(np.float64)
    values[2, 0, 1] = value
    volume, problems = probe_label(save(tmp_path / "a.nii.gz", values), CLASSES)
    assert volume is not None
    # The last one is a whole number, if an unlikely one.
    assert codes(problems) == ["label.undeclared-values" if value == 1e30 else "label.fractional"]
    if value != 1e30:
        assert volume.label_values is None
        assert "1 voxels" in problems[0].found
        assert "(2, 0, 1)" in problems[0].found


def test_fraction_hidden_in_the_scaling(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii.gz", label_map()), SCL_SLOPE, "<ff", 0.5, 0)
    _, problems = probe_label(path, CLASSES)
    assert codes(problems) == ["label.fractional"]
    assert "scl_slope 0.5" in problems[0].found


def test_nan_in_a_label(tmp_path: Path) -> None:
    values = label_map().astype(np.float32)
    values[0, 0, 0] = np.nan
    volume, problems = probe_label(save(tmp_path / "a.nii.gz", values), CLASSES)
    assert volume is not None
    assert volume.label_values is None
    assert codes(problems) == ["data.not-finite"]


@pytest.mark.parametrize(("value", "dtype"), [(7, np.uint8), (-1, np.int16), (300, np.int16), (70000, np.int32)])
def test_undeclared_label_values(tmp_path: Path, value: int, dtype: npt.DTypeLike) -> None:
    values = label_map().astype(dtype)
    values[0, 0, :2] = value
    volume, problems = probe_label(save(tmp_path / "a.nii.gz", values), CLASSES)
    assert volume is not None
    assert volume.label_values is not None
    assert volume.label_values[value] == 2
    assert codes(problems) == ["label.undeclared-values"]
    assert problems[0].found == f"{value} (2 voxels)"
    assert problems[0].expected == "only 0, 1, 2"


def test_an_image_in_place_of_a_label(tmp_path: Path) -> None:
    volume, problems = probe_label(save(tmp_path / "a.nii.gz", ramp((16, 16, 16), np.int32)), CLASSES)
    assert volume is not None
    assert volume.label_values is None
    assert codes(problems) == ["label.undeclared-values"]
    assert "more than 1024" in problems[0].found


# Sound files


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2", ">f4"])
@pytest.mark.parametrize("name", NAMES)
def test_facts_agree_with_itk_and_nibabel(tmp_path: Path, name: str, dtype: npt.DTypeLike) -> None:
    random = np.random.default_rng(3)
    values = np.zeros((9, 8, 7, 2), dtype=dtype)
    values[2:6, 1:5, 3:6] = random.integers(0, 100, (4, 4, 3, 2))
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(random.normal(0, 1, (3, 3)))[0] * [0.7, 0.8, 3.0]
    affine[:3, 3] = random.normal(0, 100, 3)
    image = nib.Nifti1Image(values, affine)
    image.header.set_data_dtype(np.dtype(dtype))
    if np.dtype(dtype).byteorder == ">":
        image = nib.Nifti1Image(values, affine, image.header.as_byteswapped(">"))
    nib.save(image, tmp_path / name)
    volume, problems = probe_image(tmp_path / name)
    assert problems == []
    assert volume is not None
    loaded = nib.load(tmp_path / name)
    assert volume.shape == (9, 8, 7)
    assert volume.channels == 2
    assert volume.spacing_mm == tuple(map(float, loaded.header.get_zooms()[:3]))
    assert_as_itk(tmp_path / name, volume)
    np.testing.assert_allclose(volume.affine, loaded.affine, rtol=1e-5, atol=1e-5)
    assert volume.other_affines == ()
    assert volume.nonzero_box == naive_box(loaded.get_fdata())
    assert volume.constant_channels == ()
    assert volume.dtype == np.dtype(dtype).newbyteorder("=").name
    assert volume.label_values is None


def test_scaling_decides_what_is_zero_and_what_is_constant(tmp_path: Path) -> None:
    values = np.full(SHAPE, 4, dtype=np.int16)
    values[1, 1, 1] = 5
    path = patch(save(tmp_path / "a.nii", values), SCL_SLOPE, "<ff", 2, -8)
    volume, problems = probe_image(path)
    assert problems == []
    assert volume is not None
    assert volume.nonzero_box == ((1, 2), (1, 2), (1, 2))
    assert volume.constant_channels == ()


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_without_meaning_scales_nothing(tmp_path: Path, slope: float) -> None:
    path = patch(save(tmp_path / "a.nii", ramp()), SCL_SLOPE, "<ff", slope, 0)
    volume, problems = probe_image(path)
    assert problems == []
    assert volume is not None
    assert volume.nonzero_box == ((0, 5), (0, 6), (0, 7))


def test_a_spacing_that_contradicts_the_sform(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", ramp()), PIXDIM + 4, "<f", 1.5)
    # The qform agrees with pixdim, and ITK takes it: so the scans of ACDC are stored.
    volume, problems = probe_image(path)
    assert problems == []
    assert volume is not None
    assert volume.spacing_mm == (1.5, 1.0, 2.0)
    np.testing.assert_allclose(volume.other_affines[0], np.diag([1, 1, 2, 1]))
    problem = refusal(patch(path, QFORM_CODE, "<h", 0), "nifti.spacing-contradicts-affine")
    assert "pclauto repair" in problem.fix


def test_the_second_format_is_refused_for_what_it_is(tmp_path: Path) -> None:
    problem = refusal(save(tmp_path / "a.nii.gz", ramp(), kind=nib.Nifti2Image), "nifti.version-2")
    assert "pclauto repair" in problem.fix


def test_constant_channels_and_empty_volume(tmp_path: Path) -> None:
    values = np.zeros((*SHAPE, 3), dtype=np.int16)
    values[..., 1] = 7
    values[..., 2] = ramp()
    volume, problems = probe_image(save(tmp_path / "a.nii", values))
    assert problems == []
    assert volume is not None
    assert volume.constant_channels == (0, 1)
    volume, _ = probe_image(save(tmp_path / "b.nii", np.zeros(SHAPE, dtype=np.int16)))
    assert volume is not None
    assert volume.nonzero_box == ((0, 0), (0, 0), (0, 0))


def test_no_transform_at_all_falls_back_to_pixdim(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    patch(path, QFORM_CODE, "<hh", 0, 0)
    volume, problems = probe_image(path)
    assert problems == []
    assert volume is not None
    assert_as_itk(path, volume)
    assert np.allclose(volume.other_affines[0], nib.load(path).affine)


def test_an_unset_qfac_means_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    patch(path, SFORM_CODE, "<h", 0)
    patch(path, PIXDIM, "<f", 0)
    volume, problems = probe_image(path)
    assert problems == []
    assert volume is not None
    np.testing.assert_allclose(volume.affine, np.diag([1, 1, 2, 1]))
    patch(path, PIXDIM, "<f", 37)
    refusal(path, "nifti.no-orientation")


@pytest.mark.parametrize("shape", [(5, 6, 1), (1, 1, 1), (3, 1, 9)])
def test_a_single_slice_is_a_volume(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume, problems = probe_image(save(tmp_path / "a.nii.gz", ramp(shape)))
    assert problems == []
    assert volume is not None
    assert volume.shape == shape


def test_gzip_in_several_members(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(content[start : start + 100]) for start in range(0, len(content), 100)))
    volume, problems = probe_image(path)
    assert problems == []
    assert volume is not None


def test_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"words " * 50))
    nib.save(image, tmp_path / "a.nii.gz")
    volume, problems = probe_image(tmp_path / "a.nii.gz")
    assert problems == []
    assert volume is not None
    assert volume.nonzero_box == ((0, 5), (0, 6), (0, 7))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_label_values_are_counted(tmp_path: Path, dtype: type) -> None:
    volume, problems = probe_label(save(tmp_path / "a.nii.gz", label_map().astype(dtype)), CLASSES)
    assert problems == []
    assert volume is not None
    assert volume.label_values == {0: 201, 1: 8, 2: 1}


def test_slabs_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ramp(dtype=np.float32)
    values[:, :, 0] = 0
    values[2, 2, 5] = np.nan
    path = save(tmp_path / "a.nii.gz", values)
    labels = save(tmp_path / "b.nii.gz", label_map())
    whole = probe_image(path), probe_label(labels, CLASSES)
    monkeypatch.setattr("pcl_auto.data.formats.nifti_voxels._SLAB_VOXELS", 1)
    monkeypatch.setattr("pcl_auto.data.formats.nifti_bytes._CHUNK", 7)
    assert (probe_image(path), probe_label(labels, CLASSES)) == whole


# Grids


def grid(affine: np.ndarray, shape: tuple[int, int, int] = (40, 50, 20)) -> Volume:
    rows = tuple(tuple(map(float, row)) for row in affine)
    x_mm, y_mm, z_mm = map(float, np.linalg.norm(affine[:3, :3], axis=0))
    box = ((0, shape[0]), (0, shape[1]), (0, shape[2]))
    return Volume(Path("x"), shape, 1, (x_mm, y_mm, z_mm), rows, "int16", box, ())


AFFINE = np.array([[-0.6, 0.02, 0, 120.0], [0.02, 0.6, 0.1, -340.0], [0, -0.1, 3.5, -1200.0], [0, 0, 0, 1]])


def test_other_shape_is_refused_with_both() -> None:
    (problem,) = compare_grids(grid(AFFINE), grid(AFFINE, (40, 50, 21)))
    assert problem.code == "label.other-shape"
    assert (problem.expected, problem.found) == ("40 x 50 x 20", "40 x 50 x 21")


@pytest.mark.parametrize("axis", range(3))
def test_shift_is_refused_in_mm(axis: int) -> None:
    shifted = AFFINE.copy()
    shifted[axis, 3] += 100
    (problem,) = compare_grids(grid(AFFINE), grid(shifted))
    assert problem.code == "label.apart"
    assert "100 mm" in problem.found


@pytest.mark.parametrize("axis", range(3))
def test_mirrored_axis_is_refused(axis: int) -> None:
    mirrored = AFFINE.copy()
    mirrored[:, axis] *= -1
    assert codes(compare_grids(grid(AFFINE), grid(mirrored))) == ["label.apart"]


def test_mirror_about_the_center_is_refused() -> None:
    mirrored = AFFINE.copy()
    mirrored[:3, 3] += 39 * AFFINE[:3, 0]
    mirrored[:, 0] *= -1
    assert codes(compare_grids(grid(AFFINE), grid(mirrored))) == ["label.other-axes"]


def test_rotation_is_refused() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.05), -np.sin(0.05)], [np.sin(0.05), np.cos(0.05)]]
    assert codes(compare_grids(grid(AFFINE), grid(AFFINE @ turn))) == ["label.apart"]


def test_a_tenth_of_a_voxel_is_refused() -> None:
    shifted = AFFINE.copy()
    shifted[:3, 3] += 0.1 * AFFINE[:3, 0]
    assert codes(compare_grids(grid(AFFINE), grid(shifted))) == ["label.apart"]


def test_float_noise_is_accepted() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        noisy = AFFINE * (1 + 1e-6 * random.uniform(-1, 1, (4, 4)))
        noisy[:3, 3] += 0.0099 * AFFINE[:3, :3] @ random.uniform(-1, 1, 3)
        noisy[3] = (0, 0, 0, 1)
        assert compare_grids(grid(AFFINE), grid(noisy)) == []


def test_float32_storage_is_accepted() -> None:
    assert compare_grids(grid(AFFINE), grid(AFFINE.astype(np.float32).astype(np.float64))) == []


def naive_box(values: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the nonzero box, computed voxel by voxel."""
    places = np.argwhere(np.isfinite(values) & (values != 0))
    if not len(places):
        return ((0, 0), (0, 0), (0, 0))
    return tuple((int(places[:, axis].min()), int(places[:, axis].max()) + 1) for axis in range(3))


def test_patch_helper_hits_the_fields(tmp_path: Path) -> None:
    """The offsets above are what nibabel calls these fields."""
    path = save(tmp_path / "a.nii", ramp())
    content = path.read_bytes()
    header = nib.load(path).header
    assert struct.unpack_from("<4h", content, DIM) == (3, *SHAPE)
    assert struct.unpack_from("<h", content, DATATYPE)[0] == header["datatype"]
    assert struct.unpack_from("<4f", content, PIXDIM)[3] == 2
    assert struct.unpack_from("<f", content, VOX_OFFSET)[0] == 352
    assert struct.unpack_from("<hh", content, QFORM_CODE) == (1, 1)
    assert struct.unpack_from("<f", content, SROW)[0] == 1


def test_no_room_for_the_header_that_itk_reads_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pcl_auto.data.formats.nifti_header.read_geometry", full)
    with refused(ResourceError, "disk.full"):
        probe_image(save(tmp_path / "a.nii.gz", ramp()))
