"""From logits to a mask on the scan's own grid, as nnU-Net makes it, but in the memory of one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from pcl_auto.nnunet.data.images import Properties


def mask_of(
    logits: torch.Tensor,
    plans: PlansManager,
    configuration: ConfigurationManager,
    labels: LabelManager,
    properties: Properties,
) -> np.ndarray:
    """The mask (z, y, x) of a scan.

    Args:
        logits: shape (K, ...), on the grid of the network.
        plans: how nnU-Net turned the axes of the scan.
        configuration: with its spacing and its way of resampling.
        labels: classes, or regions and the values that they are written with.
        properties: of the scan, as its preprocessing has left them.
    """
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing_mm = [properties["spacing"][axis] for axis in plans.transpose_forward]
    return on_scan(mask_inside(logits, shape, spacing_mm, configuration, labels), plans, properties)


def mask_inside(
    logits: torch.Tensor,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    configuration: ConfigurationManager,
    labels: LabelManager,
) -> np.ndarray:
    """The mask of what nnU-Net has cropped a scan to, or of a part of that.

    nnU-Net resamples every class and then compares; one after the other gives the same voxels, and a scan of many
    classes does not have to be held as often as it has classes.

    Args:
        logits: shape (K, ...), on the grid of the network.
        shape: of the result, in the order of the network's axes.
        spacing_mm: of its voxels, in that order.
        configuration: with its spacing and its way of resampling.
        labels: classes, or regions and the values that they are written with.
    """
    # A 2D configuration leaves the spacing between slices as it is.
    current = [*spacing_mm[: len(spacing_mm) - len(configuration.spacing)], *configuration.spacing]
    inside = np.zeros(shape, dtype=dtype_of_masks(labels))
    best = None
    for index in range(len(logits)):
        values = np.asarray(
            configuration.resampling_fn_probabilities(logits[index : index + 1], shape, current, spacing_mm)
        )
        if labels.has_regions:
            inside[np.asarray(labels.apply_inference_nonlin(values))[0] > 0.5] = labels.regions_class_order[index]
        elif best is None:
            best = values[0].copy()
        else:
            inside[values[0] > best] = index
            np.maximum(best, values[0], out=best)
    return inside


def on_scan(inside: np.ndarray, plans: PlansManager, properties: Properties) -> np.ndarray:
    """The mask (z, y, x) of a scan, from that of what nnU-Net has cropped it to."""
    mask: np.ndarray = np.zeros(properties["shape_before_cropping"], dtype=inside.dtype)
    mask[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])] = inside
    return np.transpose(mask, plans.transpose_backward)


def dtype_of_masks(labels: LabelManager) -> type[np.unsignedinteger]:
    """The integers that nnU-Net writes masks in."""
    return np.uint8 if len(labels.foreground_labels) < 255 else np.uint16
