"""What a pseudo-label leaves out: the least sure voxels of each class, and as many beside it."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method.unsure_voxels import unsure_voxels


def slow_unsure(labels: np.ndarray, logits: np.ndarray, share: float) -> set[tuple[int, ...]]:
    """Sort the voxels of each class, and the background next to it in the order of the logits, by their lead."""
    marked: set[tuple[int, ...]] = set()
    for value in range(1, len(logits)):
        inside, beside = [], []
        for place in np.ndindex(labels.shape):
            first, second = sorted(range(len(logits)), key=lambda k, place=place: -logits[k][place])[:2]  # type: ignore[misc]
            rival = max(range(1, len(logits)), key=lambda k, place=place: logits[k][place])  # type: ignore[misc]
            if labels[place] == first == value:
                inside.append((logits[first][place] - logits[second][place], place))
            if labels[place] == first == 0 and rival == value:
                beside.append((logits[0][place] - logits[rival][place], place))
        count = int(share * len(inside))
        marked |= {place for _, place in [*sorted(inside)[:count], *sorted(beside)[:count]]}
    return marked


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_least_sure_of_each_class_and_as_much_background(classes: int, share: float) -> None:
    logits = np.random.default_rng(classes).normal(size=(classes, 5, 6, 7)).astype(np.float32)
    logits[0] += 0.5
    labels = logits.argmax(axis=0).astype(np.int16)
    labels[0, :3] = 0  # as where anatomy has decided
    unsure = unsure_voxels(labels, logits, share)
    assert {tuple(place) for place in np.argwhere(unsure).tolist()} == slow_unsure(labels, logits, share)
    assert not unsure[labels != logits.argmax(axis=0)].any()


def test_a_class_whose_voxels_are_all_unlikely_keeps_the_likeliest() -> None:
    logits = np.array([[0.0, 0.0, 0.0, 9.0], [0.1, 0.2, 0.3, 0.0]], np.float32).reshape(2, 1, 1, 4)
    assert unsure_voxels(logits.argmax(axis=0), logits, 0.7).ravel().tolist() == [True, True, False, True]
    assert not unsure_voxels(np.zeros((1, 1, 4), np.int16), np.zeros((2, 1, 1, 4), np.float32), 0.7).any()
