"""Reading a volume of any format, and masks that state the place of their scan."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from refusal import refused
from toys import patch, ramp, save

from pcl_auto.data.formats import nifti_header
from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.grid import Geometry
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import DataError, Problem
from pcl_auto.nnunet.data.images import read_image, read_label, write_mask

PLACE = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
ROWS = ("srow_x", "srow_y", "srow_z")


def two_places(code: int) -> nib.Nifti1Image:
    image = nib.Nifti1Image(ramp(), np.diag([1.0, 1, 2, 1]))
    turned = np.diag([1.0, 1, 2, 1])
    turned[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    turned[:3, 3] = 5
    image.set_qform(np.diag([1.0, 1, 2, 1]), 1)
    image.set_sform(turned, code)
    return image


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_a_cut_file_is_refused(tmp_path: Path, name: str) -> None:
    whole = save(tmp_path / "whole.nii.gz", ramp()).read_bytes()
    content = whole if name.lower().endswith(".gz") else gzip.decompress(whole)
    (tmp_path / name).write_bytes(content[: len(content) // 2 + 180])
    with refused(DataError, "data.truncated"):
        read_volume(tmp_path / name)


def test_what_itk_cannot_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no image")
    with refused(DataError, "data.unreadable") as refusal:
        read_volume(Series("", "scout", (tmp_path / "a.dcm",)))
    assert refusal.problem.where == f"{tmp_path} (series scout)"
    with refused(DataError, "data.unknown-format"):
        read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize("code", [0, 1, 2, 4])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_mask_lies_on_its_scan_for_every_reader(tmp_path: Path, code: int, suffix: str) -> None:
    scan, mask = tmp_path / "scan.nii.gz", tmp_path / f"mask{suffix}"
    nib.save(two_places(code), scan)
    if code == 0:
        save(scan, ramp())
        patch_zipped(scan, 252, "<hh", 0, 0)
    image, properties = read_image([scan])
    write_mask((image[0] > 100).astype(np.uint8), mask, properties)
    np.testing.assert_array_equal(nib.load(mask).affine, nib.load(scan).affine)
    ours, theirs = nib.load(mask).header, nib.load(scan).header
    for field in (*PLACE, *ROWS):
        np.testing.assert_array_equal(ours[field], theirs[field])
    by_itk = [sitk.ReadImage(str(file)) for file in (mask, scan)]
    for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection, sitk.Image.GetSize):
        assert read(by_itk[0]) == read(by_itk[1])
    np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj).T, image[0] > 100)
    np.testing.assert_array_equal(read_label(mask)[0], image[0] > 100)


def test_a_mask_of_a_scan_with_channels_is_a_volume(tmp_path: Path) -> None:
    scan = save(tmp_path / "scan.nii.gz", np.stack([ramp(), ramp() + 1], axis=-1))
    image, properties = read_image([scan])
    write_mask(np.ones(image.shape[1:], np.uint16), tmp_path / "mask.nii.gz", properties)
    assert nib.load(tmp_path / "mask.nii.gz").shape == image.shape[:0:-1]
    assert nib.load(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint16


def test_equal_masks_are_equal_files(tmp_path: Path) -> None:
    image, properties = read_image([save(tmp_path / "scan.nii.gz", ramp())])
    for name in ("a", "b"):
        write_mask(np.ones(image.shape[1:], np.uint8), tmp_path / f"{name}.nii.gz", properties)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def patch_zipped(file: Path, offset: int, layout: str, *values: Any) -> None:
    plain = file.with_name("plain.nii")
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    file.write_bytes(gzip.compress(patch(plain, offset, layout, *values).read_bytes()))
    plain.unlink()


def test_a_header_that_itk_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = save(tmp_path / "scan.nii", ramp())
    problem = Problem("nifti.not-for-itk", "ITK cannot read the header", str(scan), "export it again")
    monkeypatch.setattr(nifti_header, "read_geometry", lambda *_arguments: problem)
    with refused(DataError, "nifti.not-for-itk"):
        read_volume(scan)


def test_a_place_that_itk_reads_otherwise_than_every_field_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = save(tmp_path / "scan.nii", ramp())
    elsewhere = Geometry((1.0, 1.0, 2.0), (56.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    monkeypatch.setattr(nifti_header, "read_geometry", lambda *_arguments: elsewhere)
    with refused(DataError, "nifti.read-otherwise"):
        read_volume(scan)
