"""The labels of a data set: classes of one value, regions of several, and the value of ignored voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BACKGROUND, IGNORE = "background", "ignore"

# More different values than this are no label map, but an image.
MAX_VALUES = 1024
# As in nnU-Net's dataset.json: a region is the list of its values.
Labels = dict[str, int | list[int]]


def values_of(value: int | Sequence[int]) -> tuple[int, ...]:
    """Return the value of a class, or those of a region."""
    return (value,) if isinstance(value, int) else tuple(value)


def foreground(labels: Mapping[str, int | Sequence[int]]) -> dict[str, int | tuple[int, ...]]:
    """Return the values of every class or region, without the background and the ignore label."""
    return {
        name: value if isinstance(value, int) else tuple(value)
        for name, value in labels.items()
        if name not in (BACKGROUND, IGNORE)
    }


def ignore_value(labels: Mapping[str, int | Sequence[int]]) -> int | None:
    """Return the value of voxels that nobody has labeled, or None."""
    value = labels.get(IGNORE)
    return value if isinstance(value, int) else None


def has_regions(labels: Mapping[str, int | Sequence[int]]) -> bool:
    """Tell whether the labels are regions, which may overlap; a list of one value makes none, as in nnU-Net."""
    return any(len(values_of(value)) > 1 for value in labels.values())


def head_count(labels: Mapping[str, int | Sequence[int]]) -> int:
    """Return the number of a network's output channels: the background has one only where there are no regions."""
    return len(foreground(labels)) + (not has_regions(labels))


def all_values(labels: Mapping[str, int | Sequence[int]]) -> list[int]:
    """Return every value that a label map may hold, in order."""
    return sorted({each for value in labels.values() for each in values_of(value)})


def meaning(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the outputs and inputs of a network mean by a dataset.json of nnU-Net, as plain values to compare.

    Outputs of classes are in the order of their values; those of regions in the order in which the file has them.
    """
    labels: Mapping[str, int | Sequence[int]] = dataset_json["labels"]
    values = {str(name): [*values_of(value)] for name, value in labels.items()}
    regions, order = has_regions(labels), dataset_json.get("regions_class_order")
    return {
        "labels": [[name, value] for name, value in values.items()] if regions else values,
        "regions_class_order": [*order] if regions and order is not None else None,
        "channel_names": {str(channel): str(name) for channel, name in dataset_json.get("channel_names", {}).items()},
    }


def format_values(value: int | Sequence[int]) -> str:
    """Return the value of a class, or those of a region, for a message: 3, 1+2+3."""
    return "+".join(map(str, values_of(value)))
