"""Classes of pseudo-labels bounded by the labeled volumes."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method.volume_cap import cap_volumes, max_voxels


def slow_cap(labels: np.ndarray, logits: np.ndarray, voxels: dict[int, int]) -> np.ndarray:
    """Take the least sure voxel of a class away, one by one, until there are few enough."""
    capped: np.ndarray = labels.copy()
    for step, (value, most) in enumerate(voxels.items()):
        closed = [value, *list(voxels)[:step]]
        while (capped == value).sum() > most:
            best = None
            for place in zip(*np.nonzero(capped == value), strict=True):
                others = [(logits[k][place], -k) for k in range(len(logits)) if k not in closed]
                lead = logits[value][place] - max(others)[0]
                if best is None or lead < best[0]:
                    best = lead, place, -max(others)[1]
            assert best is not None
            capped[best[1]] = best[2]
    return capped


@pytest.mark.parametrize("voxels", [{1: 9}, {1: 5, 2: 3}, {2: 3, 1: 5, 3: 0}, {3: 10_000}, {}])
def test_the_least_sure_voxels_go_to_the_next_best_class(voxels: dict[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 3, 4, 5)).astype(np.float32)
    labels = logits.argmax(axis=0).astype(np.uint8)
    before = labels.copy()
    capped = cap_volumes(labels, logits, voxels)
    np.testing.assert_array_equal(capped, slow_cap(labels, logits, voxels))
    np.testing.assert_array_equal(labels, before)
    assert capped.dtype == labels.dtype
    assert all((capped == value).sum() <= most for value, most in voxels.items())


def test_voxels_that_are_equally_sure_go_in_their_order() -> None:
    logits = np.zeros((2, 1, 1, 4), np.float32)
    capped = cap_volumes(np.ones((1, 1, 4), np.uint8), logits, {1: 2})
    assert capped.ravel().tolist() == [0, 0, 1, 1]


def test_the_bound_is_of_the_largest_labeled_volume() -> None:
    volumes_ml = {1: np.array([2.0, 3.0]), 2: np.array([0.5, 0.0]), 3: np.zeros(2), 4: np.zeros(0)}
    assert max_voxels(volumes_ml, 0.01, 1.2) == {1: 360, 2: 60}
