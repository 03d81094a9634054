"""Put evaluations on record with the model whose masks were scored."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.data.labels import foreground, has_regions, ignore_value
from pcl_auto.evaluation.metrics import Evaluation, evaluate
from pcl_auto.inference.masks import RECORD, checkpoint_states
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
    """Score masks by :func:`pcl_auto.evaluation.metrics.evaluate`; return also the file of scores beside the model.

    There is one if ``pclauto predict`` made the masks in the folder ``predictions`` and their model is unchanged, else
    None. Scores on the same labels replace earlier ones. ``classes`` and ``ignored`` default to the regions and the
    ignore label of that model.

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
    made_by, states = record.get("checkpoints", {}), checkpoint_states(model)
    if not made_by or any(states.get(name) != state for name, state in made_by.items()):
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
