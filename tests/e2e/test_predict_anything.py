"""One command on what a hospital hands out: DICOM, NRRD and NIfTI of the same scan, and what is no scan among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scanner import write_series
from shell import Shell, codes


@pytest.mark.slow
def test_every_format_gives_the_same_mask(shell: Shell, task: Path, trained: Path, tmp_path: Path) -> None:
    voxels, spacing_mm = _whole_numbers(next(iter(sorted((task / "imagesTs").iterdir()))))
    scans = tmp_path / "scans"
    scans.mkdir()
    image = SimpleITK.GetImageFromArray(voxels, isVector=False)
    image.SetSpacing((*spacing_mm, 1))
    for name in ("nifti.nii.gz", "nrrd.nrrd"):
        SimpleITK.WriteImage(image, str(scans / name))
    positions_mm = [(0, 0, spacing_mm[2] * index) for index in range(voxels.shape[1])]
    pixel: dict[str, Any] = {"PixelSpacing": [spacing_mm[1], spacing_mm[0]], "RescaleIntercept": 0}
    for channel in range(2):
        write_series(scans / "anna" / f"_{channel:04d}", voxels[channel], positions_mm=positions_mm, **pixel)
    write_series(scans / "one_channel", voxels[0], positions_mm=positions_mm, **pixel)
    tilted = [(0, z / 4, z) for _, _, z in positions_mm]
    write_series(scans / "tilted", voxels[0], positions_mm=tilted, **pixel)
    write_series(scans / "scout", voxels[0][:3], ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])

    done = shell.pclauto(
        "predict", scans, "-o", tmp_path / "out", "--workspace", trained, "--no-mirroring", "--preview",
        "--keep-format", "--json", code=3,
    )  # fmt: skip

    result = json.loads(done.stdout)
    cases = {case["id"]: case for case in result["cases"]}
    assert (result["done"], result["failed"]) == (3, 2)
    assert cases["scout_3"]["status"] == "skipped"
    assert codes(cases["tilted"]["problems"]) == ["dicom.gantry-tilt"]
    assert codes(cases["one_channel"]["problems"]) == ["data.channel-count"]
    masks = {case: SimpleITK.ReadImage(cases[case]["output"]) for case in ("anna", "nifti", "nrrd")}
    assert {Path(cases[case]["output"]).name for case in masks} == {"anna.nii.gz", "nifti.nii.gz", "nrrd.nrrd"}
    for case, mask in masks.items():
        np.testing.assert_allclose(mask.GetSpacing(), spacing_mm, rtol=1e-6)
        np.testing.assert_array_equal(*(SimpleITK.GetArrayFromImage(each) for each in (mask, masks["nifti"])))
        assert cases[case]["volumes_ml"] == cases["nifti"]["volumes_ml"]
        assert Path(cases[case]["preview"]).stat().st_size > 1000

    shown = shell.pclauto("predict", scans / "anna", "-o", tmp_path / "other", "--workspace", trained, "--dicom-seg")
    assert (tmp_path / "other" / "anna.dcm").stat().st_size > 1000
    volume_ml = next(iter(cases["anna"]["volumes_ml"]))
    assert volume_ml in shown.stdout
    assert "anna" in shown.stdout


def _whole_numbers(scan: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """The voxels (C, z, y, x) of a scan as DICOM can hold them, and its spacing (x, y, z)."""
    image = SimpleITK.ReadImage(str(scan))
    return np.rint(SimpleITK.GetArrayFromImage(image)).astype(np.int16), tuple(
        round(step, 4) for step in image.GetSpacing()[:3]
    )
