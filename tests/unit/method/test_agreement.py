"""Agreement of a segmentation with itself under transforms."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method.agreement import MAX_DEGREES, SCALES, InPlane, agreement, draw_transforms

CLASSES = {"a": 1, "b": 2}


def blob() -> np.ndarray:
    """An image (2, z, y, x) of two discs off the center, one in each channel."""
    _, y, x = np.meshgrid(np.arange(3), np.arange(41), np.arange(51), indexing="ij")
    first = (y - 15) ** 2 + (x - 20) ** 2 < 40
    second = (y - 26) ** 2 + (x - 33) ** 2 < 50
    return np.stack([first, second]).astype(np.float32)


def rounded(image: np.ndarray) -> np.ndarray:
    return np.asarray((image[0] > 0.5) + 2 * (image[1] > 0.5), dtype=np.int16)


@pytest.mark.parametrize(
    "transform", [InPlane(0, 1, mirrored=False), InPlane(20, 1.1, mirrored=True), InPlane(-30, 0.9, mirrored=False)]
)
def test_undo_brings_labels_back(transform: InPlane) -> None:
    image = blob()
    back = transform.undo(rounded(transform.apply(image)))
    for value in (1, 2):
        truth = rounded(image) == value
        assert 2 * np.sum(truth & (back == value)) / (truth.sum() + np.sum(back == value)) > 0.93


@pytest.mark.parametrize("transform", [InPlane(17, 1.07, mirrored=True), InPlane(-8, 0.93, mirrored=False)])
def test_a_voxel_comes_from_where_it_should(transform: InPlane) -> None:
    """Reference: for every voxel of the new slice, the point it shows, by hand and with the nearest voxel."""
    labels = rounded(blob())
    shown = transform.undo(labels)
    angle, center = np.deg2rad(transform.degrees), (np.array(labels.shape[1:]) - 1) / 2
    for y in range(0, labels.shape[1], 7):
        for x in range(0, labels.shape[2], 7):
            dy, dx = np.array([y, x]) - center
            # The inverse of: mirror, turn, divide by the scale.
            turned = transform.scale * np.array(
                [np.cos(angle) * dy + np.sin(angle) * dx, -np.sin(angle) * dy + np.cos(angle) * dx]
            )
            at = turned * [1, -1 if transform.mirrored else 1] + center
            source = np.floor(at + 0.5).astype(int)
            inside = ((at >= 0) & (at <= np.array(labels.shape[1:]) - 1)).all()
            assert shown[1, y, x] == (labels[1, source[0], source[1]] if inside else 0)


def test_what_segments_alike_under_every_transform_agrees() -> None:
    transforms = draw_transforms("case", 0, mirror=True)
    assert agreement(rounded, blob(), transforms, CLASSES) > 0.93
    assert agreement(lambda image: 0 * rounded(image), blob(), transforms, CLASSES) == 1.0


def test_what_depends_on_the_place_in_the_slice_does_not_agree() -> None:
    def left_half(image: np.ndarray) -> np.ndarray:
        labels = np.zeros(image.shape[1:], dtype=np.int16)
        labels[..., : image.shape[-1] // 2] = 1
        return labels

    turned, mirrored = InPlane(0, 1, mirrored=False), InPlane(0, 1, mirrored=True)
    assert agreement(left_half, blob(), (turned, mirrored), CLASSES) < 0.05


def test_transforms_are_drawn_by_case_and_seed() -> None:
    drawn = [draw_transforms(case, seed, mirror=True) for case in ("a", "b") for seed in range(20)]
    assert len(set(drawn)) == len(drawn)
    assert drawn[3] == draw_transforms("a", 3, mirror=True)
    every = [transform for pair in drawn for transform in pair]
    assert all(abs(t.degrees) <= MAX_DEGREES and SCALES[0] <= t.scale <= SCALES[1] for t in every)
    assert {transform.mirrored for transform in every} == {True, False}
    assert not any(t.mirrored for seed in range(20) for t in draw_transforms("a", seed, mirror=False))
