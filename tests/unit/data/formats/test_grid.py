"""One comparison of geometry for labels, channels and masks; one reading of file names."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pcl_auto.data.formats.grid import CHANNEL_TOLERANCE_VOXELS, TRAINING_TOLERANCE_VOXELS, Grid
from pcl_auto.data.formats.suffixes import find_nifti, nifti_stem, split_suffix

OBLIQUE = np.array([[-0.6, 0.02, 0, 12.0], [0.02, 0.6, 0.1, -34.0], [0, -0.1, 3.5, -120.0], [0, 0, 0, 1]])


def grid(affine: np.ndarray, shape: tuple[int, ...] = (4, 5, 6)) -> Grid:
    return Grid(shape, tuple(tuple(map(float, row)) for row in affine))


def test_itks_geometry_is_that_of_nibabel(tmp_path: Path) -> None:
    turned = OBLIQUE.copy()
    turned[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [0.6, 0.7, 3.5]
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), turned), tmp_path / "a.nii.gz")
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    read = Grid.of_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    np.testing.assert_allclose(read.affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-5)
    assert read.difference(grid(turned), TRAINING_TOLERANCE_VOXELS) is None


def test_the_difference_is_named_and_its_tolerance_is_in_voxels() -> None:
    moved = OBLIQUE.copy()
    moved[:3, 3] += 0.4 * OBLIQUE[:3, 2]
    whole = grid(OBLIQUE)
    assert whole.difference(grid(OBLIQUE, (4, 5, 7)), 1) == "shape"
    assert whole.difference(grid(moved), TRAINING_TOLERANCE_VOXELS) == "position"
    assert whole.difference(grid(moved), CHANNEL_TOLERANCE_VOXELS) is None
    assert whole.distance_mm(grid(moved)) == pytest.approx(0.4 * np.linalg.norm(OBLIQUE[:3, 2]))


def test_grids_of_two_axes() -> None:
    flat = Grid.of_itk((4, 5), (1, 2), (0, 0), (1, 0, 0, 1))
    assert flat.difference(Grid.of_itk((4, 5), (1, 2), (0, 0), (1, 0, 0, 1)), 0) is None
    assert flat.difference(Grid.of_itk((4, 5), (1, 2), (0, 1), (1, 0, 0, 1)), 0.1) == "position"
    assert flat.difference(grid(OBLIQUE), 0.1) == "shape"


@pytest.mark.parametrize(
    ("name", "stem", "suffix", "of_nifti"),
    [
        ("a.nii.gz", "a", ".nii.gz", "a"),
        ("a.b.nii", "a.b", ".nii", "a.b"),
        ("A.NII.GZ", "A", ".nii.gz", "A"),
        ("a.mha", "a", ".mha", None),
        ("a.gz", "a.gz", "", None),
    ],
)
def test_the_suffix_of_a_volume(name: str, stem: str, suffix: str, of_nifti: str | None) -> None:
    assert split_suffix(name) == (stem, suffix)
    assert nifti_stem(name) == of_nifti


def test_a_compressed_volume_is_found_before_a_plain_one(tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    assert find_nifti(tmp_path, "a").name == "a.nii"
    (tmp_path / "a.nii.gz").touch()
    assert find_nifti(tmp_path, "a").name == "a.nii.gz"
