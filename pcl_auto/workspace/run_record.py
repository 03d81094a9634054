"""Keep the record of a run, ``run.json``: its settings, the files it made, and what a restart may remove."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.shapes import NAME, SCHEDULE, SPLIT

RECORD = "run.json"
REPORT = "report.html"
# Beside the models of a data set: the folders of pre-trainings.
PRETRAINING = "pretraining"
# Checkpoints in a run folder, by nnU-Net's names; the one before the latest is for when that is damaged where it lies.
FINAL, LATEST, PREVIOUS = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_previous.pth"
# Of a run folder, which is a fold of a model folder.
_OUTPUTS = (FINAL, "../plans.json", "../dataset.json", "../dataset_fingerprint.json")
# Those that decide what its network makes of a scan.
_NETWORK = (FINAL, "../plans.json", "../dataset.json")
_FOLD = re.compile(r"fold_(\d{1,9}|all)", re.ASCII)
_LEDGERS = "pseudo_labels/*/ledger.csv"
# In a run's own folder: pseudo-labels that were exported to be corrected, and where else such folders are.
REVIEW, REVIEWS = "review", "reviews.json"


_MANIFEST = {"outputs?": {...: {"bytes": int, "sha256": str}}}
_NUMBERS = {...: (float, None)}
# Of the weights that a run began with: where they come from, and what of the network they filled.
_PRETRAINED = {
    "source": str, "file": str, "digest": str, "format": str, "license": str, "citations": [str], "adapted": str,
    "matched_fraction_of_encoder": float, "matched_fraction_of_decoder": float, "differences": [str],
    "stages": [{"name": str, "tensors": int, "parameters": int, "taken": bool, "reason": str}],
    ...: object,
}  # fmt: skip
# Of the record, see pcl_auto.workspace.shapes. What is not here has no part in what is read of a run.
SHAPE = {
    "identity": {
        "dataset": NAME,
        "configuration": NAME,
        "trainer": str,
        "seed": int,
        "split": SPLIT,
        "recipe": {
            "name": str,
            "description?": str,
            "schedule": SCHEDULE,
            ...: object,
        },
        "deterministic?": bool,
        "fold?": str,
        "start?": (str, None),
        ...: object,
    },
    "command?": [str],
    "versions?": {...: str},
    "device?": str,
    "last_start?": str,
    "steps_before?": int,
    "pretrained?": _PRETRAINED,
    "images?": {...: str},
    "labels?": {...: str},
    "threads?": int,
    "forecast?": _NUMBERS,
    "measured?": _NUMBERS,
    **_MANIFEST,
}


def read_record(run: Path) -> dict[str, Any]:
    """Read the record of the run in folder ``run``.

    Raises:
        StateError: it is missing or damaged.
    """
    record: dict[str, Any] = read_json(run / RECORD, SHAPE)
    return record


def is_trained(run: Path) -> bool:
    """Tell whether the run in folder ``run`` is trained to the end, and validated."""
    return all((run / name).is_file() for name in (FINAL, "validation/summary.json"))


def finished_folds(model: Path) -> list[Path]:
    """Return the checkpoints of the finished folds of a model, which predict together; of a fold's folder that fold's.

    As in nnU-Net, the one that was trained on all cases speaks only where no fold of a cross-validation does.
    """
    if is_fold(model):
        return [model / FINAL] if (model / FINAL).is_file() else []
    files = [folder / FINAL for folder in _numbered_folds(model) if (folder / FINAL).is_file()]
    return files or list(model.glob(f"fold_all/{FINAL}"))


def unfinished_folds(model: Path) -> list[str]:
    """List the folds of a model that were begun and do not predict with the others yet."""
    return [] if is_fold(model) else [fold.name for fold in _numbered_folds(model) if not (fold / FINAL).is_file()]


def is_fold(folder: Path) -> bool:
    """Tell whether a folder is that of a fold in a model folder, and no model folder itself."""
    named = _FOLD.fullmatch(folder.name) is not None and (folder.parent / "plans.json").is_file()
    return named and not (folder / "plans.json").is_file()


def model_folder(model: Path) -> Path:
    """Return the model folder, where ``model`` may be the folder of one of its folds."""
    return model.parent if is_fold(model) else model


def _numbered_folds(model: Path) -> list[Path]:
    """Return the folders of a cross-validation's folds, in their order."""
    folds = {
        int(match[1]): folder
        for folder in model.glob("fold_*")
        if (match := _FOLD.fullmatch(folder.name)) and match[1] != "all" and folder.is_dir()
    }
    return [folds[number] for number in sorted(folds)]


def write_manifest(run: Path, names: Collection[str] = ()) -> None:
    """Add the files that the run in folder ``run`` made to its record, with their sizes in bytes and SHA-256.

    Written last: a run with a manifest has all of its files. Without ``names`` they are those of a training.
    """
    names = names or [*_OUTPUTS, *(ledger.relative_to(run).as_posix() for ledger in sorted(run.glob(_LEDGERS)))]
    outputs = {name: {"bytes": (run / name).stat().st_size, "sha256": file_digest(run / name)} for name in names}
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(run / RECORD, {**read_json(run / RECORD, _MANIFEST), "finished": finished, "outputs": outputs})


def has_manifest(run: Path) -> bool:
    """Tell whether the run in folder ``run`` was finished and put on record."""
    return "outputs" in read_json(run / RECORD, _MANIFEST)


def check_manifest(run: Path, names: Collection[str] | None = None) -> None:
    """Make sure that the files of a finished run are there, as they were written.

    Args:
        run: its folder.
        names: look at these files alone.

    Raises:
        StateError: files that are gone or hold other bytes, all of them.
    """
    outputs: Mapping[str, Mapping[str, Any]] = read_json(run / RECORD, _MANIFEST)["outputs"]
    problems = [
        Problem(
            code="run.file-changed",
            what="file of a finished run is not as it was written",
            where=str(run / name),
            expected=f"{written['bytes']} bytes",
            found=found,
            fix="restore the file, or train again with --restart",
        )
        for name, written in outputs.items()
        if (names is None or name in names) and (found := _change(run / name, written)) is not None
    ]
    if problems:
        raise StateError(problems)


def refuse_changed_outputs(run: Path) -> None:
    """Refuse a finished run whose network, plans, classes or ledgers are not as it left them; gone ones are not read.

    Raises:
        StateError: files that hold other bytes, all of them; the record is damaged.
    """
    written = read_json(run / RECORD, _MANIFEST).get("outputs", {})
    if there := [name for name in written if (run / name).exists()]:
        check_manifest(run, there)


def refuse_other_model(run: Path) -> None:
    """Refuse a network, plans or classes that are not those that the run in a folder left; stock models have no record.

    Raises:
        StateError: files that are gone or hold other bytes, all of them; the record is damaged.
    """
    if (run / RECORD).is_file() and has_manifest(run):
        check_manifest(run, _NETWORK)


def _change(file: Path, written: Mapping[str, Any]) -> str | None:
    """Return what a file is instead of what was written; None where it is that."""
    if not file.is_file():
        return "no file"
    if (size := file.stat().st_size) != written["bytes"]:
        return f"{size} bytes"
    return None if file_digest(file) == written["sha256"] else "other bytes"


def refuse_changes(
    recorded: dict[str, Any],
    wanted: dict[str, Any],
    folder: Path,
    fix: str = "repeat the settings it was started with, or start over with --restart",
    *,
    code: str = "run.settings-changed",
) -> None:
    """Refuse to go on with a run whose recorded settings are not those that are wanted.

    Raises:
        StateError: every setting that differs, with both values.
    """
    problems = [
        Problem(
            code=code,
            what=f"the run there has another {key}",
            where=str(folder),
            expected=before,
            found=now,
            fix=fix,
        )
        for key, before, now in _differences(recorded, wanted)
    ]
    if problems:
        raise StateError(problems)


def compare_versions(
    before: dict[str, str], now: dict[str, str], folder: Path, *, deterministic: bool, listener: Listener
) -> None:
    """Tell ``listener`` which packages changed their version since the run in ``folder`` was started.

    Raises:
        StateError: the run is deterministic, which other versions may not keep.
    """
    if deterministic:
        fix = "install the versions it was started with, or start over with --restart"
        refuse_changes(before, now, folder, fix, code="run.versions-changed")
    changed = {name: (before.get(name), version) for name, version in now.items() if before.get(name) != version}
    if changed:
        listener("versions", changed)


def _differences(before: Any, now: Any, path: str = "") -> list[tuple[str, str, str]]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*before, *now})
            for difference in _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [(path, str(before), str(now))]


def start_anew(model: Path) -> None:
    """Remove what lies in a model folder, except for masks that somebody has corrected: they are not the run's."""
    kept = {folder for fold in model.glob("fold_*") for folder in (fold / REVIEW, fold / REVIEWS)}
    for path in [*model.glob("fold_*/*"), *model.iterdir()]:
        if path in kept or any(path in folder.parents and folder.exists() for folder in kept):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
