"""Compare the masks of arrays with those of their files; refuse what is no image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pairs import in_pairs
from refusal import refused
from tiny_model import make_model

from pcl_auto.errors import DataError, StateError
from pcl_auto.inference.predict import predict, predict_array

SHAPE = (7, 12, 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("array") / "model")


def image(dtype: str = "float32") -> np.ndarray:
    """Return a scan with an empty border, which nnU-Net crops."""
    voxels = np.random.default_rng(0).normal(100, 20, SHAPE).astype(dtype)
    voxels[0], voxels[:, :2] = 0, 0
    return voxels


@in_pairs(
    spacing_mm=[(1.0, 1.0, 1.0), (5.0, 0.75, 0.75), (0.5, 2.0, 1.25)],
    dtype=["float32", "float64", "int16"],
    ending=[".nii.gz", ".nrrd"],
    turned=[False, True],
)
def test_an_array_gives_the_mask_of_its_file(
    tmp_path: Path, model: Path, spacing_mm: tuple[float, ...], dtype: str, ending: str, turned: bool
) -> None:
    scan = SimpleITK.GetImageFromArray(image(dtype))
    scan.SetSpacing(spacing_mm[::-1])
    if turned:
        scan.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(scan, str(tmp_path / f"a{ending}"))
    (result,) = predict(
        [tmp_path / f"a{ending}"], tmp_path / "out", model, device="cpu", mirroring=False, listener=lambda *_: None
    )
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(result.output)))
    for array in (image(dtype), image(dtype)[None]):
        mask = predict_array(array, spacing_mm, model, device="cpu", mirroring=False)
        assert mask.dtype == expected.dtype
        np.testing.assert_array_equal(mask, expected)
    assert 0 < expected.mean() < 1


def test_an_affine_tells_axes_in_another_order(model: Path) -> None:
    affine = np.diag([0.75, 0.5, 5.0, 1.0])
    assert predict_array(image(), (5, 0.5, 0.75), model, affine=affine, device="cpu", mirroring=False).shape == SHAPE
    with refused(DataError, "data.spacing") as refusal:
        predict_array(image(), (0.75, 0.5, 5), model, affine=affine, device="cpu")
    assert refusal.problem.found == "(0.75, 0.5, 5.0)"


@pytest.mark.parametrize(
    ("array", "spacing_mm", "code"),
    [
        (image()[0], (1, 1, 1), "data.not-a-volume"),
        (image()[:0], (1, 1, 1), "data.not-a-volume"),
        (image().astype(complex), (1, 1, 1), "data.not-a-volume"),
        (np.where(image() > 100, math.nan, 0), (1, 1, 1), "data.not-finite"),
        (image(), (1, 1), "data.spacing"),
        (image(), (1, 1, 0), "data.spacing"),
        (image(), (1, 1, math.nan), "data.spacing"),
    ],
)
def test_what_is_no_image_is_refused(model: Path, array: np.ndarray, spacing_mm: Any, code: str) -> None:
    with refused(DataError, code):
        predict_array(array, spacing_mm, model, device="cpu")


def test_another_number_of_channels_is_refused(model: Path) -> None:
    with refused(StateError, "data.channel-count"):
        predict_array(np.stack([image(), image()]), (1, 1, 1), model, device="cpu")
