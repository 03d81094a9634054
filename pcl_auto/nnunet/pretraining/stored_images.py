"""Cut patches out of stored images; nothing else of a case is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pcl_auto.nnunet.data.cases import StoredCases, reading


class StoredImages:
    """The images of some cases of a case store."""

    def __init__(self, folder: Path, cases: Sequence[str]) -> None:
        """Look at the shape of each image.

        Raises:
            StateError: one is missing or damaged.
        """
        self._stored = StoredCases(str(folder), list(cases))
        shapes = {case: self._stored.open_image(case).shape for case in cases}
        self.channels = int(next(iter(shapes.values()))[0])
        # Along z, y, x.
        self.shapes = {case: tuple(int(size) for size in shape[1:]) for case, shape in shapes.items()}

    def read(self, case: str, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Read a box of an image, with 0, the mean of a normalized image, where it reaches beyond the image.

        Args:
            case: whose image.
            start: first voxel along z, y, x; may be negative.
            size: of the box along z, y, x.

        Returns:
            Voxels, float32, shape (C, *size).

        Raises:
            StateError: the file is damaged.
        """
        box = np.zeros((self.channels, *size), dtype=np.float32)
        shape = self.shapes[case]
        low = [max(0, first) for first in start]
        high = [min(first + length, whole) for first, length, whole in zip(start, size, shape, strict=True)]
        if all(first < end for first, end in zip(low, high, strict=True)):
            every = [slice(None)]
            inside = [slice(first - begin, end - begin) for first, end, begin in zip(low, high, start, strict=True)]
            wanted = [slice(first, end) for first, end in zip(low, high, strict=True)]
            with reading(lambda: self._stored):
                box[tuple(every + inside)] = self._stored.open_image(case)[tuple(every + wanted)]
        return box
