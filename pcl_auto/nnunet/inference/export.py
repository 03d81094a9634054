"""Bring logits and stored pseudo-labels back to the scan's own grid, as nnU-Net does, in the memory of one class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.images import Properties
from pcl_auto.nnunet.data.pseudo_label_files import read_labels
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.workspace.files import read_json

# Logits that leave no doubt.
_SURE = 20.0


def labels_from(labels_of: LabelManager, logits: torch.Tensor) -> np.ndarray:
    """Turn logits (K, z, y, x) to a label map (z, y, x); of regions the values they are written with."""
    # nnU-Net would look for the largest of the classes on the CPU.
    found = labels_of.convert_logits_to_segmentation(logits) if labels_of.has_regions else logits.argmax(0)
    labels: np.ndarray = found.cpu().numpy().astype(np.int16)
    return labels


def mask_of(
    logits: torch.Tensor,
    plans: PlansManager,
    configuration: ConfigurationManager,
    labels: LabelManager,
    properties: Properties,
) -> np.ndarray:
    """Return the mask (z, y, x) of a scan.

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
    """Return the mask of the part to which nnU-Net has cropped a scan, or of a part of that.

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
    """Return the mask (z, y, x) of a scan, from that of the part to which nnU-Net has cropped it."""
    mask: np.ndarray = np.zeros(properties["shape_before_cropping"], dtype=inside.dtype)
    mask[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])] = inside
    return np.transpose(mask, plans.transpose_backward)


def dtype_of_masks(labels: LabelManager) -> type[np.unsignedinteger]:
    """Return the type of integers that nnU-Net writes masks in; a larger one where the values of regions need it."""
    values = [*labels.foreground_labels, *(labels.regions_class_order or ())]
    return np.uint8 if len(labels.foreground_labels) < 255 and max(values) <= 255 else np.uint16


def pseudo_label(model: Path, configuration: str, stored: Path, case: str) -> tuple[np.ndarray, Properties]:
    """Return a stored pseudo-label as a mask (z, y, x) on its scan's own grid, and the geometry to write it with.

    Args:
        model: the model folder, for nnU-Net's plans.
        configuration: of the run.
        stored: the folder of a round's cases.
        case: one of them.
    """
    plans_json, dataset_json = read_json(model / "plans.json"), read_json(model / "dataset.json")
    require_trusted(plans_json, dataset_json, model)
    plans = PlansManager(plans_json)
    manager = plans.get_label_manager(dataset_json)
    _, _, _, properties = StoredCases(str(stored), [case]).load_case(case)
    labels = read_labels(stored, case)
    channels = manager.foreground_regions if manager.has_regions else manager.all_labels
    # Resampled as logits are: smooth, and each voxel has one class in the end.
    logits = np.stack([np.where(np.isin(labels, values), _SURE, -_SURE).astype(np.float32) for values in channels])
    mask = mask_of(torch.from_numpy(logits), plans, plans.get_configuration(configuration), manager, properties)
    return mask, properties
