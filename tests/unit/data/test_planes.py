"""Turn volumes to the patient: the head above, right and front to the left."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from pairs import in_pairs

from pcl_auto.data.planes import find_structure, orient, to_patient


@in_pairs(order=list(permutations(range(3))), x=(1, -1), y=(1, -1), z=(1, -1))
def test_head_front_and_right_come_first(order: tuple[int, ...], x: int, y: int, z: int) -> None:
    # Column by column where x, y and z of the volume point to, in (left, back, head), a little oblique.
    direction = np.zeros((3, 3))
    for axis, (toward, sign) in enumerate(zip(order, (x, y, z), strict=True)):
        direction[toward, axis] = sign
    turn = np.radians(15)
    oblique = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) @ direction
    # A voxel near the patient's head, front and right: the last along axes that point there, else the first.
    there = [4 if direction[:, axis] @ (-1, -1, 1) > 0 else 0 for axis in range(3)]
    volume = np.zeros((5, 5, 5))
    volume[tuple(there[::-1])] = 1
    axes, flips = to_patient(oblique.flatten().tolist())
    assert orient(volume, axes, flips)[0, 0, 0] == 1
    assert orient(volume[None], axes, flips)[0, 0, 0, 0] == 1


def test_the_center_is_that_of_the_largest_part_of_the_largest_class() -> None:
    mask = np.zeros((9, 12, 15), np.uint8)
    mask[2:5, 3:6, 7:11] = 200
    mask[3, 4, 2] = mask[8, 11, 14] = 200
    mask[6, 3:9, 5] = 1
    found = find_structure(mask, [(1,), (7, 200), (300,)])
    assert found.center == [2, 3, 7]
    assert found.extent == [(2, 8), (3, 11), (2, 14)]
    assert found.voxels == [6, 38, 0]


def test_of_an_empty_mask_the_middle_is_shown() -> None:
    found = find_structure(np.zeros((9, 12, 15), np.uint16), [(1,), (2,)])
    assert (found.center, found.extent, found.voxels) == ([4, 6, 7], [(0, 8), (0, 11), (0, 14)], [0, 0])
