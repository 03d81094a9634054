"""Along which axes the classes are in order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pcl_auto.method.class_order import axis_orders


def halves(axis: int, *, swapped: bool = False, shape: tuple[int, ...] = (10, 12, 14)) -> np.ndarray:
    """A box of two classes, one behind the other along ``axis``."""
    labels = np.zeros(shape, np.uint8)
    box = labels[2:-2, 2:-2, 2:-2]
    box[...] = 1
    np.moveaxis(box, axis, 0)[box.shape[axis] // 2 :] = 2
    return (3 - labels) * (labels > 0) if swapped else labels


def ring() -> np.ndarray:
    """A class that encloses another one, in plane."""
    z, y, x = np.ogrid[:6, -8:9, -8:9]
    radius = np.sqrt(y**2 + x**2) + 0 * z
    return np.where(radius < 3, 2, np.where(radius < 6, 1, 0)).astype(np.uint8)


def slow_distances(maps: list[np.ndarray], classes: list[int]) -> list[float]:
    """Measure as the docstring says, voxel by voxel and pair by pair."""
    found = []
    for axis in range(3):
        greatest = 0.0
        for one in classes:
            for other in classes:
                apart = []
                for labels in maps:
                    a = [float(place[axis]) for place, value in np.ndenumerate(labels) if value == one]
                    b = [float(place[axis]) for place, value in np.ndenumerate(labels) if value == other]
                    if a and b:
                        center = [sum(each) / len(each) for each in (a, b)]
                        squares = [
                            sum((value - middle) ** 2 for value in each) / len(each) + 1 / 12
                            for each, middle in zip((a, b), center, strict=True)
                        ]
                        apart.append((center[0] - center[1]) / math.sqrt(sum(squares) / 2))
                if apart and all(distance > 0 for distance in apart):
                    greatest = max(greatest, *[min(apart)])
        found.append(greatest)
    return found


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_classes_one_behind_the_other_are_in_order_along_that_axis_alone(axis: int) -> None:
    found = axis_orders([halves(axis), halves(axis, shape=(12, 10, 16))])
    assert [entry.mirrored for entry in found] == [each != axis for each in range(3)]
    assert found[axis].measure == pytest.approx(math.sqrt(12), rel=0.05)  # halves of a box


def test_classes_that_change_sides_are_in_no_order() -> None:
    assert all(entry.mirrored for entry in axis_orders([halves(1), halves(1, swapped=True)]))
    assert not all(entry.mirrored for entry in axis_orders([halves(1, swapped=True)] * 2))


def test_what_encloses_another_class_is_in_no_order_with_it() -> None:
    assert [entry.measure for entry in axis_orders([ring()])] == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("maps", [[halves(0) // 2], [np.zeros((3, 4, 5), np.uint8)], []])
def test_one_class_or_none_is_in_no_order(maps: list[np.ndarray]) -> None:
    assert [(entry.axis, entry.measure, entry.mirrored) for entry in axis_orders(maps)] == [
        (0, 0.0, True), (1, 0.0, True), (2, 0.0, True),
    ]  # fmt: skip


def test_a_case_that_lacks_a_class_says_nothing_of_it() -> None:
    assert axis_orders([halves(1), halves(1) // 2]) == axis_orders([halves(1)])


def test_voxels_that_nobody_labeled_are_no_class() -> None:
    labels = halves(1)
    ignored = labels.copy()
    ignored[:2] = 3
    assert axis_orders([ignored], 3) == axis_orders([labels])
    assert axis_orders([ignored])[0].measure > 1


def test_classes_of_one_voxel_have_an_order() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 1, 1], labels[0, 1, 3] = 1, 2
    assert [entry.mirrored for entry in axis_orders([labels])] == [True, True, False]


def test_distances_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.choice([0, 0, 1, 2, 4], size=(4, 5, 6)) for _ in range(3)]
    maps = [np.sort(labels, axis=index % 3) for index, labels in enumerate(maps)]
    maps[1][maps[1] == 4] = 0
    measured = [entry.measure for entry in axis_orders(maps)]
    assert measured == pytest.approx(slow_distances(maps, [1, 2, 4]))
    assert max(measured) > 0
