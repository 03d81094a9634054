"""The fingerprint: geometry alone, axes turned to nnU-Net's order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pcl_auto.data.formats.nifti import Volume
from pcl_auto.planning.make_plan import make_fingerprint

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def volume(shape: tuple[int, int, int], box: Box) -> Volume:
    """Return what a probe finds of an image, axes x, y, z."""
    return Volume(
        path=Path("image.nii"),
        shape=shape,
        channels=1,
        spacing_mm=(0.5, 0.6, 3.0),
        affine=tuple(tuple(row) for row in np.eye(4).tolist()),
        dtype="int16",
        nonzero_box=box,
        constant_channels=(),
    )


FULL = volume((10, 8, 4), ((0, 10), (0, 8), (0, 4)))
CROPPED = volume((10, 8, 4), ((2, 7), (0, 8), (1, 3)))
EMPTY = volume((10, 8, 4), ((0, 0), (0, 0), (0, 0)))


def test_an_image_of_zeros_keeps_one_voxel() -> None:
    fingerprint = make_fingerprint({"a": EMPTY})
    assert fingerprint["shapes_after_crop"] == [[1, 1, 1]]
    assert fingerprint["median_relative_size_after_cropping"] == pytest.approx(1 / 320)


def test_axes_are_slices_first() -> None:
    fingerprint = make_fingerprint({"a": FULL, "b": CROPPED})
    assert fingerprint["shapes_after_crop"] == [[4, 8, 10], [2, 8, 5]]
    assert fingerprint["spacings"] == [[3.0, 0.6, 0.5], [3.0, 0.6, 0.5]]


def test_cases_are_in_the_order_of_their_names() -> None:
    coarse = replace(CROPPED, spacing_mm=(2.0, 2.0, 2.0))
    fingerprint = make_fingerprint({"b": coarse, "a": FULL})
    assert fingerprint == make_fingerprint({"a": FULL, "b": coarse})
    assert fingerprint["spacings"] == [[3.0, 0.6, 0.5], [2.0, 2.0, 2.0]]
    assert fingerprint["shapes_after_crop"][0] == [4, 8, 10]


def test_the_median_share_that_cropping_leaves() -> None:
    images = {"a": FULL, "b": CROPPED, "c": CROPPED}
    fingerprint = make_fingerprint(images)
    assert fingerprint["median_relative_size_after_cropping"] == pytest.approx(80 / 320)


def test_no_intensity_is_in_it_and_json_holds_it() -> None:
    fingerprint = make_fingerprint({"a": FULL})
    assert fingerprint["foreground_intensity_properties_per_channel"] == {}
    assert json.loads(json.dumps(fingerprint)) == fingerprint
