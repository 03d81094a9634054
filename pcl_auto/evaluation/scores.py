"""Put evaluations on record with the model whose masks were scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.data.formats.suffixes import find_volume
from pcl_auto.data.labels import Labels, foreground, has_regions, ignore_value
from pcl_auto.errors import Problem, StateError, format_names
from pcl_auto.evaluation.metrics import Evaluation, evaluate
from pcl_auto.inference.mask_record import (
    RECORD,
    MaskEntry,
    MaskRecord,
    file_state,
    labels_of,
    model_of,
    read_record,
    recorded_sources,
)
from pcl_auto.method.label_maps import Classes
from pcl_auto.workspace.files import file_digest, write_json
from pcl_auto.workspace.shapes import NAME

# Of a model folder.
SCORES = "evaluations"
SCHEMA_VERSION = 1
_VALUE = (float, None)
_MEANS = {"dice": {"mean": _VALUE, ...: object}, "hd95_mm": {"mean": _VALUE, ...: object}, ...: object}
# Of the file of scores, see pcl_auto.workspace.shapes.
SHAPE = {
    "time": str,
    "predictions": str,
    "labels": str,
    "mirroring?": (bool, None),
    "mean": {"dice": _VALUE, "hd95_mm": _VALUE},
    "per_class": {...: _MEANS},
    "cases": [{"id": NAME, "dice": {...: _VALUE}, "hd95_mm": {...: _VALUE}}],
    "scored?": {...: {...: (str, None)}},
    "scored_as?": {"classes": ({...: object}, None), "ignored": (int, None)},
}


def evaluate_on_record(
    predictions: Path,
    labels: Path,
    *,
    classes: Classes | None = None,
    ignored: int | None = None,
    allow_missing: bool = False,
) -> tuple[Evaluation, Path | None]:
    """Score masks by :func:`pcl_auto.evaluation.metrics.evaluate`; return also the file of scores beside the model.

    There is one if ``pclauto predict`` made the masks in the folder ``predictions`` as they are now
    (:func:`masks_of_others`) and their model is unchanged and of a training of pclauto, else None: a record can name
    any folder. Scores on the same labels replace earlier ones; those of a single file, and those against masks of
    ``pclauto predict``, are not kept.
    ``classes`` and ``ignored`` default to the regions and the ignore label that :func:`labels_on_record` knows.

    Raises:
        UsageError, DataError: see :func:`pcl_auto.evaluation.metrics.evaluate`.
        StateError: the record of the masks is damaged, some are still those of another model, or of another scan.
    """
    folder = predictions if predictions.is_dir() else predictions.parent
    record = read_record(folder)
    if record is not None:
        if folder == predictions:
            _refuse_two_models(record, folder)
        _refuse_exchanged(record, folder, None if folder == predictions else predictions.name)
    named = labels_on_record(predictions) or {}
    if classes is None and has_regions(named):
        classes = foreground(named)
    ignored = ignore_value(named) if ignored is None else ignored
    before = _states(
        file for place in (predictions, labels) for file in (place.iterdir() if place.is_dir() else [place])
    )
    evaluation = evaluate(predictions, labels, classes=classes, ignored=ignored, allow_missing=allow_missing)
    if has_record(labels):
        evaluation = replace(evaluation, warnings=[*evaluation.warnings, _labels_are_masks(labels)])
    cases = [case.id for case in evaluation.cases]
    is_kept = record is not None and folder == predictions and not has_record(labels)
    model = model_of(record.made_by) if record is not None and is_kept else None
    if record is None or model is None or (model / SCORES).is_symlink() or masks_of_others(predictions, cases):
        return evaluation, None
    settings = {"labels": str(labels.resolve()), "mirroring": record.made_by.mirroring}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "predictions": str(predictions.resolve()),
        **settings,
        "scored_as": {"classes": classes, "ignored": ignored},
        "scored": {
            case: {
                **_digests(predictions / record.scans[case].mask, find_volume(labels, case)),
                "scan": _scan_digest(record.scans[case]),
            }
            for case in cases
        },
        **evaluation.as_dict(),
    }
    if changed := _changed(before, [predictions, labels], cases, record):
        return replace(evaluation, warnings=[*evaluation.warnings, changed]), None
    try:
        write_json(model / SCORES / f"{digest}.json", content)
    except OSError as error:  # somebody else's model
        what, fix = "scores are not kept with the model", "nothing, or make its folder writable and repeat the command"
        unkept = Problem("score.not-kept", what, str(model), fix, found=error.strerror or str(error))
        return replace(evaluation, warnings=[*evaluation.warnings, unkept]), None
    return evaluation, model / SCORES / f"{digest}.json"


def labels_on_record(predictions: Path) -> Labels | None:
    """Return what the values of masks mean, by the record of ``pclauto predict`` beside them, or by its model.

    None where there is no record, or where it is of version 0.2 or before and the model is gone or has changed.

    Args:
        predictions: a folder of masks, or one mask.
    """
    is_folder = predictions.is_dir()
    record = read_record(predictions if is_folder else predictions.parent)
    if record is None:
        return None
    old = [] if is_folder else [entry for entry in record.old.values() if entry.mask == predictions.name]
    return labels_of(old[0].made_by if old else record.made_by)


def has_record(predictions: Path) -> bool:
    """Tell whether ``pclauto predict`` has left its record with masks, a folder of them or one."""
    return ((predictions if predictions.is_dir() else predictions.parent) / RECORD).is_file()


def _labels_are_masks(labels: Path) -> Problem:
    what, fix = "`pclauto predict` made what stands for the labels", "name masks first and labels second"
    return Problem("score.labels-are-masks", what, str(labels), fix, "labels", f"masks with a {RECORD}")


def masks_of_others(predictions: Path, cases: Sequence[str]) -> list[str]:
    """List the masks that are not as ``pclauto predict`` has put them on record: their scores are not the model's.

    Of records of version 0.2, which have no digests, those that are younger than the record.
    """
    record = read_record(predictions)
    if record is None:
        return [*cases]
    written_ns = (predictions / RECORD).stat().st_mtime_ns

    def is_recorded(case: str) -> bool:
        entry = record.scans.get(case)
        mask = None if entry is None else predictions / entry.mask
        if entry is None or mask is None or not mask.is_file():
            return False
        if entry.sha256 is None:
            return mask.stat().st_mtime_ns <= written_ns
        return file_digest(mask) == entry.sha256

    return [case for case in cases if not is_recorded(case)]


def is_as_scored(scores: Mapping[str, Any], case: str, mask: Path, label: Path) -> bool:
    """Tell whether mask and label of a case are still those that were scored; scores of version 0.2 do not say."""
    scored = scores.get("scored", {}).get(case)
    return scored is None or _digests(mask, label).items() <= scored.items()


def differ_in_input(scores: Mapping[str, Any], other: Mapping[str, Any], case: str) -> list[str]:
    """List of ``label`` and ``scan`` what two evaluations of a case were not made of alike, by the digests of both.

    What one of them does not know, as scores of version 0.2, is taken to be the same.
    """
    own, theirs = (each.get("scored", {}).get(case, {}) for each in (scores, other))
    return [key for key in ("label", "scan") if own.get(key) and theirs.get(key) and own[key] != theirs[key]]


def _scan_digest(entry: MaskEntry) -> str | None:
    """Return one value for the files that a mask was made from; None where they are no longer as they were then."""
    try:
        recorded_sources(entry)
        digests = [file_digest(Path(path)) for files in entry.files for path, *_ in files]
    except (StateError, OSError):
        return None
    return hashlib.sha256("-".join(digests).encode()).hexdigest()


def _digests(mask: Path, label: Path) -> dict[str, str]:
    return {"mask": file_digest(mask), "label": file_digest(label)}


def _states(files: Iterable[Path]) -> dict[Path, list[int]]:
    return {file: file_state(file) for file in files if file.is_file()}


def _changed(
    before: Mapping[Path, list[int]], folders: Sequence[Path], cases: Sequence[str], record: MaskRecord
) -> Problem | None:
    """Name what is no longer what was scored, whose digests would stand beside the scores of other bytes."""
    files = [find_volume(folder, case) for folder in folders for case in cases]
    after = _states(files)
    changed = [file.name for file in files if file not in after or after[file] != before.get(file)]
    now = read_record(folders[0])
    if now is None or now.made_by != record.made_by:
        changed.append(RECORD)
    if not changed:
        return None
    what = "scores are not kept: files were changed meanwhile"
    fix = "repeat `pclauto evaluate` when nothing writes there"
    return Problem("score.changed-meanwhile", what, str(folders[0]), fix, found=format_names(changed, 3))


def _refuse_two_models(record: MaskRecord, predictions: Path) -> None:
    """Refuse to score masks of two models as those of one: a prediction that was to replace them has not come so far.

    Raises:
        StateError: masks that are still the old ones.
    """
    left = [entry.mask for entry in record.old.values() if (predictions / entry.mask).is_file()]
    if left:
        fix = "repeat `pclauto predict` with --overwrite, or move these masks away"
        what, expected = "masks of another model are still there", f"masks of {record.made_by.model} alone"
        raise StateError(
            Problem("score.masks-of-two-models", what, str(predictions), fix, expected, format_names(left))
        )


def _refuse_exchanged(record: MaskRecord, predictions: Path, name: str | None) -> None:
    """Refuse masks under the names of other scans: by their bytes each is the mask of another one.

    Of all masks in the folder, or the one of that ``name``. One that a person has corrected is that of no other scan.

    Raises:
        StateError: such masks.
    """
    owners = {entry.sha256: entry.mask for entry in record.scans.values() if entry.sha256 is not None}
    exchanged = []
    for entry in record.scans.values() if name is None else [e for e in record.scans.values() if e.mask == name]:
        mask = predictions / entry.mask
        digest = file_digest(mask) if entry.sha256 is not None and mask.is_file() else None
        if digest in owners and digest != entry.sha256:
            exchanged.append(f"{entry.mask} holds {owners[digest]}")
    if exchanged:
        what, expected = "masks are under the names of other scans", f"each mask as {RECORD} has it"
        fix = "give them their names back, or repeat `pclauto predict` into an empty folder"
        raise StateError(
            Problem("score.masks-exchanged", what, str(predictions), fix, expected, format_names(exchanged))
        )
