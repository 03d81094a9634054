"""Evaluations put on record with the model whose masks were scored."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.data.labels import foreground, has_regions, ignore_value
from pcl_auto.evaluation.metrics import Evaluation, evaluate
from pcl_auto.inference.masks import RECORD
from pcl_auto.method.label_maps import Classes
from pcl_auto.workspace.files import read_json, write_json

# Of a model folder.
SCORES = "evaluations"
SCHEMA_VERSION = 1


def evaluate_on_record(
    predictions: Path,
    labels: Path,
    *,
    classes: Classes | None = None,
    ignored: int | None = None,
    allow_missing: bool = False,
) -> tuple[Evaluation, Path | None]:
    """:func:`pcl_auto.evaluation.metrics.evaluate`, and where the scores were written beside the model.

    They are where ``predictions`` is a folder that ``pclauto predict`` filled from a model that is still there as it
    was; None otherwise. Scores on the same labels replace earlier ones. Such a model also says which values its regions
    have and which voxels are ignored, where ``classes`` and ``ignored`` do not.

    Raises:
        UsageError, DataError: see :func:`pcl_auto.evaluation.metrics.evaluate`.
    """
    record = read_json(predictions / RECORD) if (predictions / RECORD).is_file() else {}
    model = Path(record.get("model", ""))
    description = model / "dataset.json"
    named = read_json(description).get("labels", {}) if record and description.is_file() else {}
    if classes is None and has_regions(named):
        classes = foreground(named)
    ignored = ignore_value(named) if ignored is None else ignored
    evaluation = evaluate(predictions, labels, classes=classes, ignored=ignored, allow_missing=allow_missing)
    if not record or not _unchanged(model, record.get("checkpoints", {})):
        return evaluation, None
    settings = {"labels": str(labels.resolve()), "mirroring": record.get("mirroring")}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "predictions": str(predictions.resolve()),
        **settings,
        **evaluation.as_dict(),
    }
    try:
        write_json(model / SCORES / f"{digest}.json", content)
    except OSError:  # somebody else's model
        return evaluation, None
    return evaluation, model / SCORES / f"{digest}.json"


def _unchanged(model: Path, checkpoints: dict[str, list[int]]) -> bool:
    """Whether the checkpoints are those that the masks were made with."""
    return bool(checkpoints) and all(
        (model / name).is_file() and [(model / name).stat().st_size, (model / name).stat().st_mtime_ns] == state
        for name, state in checkpoints.items()
    )
