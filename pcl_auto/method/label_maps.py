"""Read label maps: masks of classes, Dice, connected components."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import cc3d
import numpy as np
from scipy import ndimage

# A class's value, or a region's.
Values = int | tuple[int, ...]
# By name.
Classes = Mapping[str, Values]


def class_mask(labels: np.ndarray, values: Values) -> np.ndarray:
    """Return the mask of the voxels of ``labels``, of any shape, that belong to the class or region of ``values``."""
    found: np.ndarray = labels == values if isinstance(values, int) else np.isin(labels, values)
    return found


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of two masks; NaN where both are empty.

    Raises:
        ValueError: the masks differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"one mask has shape {first.shape}, the other {second.shape}")
    voxels = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / voxels if voxels else math.nan


def mean_dice(first: np.ndarray, second: np.ndarray, classes: Classes) -> float:
    """Return the mean Dice of two label maps over the classes that at least one of them has; 1 where none has any."""
    scores = [dice(class_mask(first, values), class_mask(second, values)) for values in classes.values()]
    defined = [score for score in scores if not math.isnan(score)]
    return float(np.mean(defined)) if defined else 1.0


def touching_share(maps: Iterable[np.ndarray], ignored: int | None = None) -> float:
    """Return the share of the foreground's border voxels that touch another class, over label maps (z, y, x).

    A border voxel has a neighbor across one of its six faces of another value; touching is one whose such neighbor is
    foreground. 0 without any border. Voxels of the ``ignored`` value are neither.
    """
    border = touching = 0
    for labels in maps:
        padded = np.pad(labels, 1, mode="edge")
        is_border, is_touching = np.zeros((2, *labels.shape), dtype=bool)
        for axis, size in enumerate(labels.shape):
            for start in (0, 2):  # the neighbors before and behind
                neighbor = padded[
                    tuple(slice(start, start + size) if each == axis else slice(1, -1) for each in range(labels.ndim))
                ]
                differs = (labels > 0) & (labels != ignored) & (neighbor != labels) & (neighbor != ignored)
                is_border |= differs
                is_touching |= differs & (neighbor > 0)
        border += np.count_nonzero(is_border)
        touching += np.count_nonzero(is_touching)
    return touching / border if border else 0.0


# A class is one piece where its largest component holds this share of its voxels: resampling leaves crumbs.
ONE_PIECE = 0.99


def component_sizes(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of each connected component of a mask, shape (n,); corners connect."""
    _, _, sizes = _components(mask)
    return sizes


def component_counts(labels: np.ndarray, classes: Classes) -> dict[str, int]:
    """Count the connected components of each class in a label map."""
    return {name: len(component_sizes(class_mask(labels, values))) for name, values in classes.items()}


def one_piece_classes(maps: Iterable[np.ndarray], classes: Sequence[int]) -> list[int]:
    """Return the ``classes`` that are one piece in each of the label ``maps``; one that a map lacks is not."""
    one_piece, seen = set(classes), False
    for labels in maps:
        seen = True
        for value in sorted(one_piece):
            sizes = component_sizes(labels == value)
            if sizes.sum() == 0 or sizes.max() < ONE_PIECE * sizes.sum():
                one_piece.remove(value)
    return sorted(one_piece) if seen else []


def keep_largest(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return ``labels`` with background (0) for all but the largest connected component of each of ``classes``.

    Of components of one size the one that comes first in the array stays.
    """
    kept: np.ndarray = labels.copy()
    for value in classes:
        box, numbers, sizes = _components(labels == value)
        if len(sizes) > 1:
            largest = numbers[np.isin(numbers, 1 + np.flatnonzero(sizes == sizes.max()))][0]
            kept[box][(numbers > 0) & (numbers != largest)] = 0
    return kept


def _components(mask: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
    """Find the connected components of a mask of one to three axes.

    Returns:
        the mask's bounding box, as an organ is a small part of a volume; in it the number of each voxel's component,
        0 for background; and the voxels of each component, shape (n,).
    """
    box: tuple[slice, ...] = (slice(0, 0),) * mask.ndim
    if mask.any():
        box = ndimage.find_objects(mask.view(np.uint8))[0]
    inside = mask[box]
    # With a border: cc3d fails on some masks that are a single line of voxels.
    bordered = np.pad(inside.reshape((1,) * (3 - mask.ndim) + inside.shape), 1)
    numbers = cc3d.connected_components(bordered, connectivity=26)[1:-1, 1:-1, 1:-1].reshape(inside.shape)
    return box, numbers, np.bincount(numbers.ravel())[1:]
