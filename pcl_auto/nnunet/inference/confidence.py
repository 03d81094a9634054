"""Keep, beside a trained model, how confident it is of scans without a label: what later scans are compared with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pcl_auto.data import split as splits
from pcl_auto.method.confidence import Reference
from pcl_auto.method.pseudo_labels import labeled_range
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.labeled_cases import LabeledCases, stored_voxel_ml
from pcl_auto.nnunet.inference.sliding_window import window_of
from pcl_auto.nnunet.network import full_resolution_only
from pcl_auto.workspace.files import read_json, refusing_nonsense, write_json

# Beside the checkpoint of a run.
REFERENCE = "quality.json"
SCHEMA_VERSION = 1
# Of the file; "certainties" is the name of version 0.1.
SHAPE = {
    "ranges_ml?": ({...: [float, float]}, None), "confidences?": [float], "certainties?": [float],
    "cases?": {...: float},
}  # fmt: skip
# More would not make their tenth percentile much more precise.
MAX_REFERENCES = 32


def write_reference(trainer: Any) -> None:
    """Write the confidences of unlabeled cases, and the volumes of the labeled ones, at the end of a training.

    Of many unlabeled cases some are looked at, at even distances. What is on file stays.
    """
    file = trainer.run_folder / REFERENCE
    if file.is_file():
        return
    data, settings = trainer.data, trainer.settings
    labels, configuration = trainer.dataset_json["labels"], trainer.configuration_manager
    cases: dict[str, float] = {}
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
    """Return the unlabeled cases of a training whose confidences are kept."""
    unlabeled = sorted(splits.read_split(trainer.data.split_file(trainer.settings.split)).unlabeled)
    return unlabeled[:: max(1, math.ceil(len(unlabeled) / MAX_REFERENCES))]


def confidence_in_training(trainer: Any, case: str) -> float:
    """Return the confidence of a stored case, by the network of ``trainer``."""
    image = StoredCases(str(trainer.data.store(trainer.settings.store)), [case]).load_case(case)[0][:]
    with full_resolution_only(trainer):
        return window_of(trainer, trainer.network, mirroring=False).confidence(image)


def read_reference(fold: Path) -> Reference:
    """Return what the training of the model in folder ``fold`` has left; nothing for a model of stock nnU-Net."""
    file = fold / REFERENCE
    if not file.is_file():
        return Reference()
    with refusing_nonsense(file):
        return Reference.from_dict(read_json(file, SHAPE))
