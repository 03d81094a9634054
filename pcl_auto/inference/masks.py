"""Keep a folder of masks on record, by model and scan, so that masks of two models never mix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import SimpleITK

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.data.formats.scans import Scan, Source, paths_of
from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.errors import Problem, StateError
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.run_record import FINAL

RECORD = "predictions.json"
# What masks are written as.
MASK_SUFFIXES = (".nii.gz", ".nrrd", ".mha")


class MaskFolder:
    """Masks of one model in a folder, on record in :data:`RECORD`; nothing is written before :meth:`begin`.

    Args:
        folder: for the masks.
        made_by: the model, and how it predicts.
        replaced: names of scans whose masks are removed, to be made anew.

    Raises:
        StateError: the folder holds other masks, that another model, or nobody knows which, has made.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any], replaced: set[str]) -> None:
        self.folder, self.made_by = folder, made_by
        file = folder / RECORD
        recorded = read_json(file) if file.is_file() else {}
        entries: dict[str, Any] = recorded.pop("scans", {})
        masks = [mask for ending in MASK_SUFFIXES for mask in sorted(folder.glob(f"*{ending}"))]
        staying = [mask for mask in masks if split_suffix(mask.name)[0] not in replaced]
        if recorded != made_by and staying:
            found = f"{len(staying)} ({staying[0].name}, …) of " + recorded.get("model", "an unknown one")
            raise StateError(_of_others(recorded, made_by, str(folder), found))
        self._replaced = set(masks) - set(staying)
        self._stale = replaced & entries.keys()
        there = {mask.name for mask in staying}
        self._entries = {case: entry for case, entry in entries.items() if entry["mask"] in there}

    def begin(self) -> None:
        """Make the folder, and remove what is to be made anew."""
        for mask in self._replaced:
            mask.unlink()
        for case in self._stale:
            self._remove_beside(case)
        self._replaced = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_record()

    def kept(self, scan: Scan, name: str) -> dict[str, Any] | None:
        """Return the facts of the mask ``name`` if it was made from this scan and is whole, else None.

        Raises:
            StateError: there is a mask of another scan under this name, or one of this scan in another format.
        """
        entry = self._entries.get(scan.id)
        if entry is None or entry["mask"] != name or entry["files"] != _files(scan):
            self._refuse_another(scan.id)
            return None
        facts: dict[str, Any] = {key: value for key, value in entry.items() if key not in ("mask", "files")}
        if facts.get("quality"):  # of a mask of version 0.1
            facts["quality"] = {"confidence": facts["quality"].get("certainty"), **facts["quality"]}
        return facts if _is_whole(self.folder / name) else None

    def add(self, scan: Scan, name: str, facts: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Let ``write`` make the mask ``name`` of a scan, and put ``facts`` on record."""
        if scan.id in self._entries:
            self._remove_beside(scan.id)
        with atomic_path(self.folder / name) as temporary:
            write(temporary)
            # Before the mask has its name: a mask that nobody has on record is somebody else's.
            self._entries[scan.id] = {"mask": name, **facts, "files": _files(scan)}
            self._write_record()

    def preview(self, case: str) -> Path:
        """Return where the picture of a mask is, if there is one."""
        return self.folder / f"{case}.png"

    def dicom_seg(self, case: str) -> Path:
        """Return where the DICOM SEG of a mask is, if there is one."""
        return self.folder / f"{case}.dcm"

    def _remove_beside(self, case: str) -> None:
        """Remove picture and DICOM SEG: they do not outlive the mask that they show."""
        for file in (self.preview(case), self.dicom_seg(case)):
            file.unlink(missing_ok=True)

    def _write_record(self) -> None:
        write_json(self.folder / RECORD, {**self.made_by, "scans": self._entries})

    def _refuse_another(self, case: str) -> None:
        for target in (self.folder / f"{case}{ending}" for ending in MASK_SUFFIXES):
            if target.is_file() and target not in self._replaced:
                raise StateError(
                    Problem(
                        code="predict.mask-of-other-scan",
                        what="there is a mask of another scan, of this scan as it was before, or in another format",
                        where=str(target),
                        fix="choose another folder with -o, or --overwrite",
                    )
                )


def _of_others(recorded: Mapping[str, Any], made_by: Mapping[str, Any], where: str, found: str) -> Problem:
    """Describe in what the masks on record differ from those that ``made_by`` would make."""
    if recorded.get("model") != made_by["model"]:
        code, difference = "predict.masks-of-another-model", "of another model"
    elif recorded.get("mirroring") != made_by["mirroring"]:
        mirroring = "with" if recorded.get("mirroring") else "without"
        code, difference = "predict.masks-mirrored-otherwise", f"of this model {mirroring} mirroring"
    else:
        code, difference = "predict.masks-of-older-model", "of this model as it was before it was trained again"
    fix = "choose an empty folder with -o, or replace all of its masks with --overwrite"
    return Problem(code, f"the folder holds masks {difference}", where, fix, made_by["model"], found)


def recorded_sources(entry: Mapping[str, Any]) -> list[Source]:
    """Return the volumes that a mask was made from, as its entry in :data:`RECORD` names them."""
    sources: list[Source] = []
    for files in entry["files"]:
        paths = tuple(Path(path) for path, _size, _time in files)
        sources.append(paths[0] if len(paths) == 1 else Series("", "", paths))
    return sources


def checkpoint_states(model: Path) -> dict[str, list[int]]:
    """Return size and time of the checkpoints of a model's finished folds, by their paths in its folder."""
    return {f"{file.parent.name}/{file.name}": _state(file) for file in sorted(model.glob(f"fold_*/{FINAL}"))}


def _state(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _files(scan: Scan) -> list[list[list[Any]]]:
    """Return the files of a scan by volume, each with its size and time."""
    return [[[str(path.resolve()), *_state(path)] for path in paths_of(source)] for source in scan.files]


def _is_whole(mask: Path) -> bool:
    """Return whether a mask that was written here is there and still readable."""
    if not mask.is_file():
        return False
    if mask.name.endswith(".nii.gz"):  # SimpleITK reads what is missing of a NIfTI as zeros
        return not probe_image(mask)[1]
    try:
        SimpleITK.ReadImage(str(mask))
    except RuntimeError:
        return False
    return True
