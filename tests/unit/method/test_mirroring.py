"""Along which axes a data set is symmetric."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method.mirroring import MIN_CASES, axis_symmetries, thumbnail

SIDE = 20


def scan(rng: np.random.Generator, *, left_right: bool) -> np.ndarray:
    """A scan (1, z, y, x), brighter upwards and forwards; with ``left_right`` also to one side, the same in all."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    image = z + 2 * np.maximum(y, 0) + x**2 + (x if left_right else 0)
    return np.asarray(image + rng.normal(0, 0.5, image.shape))[None]


@pytest.mark.parametrize(("left_right", "expected"), [(False, [False, False, True]), (True, [False, False, False])])
def test_axes_along_which_mirrored_scans_exist(left_right: bool, expected: list[bool]) -> None:
    rng = np.random.default_rng(0)
    found = axis_symmetries([thumbnail(scan(rng, left_right=left_right)) for _ in range(12)])
    assert [entry.axis for entry in found] == [0, 1, 2]
    assert [entry.mirrored for entry in found] == expected


def test_left_and_right_organs_in_one_data_set_are_mirrored_scans_of_each_other() -> None:
    rng = np.random.default_rng(1)
    scans = [scan(rng, left_right=True) for _ in range(16)]
    found = axis_symmetries([thumbnail(s[..., ::-1] if index % 2 else s) for index, s in enumerate(scans)])
    assert [entry.mirrored for entry in found] == [False, False, True]


def test_the_share_is_what_it_says() -> None:
    rng = np.random.default_rng(2)
    scans = [thumbnail(rng.normal(size=(2, 13, 12, 15))) for _ in range(9)]
    for entry in axis_symmetries(scans):
        nearer = []
        for i, mirrored in enumerate(np.flip(scan, entry.axis + 1) for scan in scans):
            to_others = max(float((mirrored * other).sum()) for j, other in enumerate(scans) if j != i)
            for k, plain in enumerate(scans):
                nearer.append(to_others >= max(float((plain * o).sum()) for j, o in enumerate(scans) if j != k))
        assert entry.measure == pytest.approx(np.mean(nearer))


def test_a_thumbnail_knows_nothing_of_brightness_and_contrast() -> None:
    image = np.random.default_rng(3).normal(size=(1, 24, 30, 17))
    small = thumbnail(image)
    assert small.shape == (1, 12, 12, 12)
    assert np.linalg.norm(small) == pytest.approx(1)
    np.testing.assert_allclose(small, thumbnail(3 * image + 40), atol=1e-5)


def test_an_empty_scan_has_an_empty_thumbnail() -> None:
    assert not thumbnail(np.full((1, 3, 4, 5), 7.0)).any()


def test_of_few_scans_nothing_is_said() -> None:
    rng = np.random.default_rng(4)
    scans = [thumbnail(scan(rng, left_right=False)) for _ in range(MIN_CASES)]
    assert axis_symmetries(scans[:-1]) == []
    assert len(axis_symmetries(scans)) == 3
