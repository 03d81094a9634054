"""Where a label map holds a class, which is one of its values, or a region, which is several."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# A class's value, or a region's.
Values = int | tuple[int, ...]
# By name.
Classes = Mapping[str, Values]


def holds(labels: np.ndarray, values: Values) -> np.ndarray:
    """A mask of the voxels of ``labels``, of any shape, that belong to the class or region of ``values``."""
    found: np.ndarray = labels == values if isinstance(values, int) else np.isin(labels, values)
    return found
