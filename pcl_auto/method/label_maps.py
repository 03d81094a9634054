"""Read label maps: masks of classes, Dice of two maps, connected components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import ndimage

# A class's value, or a region's.
Values = int | tuple[int, ...]
# By name.
Classes = Mapping[str, Values]


def class_mask(labels: np.ndarray, values: Values) -> np.ndarray:
    """A mask of the voxels of ``labels``, of any shape, that belong to the class or region of ``values``."""
    found: np.ndarray = labels == values if isinstance(values, int) else np.isin(labels, values)
    return found


def mean_dice(first: np.ndarray, second: np.ndarray, classes: Classes) -> float:
    """Mean Dice of two label maps over the classes that at least one of them holds; 1 where neither holds any."""
    scores = []
    for values in classes.values():
        masks = class_mask(first, values), class_mask(second, values)
        size = sum(map(np.count_nonzero, masks))
        if size:
            scores.append(2 * np.count_nonzero(masks[0] & masks[1]) / size)
    return float(np.mean(scores)) if scores else 1.0


# A class is one piece where its largest component holds this share of its voxels: resampling leaves crumbs.
ONE_PIECE = 0.99


def component_sizes(mask: np.ndarray) -> np.ndarray:
    """Voxels of every connected component of a mask, shape (n,); voxels that touch at a corner are connected."""
    _, _, sizes = _components(mask)
    return sizes


def component_counts(labels: np.ndarray, classes: Classes) -> dict[str, int]:
    """How many connected components each class has in a label map of any shape."""
    return {name: len(component_sizes(class_mask(labels, values))) for name, values in classes.items()}


def one_piece_classes(maps: Iterable[np.ndarray], classes: Sequence[int]) -> list[int]:
    """The ``classes`` that are one piece in every one of the label ``maps``; one that a map lacks is not."""
    one_piece, seen = set(classes), False
    for labels in maps:
        seen = True
        for value in sorted(one_piece):
            sizes = component_sizes(labels == value)
            if sizes.sum() == 0 or sizes.max() < ONE_PIECE * sizes.sum():
                one_piece.remove(value)
    return sorted(one_piece) if seen else []


def keep_largest(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """``labels`` with background (0) for all but the largest connected component of each of ``classes``.

    Of components of one size the one that comes first in the array stays.
    """
    kept: np.ndarray = labels.copy()
    for value in classes:
        box, numbers, sizes = _components(labels == value)
        if len(sizes) > 1:
            kept[box][(numbers > 0) & (numbers != sizes.argmax() + 1)] = 0
    return kept


def _components(mask: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
    """The mask's bounding box, the number of each voxel's component in it (0 outside) and the sizes, shape (n,).

    In its bounding box, as an organ is a small part of a volume.
    """
    found = ndimage.find_objects(mask.view(np.uint8))
    box: tuple[slice, ...] = found[0] if found else (slice(0, 0),) * mask.ndim
    numbers, _ = ndimage.label(mask[box], ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    return box, numbers, np.bincount(numbers.ravel())[1:]
