"""Compare the voxels that a pseudo-label leaves out with a slow search for the least sure ones."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method.unsure_voxels import Doubts, expected_voxels, unsure_voxels


def slow_unsure(labels: np.ndarray, logits: np.ndarray, counts: dict[int, tuple[int, int]]) -> set[tuple[int, ...]]:
    """Sort the voxels of each class, and the background whose next best it is, by their lead."""
    marked: set[tuple[int, ...]] = set()
    for value, (most_inside, most_beside) in counts.items():
        inside, beside = [], []
        for place in np.ndindex(labels.shape):
            ranked = sorted((-float(logits[k][place]), k) for k in range(len(logits)))
            lead, first, second = ranked[1][0] - ranked[0][0], ranked[0][1], ranked[1][1]
            if labels[place] == first == value:
                inside.append((lead, place))
            if labels[place] == first == 0 and second == value:
                beside.append((lead, place))
        marked |= {place for _, place in [*sorted(inside)[:most_inside], *sorted(beside)[:most_beside]]}
    return marked


def drawn(classes: int) -> tuple[np.ndarray, np.ndarray]:
    logits = np.random.default_rng(classes).normal(size=(classes, 5, 6, 7)).astype(np.float32)
    logits[0] += 0.5
    labels = logits.argmax(axis=0).astype(np.int16)
    labels[0, :3] = 0  # as where anatomy has decided
    return labels, logits


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_least_sure_of_each_class_and_as_much_background(classes: int, share: float) -> None:
    labels, logits = drawn(classes)
    unsure = unsure_voxels(labels, logits, Doubts(share, {}))
    counts = {value: int(share * (labels == value).sum()) for value in range(1, classes)}
    expected = slow_unsure(labels, logits, {value: (count, count) for value, count in counts.items()})
    assert {tuple(place) for place in np.argwhere(unsure).tolist()} == expected
    assert not unsure[labels != logits.argmax(axis=0)].any()


def test_what_a_class_has_beyond_its_size_or_lacks_is_in_doubt() -> None:
    labels, logits = drawn(4)
    sizes = {value: int((labels == value).sum()) for value in (1, 2, 3)}
    unsure = unsure_voxels(labels, logits, Doubts(0.0, {1: sizes[1] - 5, 2: sizes[2] + 7}))
    assert {tuple(place) for place in np.argwhere(unsure).tolist()} == slow_unsure(
        labels, logits, {1: (5, 0), 2: (0, 7)}
    )
    # Both rules: whichever doubts more.
    assert Doubts(0.5, {1: 70}).counts(1, 100) == (50, 50)
    assert Doubts(0.5, {1: 20}).counts(1, 100) == (80, 50)
    assert Doubts(0.5, {1: 200}).counts(1, 100) == (50, 100)
    assert Doubts(0.5, {1: 20}).counts(2, 100) == (50, 50)


def test_a_class_has_a_size_if_its_labeled_volumes_are_alike() -> None:
    volumes_ml = {
        1: np.array([2.0, 8.0]),
        2: np.array([2.0, 8.1]),
        3: np.array([0.0, 3.0]),
        4: np.zeros(2),
        5: np.zeros(0),
    }
    assert expected_voxels(volumes_ml, 0.5) == {1: 8}


def test_a_class_whose_voxels_are_all_unlikely_keeps_the_likeliest() -> None:
    logits = np.array([[0.0, 0.0, 0.0, 9.0], [0.1, 0.2, 0.3, 0.0]], np.float32).reshape(2, 1, 1, 4)
    assert unsure_voxels(logits.argmax(axis=0), logits, Doubts(0.7, {})).ravel().tolist() == [True, True, False, True]
    assert not unsure_voxels(np.zeros((1, 1, 4), np.int16), np.zeros((2, 1, 1, 4), np.float32), Doubts(0.7, {})).any()
