"""Read and write ``predictions.json``, which says of the masks in a folder what each was made from, and by which model.

The file lies where anybody can put one: nothing in it is believed before it was looked at.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.data.formats.volume import Source
from pcl_auto.data.labels import Labels
from pcl_auto.errors import Problem, StateError
from pcl_auto.workspace.files import file_digest, finite, read_json, read_kept, write_json
from pcl_auto.workspace.run_record import FINAL, finished_folds, model_folder
from pcl_auto.workspace.run_record import RECORD as RUN_RECORD
from pcl_auto.workspace.shapes import LABELS, mismatch

RECORD = "predictions.json"
# What masks are written as.
MASK_SUFFIXES = (".nii.gz", ".nrrd", ".mha")
# Beside a mask: its picture, and its DICOM SEG.
PREVIEW, DICOM_SEG = ".png", ".dcm"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# In place of the digest of a mask of version 0.2 or before that was changed after it was put on record.
UNKNOWN_BYTES = ""
_FOLD = re.compile(rf"fold_[^/]*/{re.escape(FINAL)}")


@dataclass(frozen=True)
class MadeBy:
    """The model that makes masks, as it is now, and how it predicts.

    ``checkpoints``: size, time and SHA-256 of those of the finished folds, by their paths in the model's folder.
    ``mirroring`` is None in records that do not say. ``settings``: SHA-256 of plans.json and dataset.json together.
    Records of version 0.2 and before lack the digests, and ``labels``: what the values of the masks mean, as in
    dataset.json.
    """

    model: str
    checkpoints: Mapping[str, list[Any]]
    mirroring: bool | None
    settings: str | None = None
    labels: Labels | None = None

    @classmethod
    def of(cls, model: Path, *, mirroring: bool | None) -> MadeBy:
        """Return a model, or the one fold whose folder is given, as it is now."""
        folder = model_folder(model)
        checkpoints = {
            f"{file.parent.name}/{file.name}": [file.stat().st_size, file.stat().st_mtime_ns, file_digest(file)]
            for file in finished_folds(model)
        }
        labels = (read_kept(folder / "dataset.json", LABELS) or {}).get("labels")
        return cls(str(folder), checkpoints, mirroring, settings_digest(folder), labels)

    @property
    def folds(self) -> str:
        """Names of the folds that predict together."""
        return ", ".join(sorted(name.split("/")[0] for name in self.checkpoints))

    def is_still(self, now: MadeBy) -> bool:
        """Tell whether a model on record is the one that there is ``now``, by its bytes if the record has digests."""
        if (self.model, self.mirroring, self.checkpoints.keys()) != (now.model, now.mirroring, now.checkpoints.keys()):
            return False
        if None not in (self.settings, now.settings) and self.settings != now.settings:
            return False
        for name, (size, mtime_ns, *digest) in self.checkpoints.items():
            size_now, mtime_ns_now, *digest_now = now.checkpoints[name]
            unlike = digest != digest_now if digest and digest_now else mtime_ns != mtime_ns_now
            if size != size_now or unlike:
                return False
        return True

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the record has them."""
        later = {"settings": self.settings, "labels": self.labels}
        known = {key: value for key, value in later.items() if value is not None}
        return {"model": self.model, "checkpoints": dict(self.checkpoints), "mirroring": self.mirroring, **known}


@dataclass(frozen=True)
class MaskEntry:
    """A mask on record: its file, its SHA-256, the files of its scan, and what is known of it.

    ``sha256`` is None in records of version 0.2 and before, and so is ``beside``: the SHA-256 of its picture and DICOM
    SEG, by name. ``files``: of every volume, each with its path, size, two times and SHA-256 (:func:`is_same_file`).
    ``facts``: volumes_ml, quality, slabs.
    """

    mask: str
    sha256: str | None
    files: list[list[list[Any]]]
    made_by: MadeBy
    facts: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, str] | None = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the record has them, without those of :class:`MadeBy`."""
        beside = {} if self.beside is None else {"beside": dict(self.beside)}
        return {"mask": self.mask, "sha256": self.sha256, **self.facts, **beside, "files": self.files}


@dataclass(frozen=True)
class MaskRecord:
    """The masks of a folder by the ids of their scans.

    ``scans``: made by ``made_by``. ``old``: to be replaced, but still there, each with the model that made it.
    """

    made_by: MadeBy
    scans: Mapping[str, MaskEntry]
    old: Mapping[str, MaskEntry] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the record into the folder of the masks."""
        scans = {case: entry.as_dict() for case, entry in self.scans.items()}
        old = {case: {**entry.as_dict(), **entry.made_by.as_dict()} for case, entry in self.old.items()}
        content = {**self.made_by.as_dict(), "scans": scans, **({"old": old} if old else {})}
        write_json(folder / RECORD, finite(content))


def read_record(folder: Path) -> MaskRecord | None:
    """Read the record of the masks in ``folder``; None where there is none.

    Raises:
        StateError: what has its name is no record of ours, or damaged.
    """
    file = folder / RECORD
    if not os.path.lexists(file):
        return None
    try:
        if not file.is_file():
            raise ValueError("it is no regular file")
        content = _dict(read_json(file), "the file")
        made_by = _made_by(content)
        scans = {case: _entry(case, entry, made_by) for case, entry in _dict(content.get("scans", {}), "scans").items()}
        old = {
            case: _entry(case, entry, _made_by(_dict(entry, case)))
            for case, entry in _dict(content.get("old", {}), "old").items()
        }
    except (ValueError, StateError) as error:
        raise StateError(
            Problem(
                code="predict.record-damaged",
                what="the record of the masks cannot be used",
                where=str(file),
                expected="what `pclauto predict` has written there",
                found=error.problems[0].found if isinstance(error, StateError) else str(error),
                fix="move the file away if it is not of pclauto; else restore it, or predict into an empty folder",
            )
        ) from error
    return MaskRecord(made_by, scans, old)


def file_state(file: Path) -> list[int]:
    """Return size and times of a file: of its bytes, and of its name and rights too."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def is_same_file(file: Path, recorded: Sequence[Any]) -> bool:
    """Tell whether a file has the bytes on record: nothing has touched it since, or it has the SHA-256.

    Records of version 0.2 and before have size and time alone.
    """
    (size, mtime_ns, *more), now = recorded, file_state(file)
    if size != now[0] or not more:
        return [size, mtime_ns] == now[:2]
    ctime_ns, digest = more
    return [size, mtime_ns, ctime_ns] == now or digest == file_digest(file)


def settings_digest(model: Path) -> str:
    """Return one SHA-256 for plans.json and dataset.json of a model folder."""
    files = [file for file in (model / "plans.json", model / "dataset.json") if file.is_file()]
    return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()


def labels_of(made_by: MadeBy) -> Labels | None:
    """Return what the values of masks mean; None where neither their record says it nor an unchanged model.

    The record of version 0.2 and before has it through the model alone.
    """
    model = Path(made_by.model)
    if made_by.labels is not None or not model.is_absolute() or not (model / "dataset.json").is_file():
        return made_by.labels
    known = settings_digest(model) == made_by.settings if made_by.settings else model_of(made_by) is not None
    return MadeBy.of(model, mirroring=None).labels if known else None


def model_of(made_by: MadeBy) -> Path | None:
    """Return the model folder that a record names, if a training of pclauto left it and it is unchanged since.

    Anything else that a record names is nothing to read settings from or to write scores into.
    """
    model = Path(made_by.model)
    there = model.is_absolute() and all((model / name).is_file() for name in ("plans.json", "dataset.json"))
    if not there or not made_by.checkpoints or not made_by.is_still(MadeBy.of(model, mirroring=made_by.mirroring)):
        return None
    runs = {(model / name).parent for name in made_by.checkpoints}
    return model if all((run / RUN_RECORD).is_file() for run in runs) else None


def recorded_sources(entry: MaskEntry) -> list[Source]:
    """Return the volumes that a mask was made from, if they are as they were then.

    A record may name any file: one that does not have the bytes on record is not read as a scan.

    Raises:
        StateError: a file is gone, or is not the one that was segmented.
    """
    sources: list[Source] = []
    for files in entry.files:
        paths = tuple(Path(path) for path, *_ in files)
        for path, (_, *state) in zip(paths, files, strict=True):
            if not path.is_absolute() or not path.is_file() or not is_same_file(path, state):
                fix = "put the scan back, or segment it again with `pclauto predict`"
                raise StateError(
                    Problem("predict.scan-changed", "the scan is not the one that was segmented", str(path), fix)
                )
        # A volume with files of voxels beside it is named by its header, which comes first.
        is_volume = len(paths) == 1 or split_suffix(paths[0].name)[1]
        sources.append(paths[0] if is_volume else Series("", "", paths))
    return sources


# --- What is believed of a file.


def _dict(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")  # noqa: TRY004 (caught above, with what JSON itself refuses)
    return value


def _require(true: bool, what: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not true:
        raise ValueError(what)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_state(value: Any, numbers: int) -> bool:
    """Tell whether a value is size and time; or so many ``numbers``, and a digest."""
    if not isinstance(value, list) or len(value) not in (2, numbers + 1):
        return False
    return all(type(entry) is int for entry in value[:numbers]) and (len(value) == 2 or _is_digest(value[-1]))


def _made_by(content: dict[str, Any]) -> MadeBy:
    model, checkpoints = content.get("model"), content.get("checkpoints")
    mirroring = content.get("mirroring")
    _require(isinstance(model, str) and "\0" not in model, "model is no path")
    known = _dict(checkpoints, "checkpoints")
    _require(all(_FOLD.fullmatch(name) and _is_state(state, 2) for name, state in known.items()), "odd checkpoints")
    _require(mirroring is None or isinstance(mirroring, bool), "mirroring is neither true nor false")
    settings = content.get("settings")
    _require(settings is None or _is_digest(settings), "settings is no digest")
    labels = content.get("labels")
    _require(labels is None or mismatch(labels, LABELS["labels"]) is None, "labels are none")
    return MadeBy(str(model), known, mirroring, settings, labels)


def _entry(case: str, value: Any, made_by: MadeBy) -> MaskEntry:
    entry = _dict(value, case)
    mask, digest, files = entry.get("mask"), entry.get("sha256"), entry.get("files")
    _require(is_mask_name(mask, case), f"{case}: no name of its mask")
    _require(digest in (None, UNKNOWN_BYTES) or _is_digest(digest), f"{case}: sha256 is none")
    _require(isinstance(files, list) and all(isinstance(volume, list) and volume for volume in files), f"{case}: files")
    sources: list[list[list[Any]]] = files or []
    named = [file for volume in sources for file in volume]
    _require(
        all(isinstance(file, list) and file and isinstance(file[0], str) and _is_state(file[1:], 3) for file in named),
        f"{case}: files",
    )
    _require(not any("\0" in file[0] for file in named), f"{case}: files")
    beside = None if "beside" not in entry else _dict(entry["beside"], f"{case}: beside")
    names = {f"{case}{PREVIEW}", f"{case}{DICOM_SEG}"}
    _require(all(name in names and _is_digest(value) for name, value in (beside or {}).items()), f"{case}: beside")
    return MaskEntry(str(mask), digest, sources, made_by, _facts(case, entry), beside)


def is_mask_name(name: Any, case: str) -> bool:
    """Tell whether ``name`` is that of a file of the folder itself, and of the mask of ``case``."""
    if not isinstance(name, str) or not case or Path(name).name != name or "\0" in name:
        return False
    stem, suffix = split_suffix(name)
    return stem == case and suffix in MASK_SUFFIXES and name.endswith(suffix)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _facts(case: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    volumes, quality, slabs = entry.get("volumes_ml"), entry.get("quality"), entry.get("slabs", 1)
    _require(volumes is None or all(map(_is_number, _dict(volumes, f"{case}: volumes_ml").values())), f"{case}: volume")
    _require(type(slabs) is int and slabs >= 1, f"{case}: slabs")
    if quality is not None:
        # "certainty" in records of version 0.1.
        quality = {"confidence": _dict(quality, f"{case}: quality").get("certainty"), **quality}
        confidence, reasons = quality["confidence"], quality.get("reasons")
        _require(confidence is None or _is_number(confidence), f"{case}: confidence")
        _require(isinstance(quality.get("review"), bool), f"{case}: review")
        _require(isinstance(reasons, list) and all(isinstance(reason, str) for reason in reasons), f"{case}: reasons")
    return {"volumes_ml": volumes, "quality": quality, "slabs": slabs}
