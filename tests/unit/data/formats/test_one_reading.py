"""Every part reads a NIfTI file as ITK does, or refuses it; nibabel finds the same values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat
from toys import patch, ramp, save

from pcl_auto.data.formats.grid import Grid
from pcl_auto.data.formats.nifti import compare_grids, probe_image, probe_label
from pcl_auto.data.formats.nifti_bytes import read_nifti
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.nnunet.data.images import read_image, write_mask

DTYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
PLACES = st.tuples(
    st.tuples(*[st.floats(-3, 3)] * 3),  # axis and angle of a rotation
    st.tuples(*[st.floats(-300, 300)] * 3),
    st.booleans(),  # mirrored
)
SLOPES = st.sampled_from((1.0, 0.0, np.nan, np.inf, 1e-20, 1e-3, -1.0, 0.3, 2.5))
INTERCEPTS = st.sampled_from((0.0, 0.1, -1024.0, 3.0, np.nan, np.inf))
# The same examples every time, and no search for smaller ones.
QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def affine_of(place: Any, spacing: tuple[float, ...]) -> np.ndarray:
    rotation, origin, mirrored = place
    turned = np.eye(4)
    turned[:3, :3] = euler2mat(*rotation) @ np.diag([-1 if mirrored else 1, 1, 1]) @ np.diag(spacing)
    turned[:3, 3] = origin
    return turned


@st.composite
def headers(draw: st.DrawFn) -> nib.Nifti1Header:
    """Headers whose sform and qform agree, name two places, or are missing; with scaling that makes sense or not."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.dtype(draw(st.sampled_from(DTYPES))))
    header.set_data_shape((5, 6, 7) if draw(st.booleans()) else (5, 6, 7, 2))
    spacing = draw(st.tuples(*[st.floats(0.05, 20)] * 3))
    one, other = (affine_of(draw(PLACES), spacing) for _ in range(2))
    header.set_qform(one, draw(st.sampled_from((0, 1, 2, 4))))
    header.set_sform(other if draw(st.booleans()) else one, draw(st.sampled_from((0, 1, 2, 3, 4, 5))))
    if draw(st.booleans()):
        header["pixdim"][1:4] = spacing
    if draw(st.integers(0, 9)) == 0:
        header["srow_x"] *= 1.5  # a spacing that pixdim does not know
    header["xyzt_units"] = draw(st.sampled_from((0, 2, 10)))
    header["scl_slope"], header["scl_inter"] = draw(SLOPES), draw(INTERCEPTS)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header


def write(file: Path, header: nib.Nifti1Header) -> Path:
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    stored = np.random.default_rng(1).integers(0, 120, shape).astype(dtype)
    file.write_bytes(header.binaryblock + bytes(4) + stored.tobytes(order="F"))
    return file


def by_itk(file: Path) -> tuple[np.ndarray, Grid]:
    image = sitk.ReadImage(str(file))
    axes = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (axes, axes))[:3, :3].ravel().tolist()
    voxels = sitk.GetArrayFromImage(image)
    grid = Grid.of_itk(image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3], direction)
    return voxels if axes == 4 else voxels[None], grid


@QUICK
@given(header=headers())
def test_what_is_read_is_what_itk_reads_and_nibabel_too(tmp_path: Path, header: nib.Nifti1Header) -> None:
    file = write(tmp_path / "scan.nii", header)
    _, refusals = read_nifti(file)
    if refusals:
        assert all(problem.code.startswith("nifti.") and problem.fix for problem in refusals)
        return
    volume = read_volume(file)
    voxels, grid = by_itk(file)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype == voxels.dtype
    assert volume.grids[0].difference(grid, 1e-4) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nib.load(file)
        values = np.asarray(image.dataobj, dtype=np.float64)
    np.testing.assert_allclose(np.reshape(values.T, voxels.shape), voxels, rtol=1e-5, atol=1e-4)
    stated = Grid(grid.shape, tuple(map(tuple, image.affine.tolist())))
    assert any(each.difference(stated, 0.1) is None for each in volume.grids)
    # The check knows what is read.
    probed, problems = probe_image(file)
    assert not problems
    assert probed is not None
    assert probed.grids == volume.grids
    assert probed.spacing_mm == volume.geometry.spacing_mm


@QUICK
@given(header=headers())
def test_a_mask_lies_on_every_scan_that_is_read(tmp_path: Path, header: nib.Nifti1Header) -> None:
    scan, mask = write(tmp_path / "scan.nii", header), tmp_path / "mask.nii.gz"
    if read_nifti(scan)[1]:
        return
    image, properties = read_image([scan])
    write_mask((image[0] > 60).astype(np.uint8), mask, properties)
    np.testing.assert_array_equal(nib.load(mask).affine, nib.load(scan).affine)
    voxels, grid = by_itk(mask)
    assert grid == by_itk(scan)[1]
    np.testing.assert_array_equal(voxels[0], image[0] > 60)
    np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj).T, image[0] > 60)
    probed = [probe_image(file)[0] for file in (scan, mask)]
    assert compare_grids(*probed) == []  # type: ignore[arg-type]


@QUICK
@given(header=headers())
def test_readers_that_differ_are_refused(tmp_path: Path, header: nib.Nifti1Header) -> None:
    """The refusals are needed: of every refused scaling ITK and nibabel make two different volumes, or nibabel none."""
    file = write(tmp_path / "scan.nii", header)
    _, problems = read_nifti(file)
    if [problem.code for problem in problems] == ["nifti.scaling"]:
        voxels, _ = by_itk(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                values = np.asarray(nib.load(file).dataobj, dtype=np.float64)
            except nib.spatialimages.HeaderDataError:
                return
        slope = float(header["scl_slope"])
        assert np.isinf(slope) or not np.allclose(values.T.reshape(voxels.shape), voxels)


def with_codes(file: Path, qform: int, sform: int) -> Path:
    return patch(file, 252, "<hh", qform, sform)


def test_a_label_saved_by_itk_on_a_scan_without_codes_is_on_its_grid(tmp_path: Path) -> None:
    scan = with_codes(save(tmp_path / "scan.nii", ramp()), 0, 0)
    label = tmp_path / "label.nii"
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(label))
    assert compare_grids(*(probe_image(file)[0] for file in (scan, label))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [1, 2, 4])
@pytest.mark.parametrize("writer", ["itk", "nibabel"])
def test_a_label_saved_on_a_scan_of_two_places_is_on_its_grid(tmp_path: Path, code: int, writer: str) -> None:
    image = nib.Nifti1Image(ramp(), np.diag([1.0, 1, 2, 1]))
    image.set_qform(np.diag([1.0, 1, 2, 1]), 1)
    image.set_sform(affine_of(((0.3, 0, 0.1), (5, 5, 5), False), (1, 1, 2)), code)
    scan, label = tmp_path / "scan.nii", tmp_path / "label.nii"
    nib.save(image, scan)
    if writer == "itk":
        sitk.WriteImage(sitk.ReadImage(str(scan)), str(label))
    else:
        nib.save(nib.Nifti1Image(ramp(), nib.load(scan).affine), label)
    assert compare_grids(*(probe_image(file)[0] for file in (scan, label))) == []  # type: ignore[arg-type]
    # A third place is another grid.
    nib.save(nib.Nifti1Image(ramp(), np.diag([1.0, 1, 2, 1]) + np.eye(4, k=3)), label)
    assert compare_grids(*(probe_image(file)[0] for file in (scan, label)))  # type: ignore[arg-type]


def test_labels_are_counted_as_they_are_read(tmp_path: Path) -> None:
    label = save(tmp_path / "label.nii", np.full((5, 6, 7), 20, np.uint8))
    patch(label, 112, "<ff", 0.1, -1)  # 20 * float32(0.1) - 1 is 1 in 32 bits, as ITK has it, not in 64
    probed, problems = probe_label(label, (0, 1))
    assert problems == []
    assert probed is not None
    assert probed.label_values == {1: 210}
    assert np.unique(read_volume(label).voxels).tolist() == [1.0]


# Every code that NIfTI names, and some that it does not.
INTENTS = [*range(25), 100, 500, 999, *range(1001, 1012), 1500, *range(2000, 2021), -1]


@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 3), (3, 4, 5, 6), (3, 4, 5, 1, 1), (3, 4, 5, 1, 3)])
def test_every_intent_is_read_as_itk_reads_it_or_refused(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    file = tmp_path / "scan.nii"
    stored = np.random.default_rng(0).integers(1, 100, shape).astype(dtype)
    nib.save(nib.Nifti1Image(stored, np.diag([1.0, 1, 2, 1])), file)
    sitk.ProcessObject.GlobalWarningDisplayOff()
    for intent in INTENTS:
        patch(file, 68, "<h", intent)
        content, problems = read_nifti(file)
        if content is None:
            expected = "nifti.too-many-dimensions" if len(shape) == 5 and shape[-1] > 1 else "nifti.intent"
            assert [problem.code for problem in problems] == [expected]
            assert expected != "nifti.intent" or intent in (1004, 1005, 1006)
        else:
            voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
            np.testing.assert_array_equal(read_volume(file).voxels, voxels.reshape(read_volume(file).voxels.shape))
