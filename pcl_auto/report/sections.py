"""What a training scored on the labeled cases that it held out, as the folds of a cross-validation or to validate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.data.labels import foreground
from pcl_auto.recipe.time_budget import format_duration
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.record import RECORD

# --- What a run was forecast to take, beside what it took.

_NAMES = {"wall_s": "time", "memory_mb": "memory", "gpu_memory_mb": "GPU memory", "disk_mb": "disk"}


def forecast_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What, forecast and measured, of a finished run; nothing that was neither forecast nor measured."""
    forecast, measured = record.get("forecast", {}), record.get("measured")
    if measured is None:
        return []
    return [
        (name, _told(key, forecast.get(key)), _told(key, measured.get(key)))
        for key, name in _NAMES.items()
        # nnU-Net's estimate says nothing of a run without a GPU.
        if measured.get(key) is not None or (key != "gpu_memory_mb" and forecast.get(key) is not None)
    ]


def _told(key: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return format_duration(value) if key.endswith("_s") else f"{value:.0f} MB"


# --- What a training scored on the labeled cases that it held out, as the folds of a cross-validation or to validate.


@dataclass(frozen=True)
class FoldScores:
    """Mean Dice of a fold on its held-out cases.

    ``dice``: of every class, None where no held-out case has it. ``mean``: None until the fold has been validated.
    """

    folder: Path
    cases: int
    dice: list[float | None]
    mean: float | None


def fold_scores(model: Path) -> list[FoldScores]:
    """The folds of the cross-validation in ``model``, in order, or its one training with validation cases; or none."""
    folders = sorted((file.parent for file in model.glob(f"fold_[0-9]*/{RECORD}")), key=lambda path: int(path.name[5:]))
    one = model / "fold_all"
    if (one / RECORD).is_file() and read_json(one / RECORD)["identity"]["split"]["validation"]:
        folders.append(one)
    labels = foreground(read_json(model / "dataset.json")["labels"])
    return [_read(folder, labels.values()) for folder in folders]


def over_folds(values: Sequence[float | None]) -> float | None:
    """The mean of what the folds have; None where none has a value."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _read(folder: Path, classes: Iterable[int | tuple[int, ...]]) -> FoldScores:
    file = folder / "validation" / "summary.json"
    summary = read_json(file) if file.is_file() else {}
    # nnU-Net sorts its keys as text and calls a region by its tuple.
    dice = [_dice(summary.get("mean", {}).get(str(values), {})) for values in classes]
    return FoldScores(folder, len(summary.get("metric_per_case", [])), dice, _dice(summary.get("foreground_mean", {})))


def _dice(entry: dict[str, Any]) -> float | None:
    value = entry.get("Dice")
    return None if value is None or math.isnan(value) else float(value)
