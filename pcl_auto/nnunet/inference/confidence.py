"""Confidences of scans with nnU-Net's networks, and the reference that a training leaves beside its model."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from pcl_auto.data import split as splits
from pcl_auto.data.labels import foreground
from pcl_auto.method.confidence import Reference, confidence
from pcl_auto.method.pseudo_labels import labeled_range
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.labeled_cases import LabeledCases, stored_voxel_ml
from pcl_auto.nnunet.data.pseudo_labels import Segmenter, labels_from
from pcl_auto.nnunet.inference.sliding_window import segmenter
from pcl_auto.workspace.files import read_json, write_json

# Beside the checkpoint of a run.
REFERENCE = "quality.json"
SCHEMA_VERSION = 1
# More would make the tenth of them no surer.
MAX_REFERENCES = 32


def confidence_of(
    segment: Segmenter, labels_of: LabelManager, labels: dict[str, Any], image: np.ndarray, *, in_plane: bool
) -> float:
    """The confidence of a preprocessed image (C, z, y, x); see :func:`pcl_auto.method.confidence.confidence`.

    Args:
        segment: without mirroring, so that scans can be compared with the reference.
        labels_of: nnU-Net's manager of the model's classes.
        labels: those of dataset.json.
        image: preprocessed.
        in_plane: whether the network is two-dimensional.
    """
    try:
        return confidence(
            lambda voxels: segment(torch.from_numpy(voxels)),
            partial(labels_from, labels_of),
            image,
            foreground(labels),
            regions=labels_of.has_regions,
            in_plane=in_plane,
        )
    except RuntimeError as error:
        if "Encountered inf" in str(error):  # nnU-Net's word for logits beyond half precision: nobody trusts them
            return 0.0
        raise


def write_reference(trainer: Any) -> None:
    """Put on file, at the end of a training, how certain the network is of scans without a label, and what to expect.

    Of many unlabeled cases some are looked at, at even distances; volumes are to be expected as in the labeled cases.
    """
    file = trainer.run_folder / REFERENCE
    if file.is_file():
        return
    data, settings = trainer.data, trainer.settings
    labels, configuration = trainer.dataset_json["labels"], trainer.configuration_manager
    cases = {}
    chosen = reference_cases(trainer)
    for case in chosen:
        cases[case] = confidence_in_training(trainer, case)
        trainer.events.notify("confidence", done=len(cases), total=len(chosen))
    voxel_ml = stored_voxel_ml(configuration.spacing, trainer.plans_manager.plans)
    view = data.labeled_view(settings.split, trainer.configuration_name)
    volumes_ml = LabeledCases(view, trainer.do_split()[0], labels, voxel_ml).volumes_ml()
    margin = trainer.recipe.pseudo_label_filter.range_margin
    ranges = {name: labeled_range(volumes, margin) for name, volumes in volumes_ml.items() if volumes.size}
    reference = Reference(tuple(cases.values()), ranges or None)
    write_json(file, {"schema_version": SCHEMA_VERSION, **reference.as_dict(), "cases": cases})


def reference_cases(trainer: Any) -> list[str]:
    """The unlabeled cases of a training whose confidences its model is to be compared with."""
    unlabeled = sorted(splits.from_dict(read_json(trainer.data.split_file(trainer.settings.split))).unlabeled)
    return unlabeled[:: max(1, math.ceil(len(unlabeled) / MAX_REFERENCES))]


def confidence_in_training(trainer: Any, case: str) -> float:
    """The confidence of a stored case, by the network of ``trainer``."""
    image = StoredCases(str(trainer.data.store(trainer.settings.store)), [case]).load_case(case)[0][:]
    in_plane = len(trainer.configuration_manager.patch_size) == 2
    trainer.set_deep_supervision_enabled(False)
    segment = segmenter(trainer, trainer.network, mirroring=False)
    labels = trainer.dataset_json["labels"]
    found = confidence_of(segment, trainer.label_manager, labels, image, in_plane=in_plane)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    return found


def read_reference(fold: Path) -> Reference:
    """What the training of the model in folder ``fold`` has left; nothing is known of a model of stock nnU-Net."""
    file = fold / REFERENCE
    return Reference.from_dict(read_json(file)) if file.is_file() else Reference()
