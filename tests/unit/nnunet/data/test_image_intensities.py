"""Intensities of whole images are those of their nonzero region, and no label's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pcl_auto.data.case import Case
from pcl_auto.nnunet.data import image_intensities as module
from pcl_auto.nnunet.data.image_intensities import image_intensities


def case_with(folder: Path, name: str, voxels: np.ndarray) -> Case:
    """Write a scan of one channel (x, y, z); its label is a file that nobody can read."""
    file = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), np.eye(4)), file)
    label = folder / f"{name}_label.nii.gz"
    label.write_bytes(b"not to be opened")
    return Case(id=name, image=file, label=label, source="imagesTr")


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    rng = np.random.default_rng(0)
    made = []
    for name, shift in (("a", 100.0), ("b", -50.0)):
        voxels = np.zeros((9, 10, 11))
        voxels[2:8, 1:9, 3:10] = rng.normal(shift, 20.0, (6, 8, 7))
        made.append(case_with(tmp_path, name, voxels))
    return made


def inside(cases: list[Case]) -> np.ndarray:
    """Return the voxels of the region that is not zero, hole by hole of none here."""
    volumes = [np.asanyarray(nibabel.load(case.image).dataobj) for case in cases]
    return np.concatenate([volume[volume != 0] for volume in volumes]).astype(np.float32)


def test_they_are_those_of_all_voxels_of_the_region(cases: list[Case]) -> None:
    values = inside(cases)
    (found,) = image_intensities(cases, 1).values()
    expected = {
        "mean": values.mean(), "median": np.median(values), "std": values.std(), "min": values.min(),
        "max": values.max(), "percentile_00_5": np.percentile(values, 0.5),
        "percentile_99_5": np.percentile(values, 99.5),
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-4)


def test_of_large_images_the_same_voxels_are_drawn_every_time(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_INTENSITIES_PER_CASE", 200)
    first, again = (image_intensities(cases, 1)["0"] for _ in range(2))
    assert first == again
    assert first["mean"] == pytest.approx(float(inside(cases).mean()), abs=15)
    assert first["min"] >= inside(cases).min()


def test_each_channel_has_its_own(cases: list[Case]) -> None:
    both = [replace(cases[0], further=(cases[1].image,))]
    found = image_intensities(both, 2)
    assert found["0"]["mean"] == pytest.approx(float(inside([cases[0]]).mean()), rel=1e-4)
    assert found["1"]["mean"] == pytest.approx(float(inside([cases[1]]).mean()), rel=1e-4)
