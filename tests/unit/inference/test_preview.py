"""Which way up a preview is: the patient's head above, right and front to the left."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from pairs import in_pairs

from pcl_auto.data.formats.orientation import to_patient


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
    assert np.flip(volume.transpose(axes), flips)[0, 0, 0] == 1
