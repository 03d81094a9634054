"""Connected components against a flood fill and against SciPy, voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pairs import in_pairs
from scipy import ndimage

from pcl_auto.method.label_maps import (
    component_counts,
    component_sizes,
    keep_largest,
    one_piece_classes,
    touching_share,
)


def flood(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """The components of a mask as sets of voxels, in the order of their first voxel; corners connect."""
    left = {tuple(map(int, index)) for index in np.argwhere(mask)}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        piece, front = {start}, [start]
        while front:
            here = front.pop()
            for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
                there = tuple(a + b for a, b in zip(here, step, strict=True))
                if there in left:
                    left.remove(there)
                    piece.add(there)
                    front.append(there)
        found.append(piece)
    return found


def random_labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 0, 0, 0, 0, 0, 1, 2, -1], size=(4, 6, 7))


@pytest.mark.parametrize("seed", range(8))
def test_components_are_those_of_a_flood_fill(seed: int) -> None:
    labels = random_labels(seed)
    assert sorted(component_sizes(labels == 1)) == sorted(len(piece) for piece in flood(labels == 1))
    assert component_counts(labels, {"a": 1, "b": 2}) == {"a": len(flood(labels == 1)), "b": len(flood(labels == 2))}


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_component_stays(seed: int) -> None:
    labels = random_labels(seed)
    before = labels.copy()
    kept = keep_largest(labels, [1])
    pieces = flood(labels == 1)
    largest = max(pieces, key=len)
    expected = labels.copy()
    for piece in pieces:
        if piece is not largest:
            expected[tuple(np.array(sorted(piece)).T)] = 0
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(labels, before)


@in_pairs(
    shape=[(7,), (1, 9), (5, 6), (1, 1, 9), (8, 1, 1), (6, 1, 7), (4, 5, 6), (0, 3), (2, 0, 3)],
    filled=[0.1, 0.3, 0.5, 0.9, 1.0],
    seed=range(6),
    order=["as it is", "transposed", "backward"],
)
def test_components_are_those_of_scipy(shape: tuple[int, ...], filled: float, seed: int, order: str) -> None:
    labels = (np.random.default_rng(seed).random(shape) < filled).astype(np.int16)
    labels = {"as it is": labels, "transposed": labels.T, "backward": labels[..., ::-1]}[order]
    numbers, _ = ndimage.label(labels, ndimage.generate_binary_structure(labels.ndim, labels.ndim))
    sizes = np.bincount(numbers.ravel())[1:]
    assert sorted(component_sizes(labels == 1)) == sorted(sizes)
    # SciPy counts in the order of the array, and the first of equal sizes is the one that stays.
    expected = (numbers == sizes.argmax() + 1).astype(np.int16) if sizes.size else labels
    np.testing.assert_array_equal(keep_largest(labels, [1]), expected)


def test_nothing_to_keep() -> None:
    labels = random_labels(0)
    np.testing.assert_array_equal(keep_largest(labels, []), labels)
    np.testing.assert_array_equal(keep_largest(labels, [9]), labels)
    assert len(component_sizes(np.zeros((2, 3, 4), dtype=bool))) == 0


def line(*pieces: int) -> np.ndarray:
    """A label map in which class 1 has pieces of so many voxels, class 2 is one piece and class 3 is absent."""
    row = [value for piece in pieces for value in [*[1] * piece, 0]]
    values = np.array([[row, [2] * len(row)]]).transpose(0, 2, 1)[:, :, [0, 0, 1]]
    return np.where([True, False, True], values, 0)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([line(5)], [1, 2]),
        ([line(5), line(3, 3)], [2]),
        ([line(99, 1)], [1, 2]),
        ([line(98, 1)], [2]),
        ([line(5), np.zeros((2, 2, 2))], []),
        ([], []),
    ],
)
def test_classes_in_one_piece_are_learned_from_every_case(maps: list[np.ndarray], expected: list[int]) -> None:
    assert one_piece_classes(maps, [1, 2, 3]) == expected


def slow_touching_share(maps: list[np.ndarray], ignored: int | None) -> float:
    """Count border voxels and those that touch another class, voxel by voxel and neighbor by neighbor."""
    border = touching = 0
    for labels in maps:
        for place in np.argwhere((labels > 0) & (labels != ignored)):
            others = set()
            for axis, step in itertools.product(range(labels.ndim), (-1, 1)):
                there = place.copy()
                there[axis] += step
                if 0 <= there[axis] < labels.shape[axis]:
                    others.add(int(labels[tuple(there)]))
            others -= {int(labels[tuple(place)]), *(() if ignored is None else (ignored,))}
            border += bool(others)
            touching += bool(others - {0})
    return touching / border if border else 0.0


@pytest.mark.parametrize("ignored", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_the_border_that_touches_another_class(seed: int, ignored: int | None) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, 6, 9, 8)), (0, 1, 1, 1))
    maps = [np.digitize(each, [0, 0.1, 0.25]) for each in noise]
    assert {*np.unique(maps)} == {0, 1, 2, 3}
    assert touching_share(maps, ignored) == pytest.approx(slow_touching_share(maps, ignored))


def test_one_class_touches_no_other() -> None:
    assert touching_share([np.eye(5, dtype=int)]) == 0
    assert touching_share([np.zeros((4, 4), dtype=int)]) == 0
    assert touching_share([np.array([[1, 2], [1, 2]])]) == 1
