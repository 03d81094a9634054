"""Read the scores of a training on its held-out labeled cases: the folds of a cross-validation, or validation cases."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pcl_auto.data.labels import foreground
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.run_record import RECORD, read_record
from pcl_auto.workspace.shapes import LABELS, NUMBER

_FOLD = re.compile(r"fold_[0-9]{1,9}")
# Of nnU-Net's summary.
_MEANS = {"Dice?": (NUMBER, None), ...: object}
_SUMMARY = {"mean?": {...: _MEANS}, "foreground_mean?": _MEANS, "metric_per_case?": [object]}


@dataclass(frozen=True)
class FoldScores:
    """The Dice of a fold on its held-out cases.

    ``dice``: the mean of each class, None where no held-out case has it. ``mean``: over the classes, None until the
    fold has been validated.
    """

    folder: Path
    cases: int
    dice: list[float | None]
    mean: float | None


def read_fold_scores(model: Path) -> list[FoldScores]:
    """Read the folds of the cross-validation in ``model``, in order, or its one training with validation cases."""
    numbered = [file.parent for file in model.glob(f"fold_*/{RECORD}") if _FOLD.fullmatch(file.parent.name)]
    folders = sorted(numbered, key=lambda path: int(path.name[5:]))
    one = model / "fold_all"
    if (one / RECORD).is_file() and read_record(one)["identity"]["split"]["validation"]:
        folders.append(one)
    # nnU-Net names a class by its value and a region by its tuple.
    classes = [str(values) for values in foreground(read_json(model / "dataset.json", LABELS)["labels"]).values()]
    return [_read(folder, classes) for folder in folders]


def mean_over_folds(folds: Sequence[FoldScores]) -> list[float | None]:
    """Average each class and the mean over the folds that have a value; None where none has."""
    columns = zip(*([*fold.dice, fold.mean] for fold in folds), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return [fmean(values) if values else None for values in known]


def _read(folder: Path, classes: Sequence[str]) -> FoldScores:
    file = folder / "validation" / "summary.json"
    summary = read_json(file, _SUMMARY) if file.is_file() else {}
    dice = [_dice(summary.get("mean", {}).get(name, {})) for name in classes]
    return FoldScores(folder, len(summary.get("metric_per_case", [])), dice, _dice(summary.get("foreground_mean", {})))


def _dice(entry: dict[str, Any]) -> float | None:
    value = entry.get("Dice")
    return None if value is None or math.isnan(value) else float(value)
