"""From logits to a mask on the scan's own grid, as nnU-Net makes it, but in the memory of one class."""

from __future__ import annotations

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from pcl_auto.nnunet.images import Properties


def mask_of(
    logits: torch.Tensor,
    plans: PlansManager,
    configuration: ConfigurationManager,
    labels: LabelManager,
    properties: Properties,
) -> np.ndarray:
    """The mask (z, y, x) of a scan.

    nnU-Net resamples every class and then compares; one after the other gives the same voxels, and a scan of many
    classes does not have to be held as often as it has classes.

    Args:
        logits: shape (K, ...), on the grid of the network.
        plans: how nnU-Net turned the axes of the scan.
        configuration: with its spacing and its way of resampling.
        labels: classes, or regions and the values that they are written with.
        properties: of the scan, as its preprocessing has left them.
    """
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    # A 2D configuration leaves the spacing between slices as it is.
    current = [*spacing[: len(spacing) - len(configuration.spacing)], *configuration.spacing]
    inside = np.zeros(shape, dtype=np.uint8 if len(labels.foreground_labels) < 255 else np.uint16)
    best = None
    for index in range(len(logits)):
        values = np.asarray(
            configuration.resampling_fn_probabilities(logits[index : index + 1], shape, current, spacing)
        )
        if labels.has_regions:
            inside[np.asarray(labels.apply_inference_nonlin(values))[0] > 0.5] = labels.regions_class_order[index]
        elif best is None:
            best = values[0].copy()
        else:
            inside[values[0] > best] = index
            np.maximum(best, values[0], out=best)
    mask: np.ndarray = np.zeros(properties["shape_before_cropping"], dtype=inside.dtype)
    mask[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])] = inside
    return np.transpose(mask, plans.transpose_backward)
