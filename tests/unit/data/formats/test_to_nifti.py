"""Volumes of other formats as NIfTI: the same voxels in the same place, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from headed_files import metaimage, nrrd
from refusal import refused

from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.data.formats.to_nifti import write_as_nifti
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import DataError


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("of_another", [".mha", ".nrrd"])
def test_voxels_and_place_stay(tmp_path: Path, of_another: str, ending: str) -> None:
    source = {".mha": metaimage, ".nrrd": nrrd}[of_another](tmp_path / f"scan{of_another}")
    target = tmp_path / "new" / f"scan{ending}"
    write_as_nifti(source, target)
    before, after = read_volume(source), read_volume(target)
    assert before.voxels.dtype == after.voxels.dtype
    assert np.array_equal(before.voxels, after.voxels)
    assert before.grids[0].difference(after.grids[0], 1e-4) is None
    assert probe_image(target)[1] == []


def test_values_per_voxel_become_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-9, 99, (3, 4, 5, 2)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=True), tmp_path / "scan.nrrd")
    write_as_nifti(tmp_path / "scan.nrrd", tmp_path / "scan.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "scan.nii.gz").voxels, np.moveaxis(values, -1, 0))


def test_what_is_too_long_for_nifti(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.Image(40000, 2, 2, SimpleITK.sitkUInt8), tmp_path / "scan.mha")
    with refused(DataError, "nifti.cannot-hold"):
        write_as_nifti(tmp_path / "scan.mha", tmp_path / "scan.nii.gz")
    assert not (tmp_path / "scan.nii.gz").exists()
