"""Keep a folder of masks on record, by model and scan, so that masks of two models never mix.

A mask is replaced when the new one is there, and only where the file is the one that was written here: what a person
has put or corrected in the folder stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcl_auto.data.formats.itk_files import read_by_itk
from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.data.formats.scans import Scan, paths_of
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, VOLUME_SUFFIXES, split_suffix
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.inference.mask_record import (
    DICOM_SEG,
    PREVIEW,
    RECORD,
    UNKNOWN_BYTES,
    MadeBy,
    MaskEntry,
    MaskRecord,
    file_state,
    is_same_file,
    read_record,
)
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.output import sole_writer_in, visible

# Of files that say who wrote them; records of version 0.2 and before do not name them.
_MAX_SIGNED_BYTES = 2**16
_SIGNATURES = {PREVIEW: b"Matplotlib", DICOM_SEG: b"pclauto"}


class MaskFolder:
    """Masks of one model in a folder, on record in ``predictions.json``; nothing is written before :meth:`writing`.

    Args:
        folder: for the masks.
        made_by: the model, and how it predicts.
        cases: the ids of the scans to segment.
        overwrite: whether their masks are made anew.

    Raises:
        StateError: the folder holds other masks, that another model, or nobody knows which, has made; or a damaged
            record.
    """

    def __init__(self, folder: Path, made_by: MadeBy, cases: Collection[str], *, overwrite: bool) -> None:
        self.folder, self.made_by = folder, made_by
        self._cases, self._replaced = set(cases), set(cases) if overwrite else set()
        self._entries: dict[str, MaskEntry]
        self._old: dict[str, MaskEntry]
        self._left: list[tuple[str, MaskEntry, MaskEntry]]
        self._seen: dict[str, list[list[list[Any]]]] = {}
        self._read()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, and hold it for this process.

        Raises:
            LockedError: another process writes masks there.
            StateError: see above; another process may have been there meanwhile.
        """
        with sole_writer_in(self.folder):
            self._read()
            for left in self._left:  # a process was killed before it did
                self._remove(*left)
            self._write_record()
            yield

    def kept(self, scan: Scan, name: str) -> tuple[dict[str, Any], Problem | None] | None:
        """Return the facts of the mask ``name`` if it was made from this scan and is whole, else None.

        With a problem, and no facts, where a person has changed the mask since it was written.

        Raises:
            StateError: there is a mask of another scan under this name, one of this scan in another format, or one to
                be replaced that a person has changed.
        """
        entry, self._seen[scan.id] = self._entries.get(scan.id), _files(scan)
        if scan.id in self._replaced or entry is None or entry.mask != name or not _is_of(entry, self._seen[scan.id]):
            self._refuse_others(scan.id)
            return None
        mask = self.folder / name
        if self._is_written(entry):
            return dict(entry.facts), None
        if not _is_whole(mask):
            return None
        what = "the mask was changed since it was written; it is kept, without what was known of the one before"
        return {}, _edited(mask, what)

    def add(self, scan: Scan, name: str, facts: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Let ``write`` make the mask ``name`` of a scan, and put ``facts`` on record.

        Raises:
            DataError: the scan has changed since :meth:`kept` was asked for its mask.
        """
        files = _files(scan)
        if files != self._seen.get(scan.id, files):
            fix = "wait until nothing writes it any more, and repeat the command"
            raise DataError(
                Problem("data.changed-meanwhile", "scan changed while it was read", str(scan.files[0]), fix)
            )
        former = self._entries.get(scan.id) or self._old.get(scan.id)
        digested = [[[path, *state, file_digest(Path(path))] for path, *state in volume] for volume in files]
        made = MaskEntry(name, None, digested, self.made_by, facts)
        with atomic_path(self.folder / name) as temporary:
            write(temporary)
            if former is not None:
                self._old[scan.id] = former
            # Before the mask has its name: a mask that nobody has on record is somebody else's.
            made = replace(made, sha256=file_digest(temporary))
            self._entries[scan.id] = made
            self._write_record()
        if former is not None:
            self._remove(scan.id, self._old.pop(scan.id), made)
            self._write_record()

    def beside(self, case: str, ending: str, write: Callable[[Path], None]) -> Path:
        """Return the picture (:data:`PREVIEW`) or DICOM SEG of a mask, which ``write`` makes where it is not there.

        Raises:
            StateError: a file of that name is there that was not written here.
        """
        entry, target = self._entries[case], self.folder / f"{case}{ending}"
        if os.path.lexists(target):
            if target.name not in (entry.beside or {}) and not self._is_beside(target, entry):
                fix = "move the file away, or choose another folder with -o"
                what = "a file that pclauto did not write has the name of one that it is to write"
                raise StateError(Problem("predict.file-in-the-way", what, str(target), fix))
            return target
        with atomic_path(target) as temporary:
            write(temporary)
            beside = {**(entry.beside or {}), target.name: file_digest(temporary)}
            self._entries[case] = replace(entry, beside=beside)
            self._write_record()
        return target

    def _read(self) -> None:
        """Find out whose the masks in the folder are.

        Raises:
            StateError: see the class.
        """
        record = read_record(self.folder)
        # Of this model; of others that are still there; and what a process did not come to remove.
        self._entries, self._old, self._left = {}, {}, []
        if record is not None:
            scans, old = (
                {case: self._signed(entry) for case, entry in entries.items()} for entries in (record.scans, record.old)
            )
            for case in {**scans, **old}:
                entry = self._there(case, scans.get(case), old.get(case))
                if entry is not None:
                    (self._entries if entry.made_by.is_still(self.made_by) else self._old)[case] = entry
        self._refuse_mixing(signed=record is not None and record.made_by.is_still(self.made_by))

    def _signed(self, entry: MaskEntry) -> MaskEntry:
        """Give an entry of version 0.2 or before a digest: of the mask, unless it is younger than its record."""
        mask, record = self.folder / entry.mask, self.folder / RECORD
        if entry.sha256 is not None or not mask.is_file():
            return entry
        is_younger = mask.stat().st_mtime_ns > record.stat().st_mtime_ns
        return replace(entry, sha256=UNKNOWN_BYTES if is_younger else file_digest(mask))

    def _there(self, case: str, new: MaskEntry | None, old: MaskEntry | None) -> MaskEntry | None:
        """Return the entry of the mask that is there: while one is replaced, the new and the old one are on record."""
        if new is None or old is None:
            entry = new or old
            return entry if entry is not None and (self.folder / entry.mask).is_file() else None
        is_new = (self.folder / new.mask).is_file() and (
            new.mask != old.mask or not self._is_written(old) or self._is_written(new)
        )
        if not is_new:
            return self._there(case, None, old)
        self._left.append((case, old, new))
        return new

    def _refuse_mixing(self, *, signed: bool) -> None:
        """Refuse to add masks to those of others that stay; a file that nobody wrote may lie in a ``signed`` folder."""
        owners = {
            entry.mask: (case, entry) for entries in (self._old, self._entries) for case, entry in entries.items()
        }
        files = [path for path in visible(self.folder) if split_suffix(path.name)[1]]
        mixed, can_replace = [], True
        for file in files:
            case, owner = owners.get(file.name, ("", None))
            if owner is None:
                is_other, is_ours = not signed, False
            else:
                is_other = not owner.made_by.is_still(self.made_by)
                is_ours = self._is_written(owner) or not _is_whole(file)
            if is_other and not (is_ours and case in self._replaced):
                mixed.append((file, owner))
                can_replace &= is_ours and case in self._cases
        if mixed:
            raise StateError(_of_others(mixed, self.made_by, self.folder, can_replace=can_replace))

    def _refuse_others(self, case: str) -> None:
        """Refuse to write where a file is that is not to be replaced."""
        entry = self._entries.get(case) or self._old.get(case)
        for target in (self.folder / f"{case}{ending}" for ending in VOLUME_SUFFIXES):
            if not os.path.lexists(target):
                continue
            is_ours = entry is not None and entry.mask == target.name
            is_written = is_ours and entry is not None and (self._is_written(entry) or not _is_whole(target))
            if is_written and case in self._replaced:
                continue
            if is_ours and not is_written:
                raise StateError(_edited(target, "the mask was changed since it was written"))
            what = "there is a mask of another scan, of this scan as it was before, or in another format"
            if not is_ours:
                what = "there is a file in the place of the mask that pclauto has not on record"
            fix = "choose another folder with -o" + (", or --overwrite" if is_written else ", or move the file away")
            raise StateError(Problem("predict.mask-of-other-scan", what, str(target), fix))

    def _is_written(self, entry: MaskEntry) -> bool:
        """Tell whether a mask is the one that was written."""
        mask = self.folder / entry.mask
        return mask.is_file() and file_digest(mask) == entry.sha256

    def _is_beside(self, file: Path, entry: MaskEntry) -> bool:
        """Tell whether a picture or a DICOM SEG is the one that was written with a mask."""
        if not file.is_file():
            return False
        if entry.beside is not None:
            return entry.beside.get(file.name) == file_digest(file)
        with file.open("rb") as handle:
            return _SIGNATURES[file.suffix] in handle.read(_MAX_SIGNED_BYTES)

    def _remove(self, case: str, old: MaskEntry, new: MaskEntry) -> None:
        """Remove what a new mask replaces: its picture and DICOM SEG too do not outlive the mask that they show."""
        if old.mask != new.mask and (self._is_written(old) or not _is_whole(self.folder / old.mask)):
            (self.folder / old.mask).unlink(missing_ok=True)
        for file in (self.folder / f"{case}{ending}" for ending in (PREVIEW, DICOM_SEG)):
            if self._is_beside(file, old):
                file.unlink()

    def _write_record(self) -> None:
        MaskRecord(self.made_by, self._entries, self._old).write(self.folder)


def _edited(mask: Path, what: str) -> Problem:
    return Problem("predict.mask-edited", what, str(mask), "to have it made anew, move the file away")


def _of_others(
    mixed: Sequence[tuple[Path, MaskEntry | None]], made_by: MadeBy, folder: Path, *, can_replace: bool
) -> Problem:
    """Describe in what the masks that are there differ from those that ``made_by`` would make."""
    file, entry = next(((file, entry) for file, entry in mixed if entry is None), mixed[0])
    if entry is None or entry.made_by.model != made_by.model:
        code, difference = "predict.masks-of-another-model", "of another model"
    elif entry.made_by.mirroring != made_by.mirroring:
        mirroring = "with" if entry.made_by.mirroring else "without"
        code, difference = "predict.masks-mirrored-otherwise", f"of this model {mirroring} mirroring"
    elif entry.made_by.checkpoints.keys() != made_by.checkpoints.keys():
        code, difference = "predict.masks-of-other-folds", f"of this model's {entry.made_by.folds}"
    else:
        difference = "of this model as it was before it was trained again or its settings changed"
        code = "predict.masks-of-older-model"
    fix = "choose an empty folder with -o" + (", or replace all of its masks with --overwrite" if can_replace else "")
    found = f"{len(mixed)} ({file.name}, …) of {entry.made_by.model if entry else 'an unknown one'}"
    expected = f"{made_by.model}, {made_by.folds}"
    return Problem(code, f"the folder holds masks {difference}", str(folder), fix, expected, found)


def _files(scan: Scan) -> list[list[list[Any]]]:
    """Return the files of a scan by volume, each with its size and times."""
    return [[[str(path.resolve()), *file_state(path)] for path in paths_of(source)] for source in scan.files]


def _is_of(entry: MaskEntry, now: list[list[list[Any]]]) -> bool:
    """Tell whether a mask on record is of the scan whose files, as of :func:`_files`, are there ``now``."""
    paths, paths_now = ([[path for path, *_ in volume] for volume in files] for files in (entry.files, now))
    if paths != paths_now:
        return False
    return all(is_same_file(Path(path), state) for volume in entry.files for path, *state in volume)


def _is_whole(mask: Path) -> bool:
    """Return whether a mask is there and still readable."""
    if not mask.is_file():
        return False
    if split_suffix(mask.name)[1] in NIFTI_SUFFIXES:  # SimpleITK reads what is missing of a NIfTI as zeros
        return not probe_image(mask)[1]
    try:
        read_by_itk(mask)
    except (RuntimeError, DataError):
        return False
    return True
