"""Stored pseudo-labels on the grids of their scans, for editors of masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.images import Properties, write_mask
from pcl_auto.nnunet.inference.export import mask_of
from pcl_auto.nnunet.trusted import require_trusted
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import read_json

# Logits that leave no doubt.
_SURE = 20.0


def pseudo_label(model: Path, configuration: str, stored: Path, case: str) -> tuple[np.ndarray, Properties]:
    """A stored pseudo-label as a mask (z, y, x) on its scan's own grid, and the geometry to write it with.

    Args:
        model: the model folder, for nnU-Net's plans.
        configuration: of the run.
        stored: the folder of a round's cases.
        case: one of them.
    """
    plans_json, dataset_json = read_json(model / "plans.json"), read_json(model / "dataset.json")
    require_trusted(plans_json, dataset_json, model)
    plans = PlansManager(plans_json)
    labels_of = plans.get_label_manager(dataset_json)
    _, seg, _, properties = StoredCases(str(stored), [case]).load_case(case)
    labels = np.maximum(seg[0], 0)
    channels = labels_of.foreground_regions if labels_of.has_regions else labels_of.all_labels
    # Resampled as logits are: smooth, and each voxel has one class in the end.
    logits = np.stack([np.where(np.isin(labels, values), _SURE, -_SURE).astype(np.float32) for values in channels])
    mask = mask_of(torch.from_numpy(logits), plans, plans.get_configuration(configuration), labels_of, properties)
    return mask, properties


def write_pseudo_label(model: Path, configuration: str, stored: Path, case: str, folder: Path) -> Path:
    """Write a stored pseudo-label, see :func:`pseudo_label`, into ``folder``; returns the file."""
    mask, properties = pseudo_label(model, configuration, stored, case)
    target = folder / f"{case}.nii.gz"
    with atomic_path(target) as temporary:
        write_mask(mask, temporary, properties)
    return target
