"""Find the scans in files and folders: volumes in one file, DICOM series, and channels that belong together."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.data.formats.dicom import Finding, Series, differ_in_patient, find_series, is_dicom
from pcl_auto.data.formats.itk_files import data_files
from pcl_auto.data.formats.suffixes import VOLUME_SUFFIXES, split_suffix
from pcl_auto.data.formats.volume import Source
from pcl_auto.errors import Problem, UsageError, format_names
from pcl_auto.workspace.files import find_irregular

# Voxels that a header of its own names.
_DATA_SUFFIXES = (".raw", ".zraw", ".raw.gz")
_HEADER_SUFFIXES = (".mhd", ".nhdr")
# As 3D Slicer saves a segmentation, beside its scan.
_SEGMENTATION_SUFFIXES = (".seg.nrrd", ".seg.nhdr")
# The record in a folder of masks.
_MASKS = "predictions.json"
# Files of more numbers than this are scans of many patients.
_MOST_CHANNELS = 8
# Names in a message, at most.
_LISTED = 5
_CHANNEL = re.compile(r"(?P<case>.*)_(?P<channel>[0-9]{4})", re.DOTALL)
_DIGITS = re.compile("[0-9]+")

# File systems end at 255 bytes, and masks, pictures and their temporary files have endings.
_MAX_NAME_BYTES = 150


@dataclass(frozen=True)
class Scan:
    """A scan: its name and its volumes, one in 4D or one per channel, or the problem that it cannot be segmented for.

    ``is_auxiliary`` is true of what lies beside scans and is none: a scout, a report; without ``files`` of all that was
    passed over in a folder.
    """

    id: str
    files: tuple[Source, ...]
    problem: Problem | None = None
    is_auxiliary: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return tuple(path for source in self.files for path in paths_of(source))

    @property
    def suffix(self) -> str:
        """Suffix of the first file, as by :func:`split_suffix`; empty for DICOM."""
        return "" if not self.files or isinstance(self.files[0], Series) else split_suffix(self.files[0].name)[1]


def paths_of(source: Source) -> tuple[Path, ...]:
    """Return the files of a volume: one, one with the files that its header names, or the slices of a DICOM series."""
    return source.files if isinstance(source, Series) else (source, *data_files(source))


def refuse_missing(inputs: Iterable[Path]) -> None:
    """Refuse files and folders that do not exist, before anything is loaded for them.

    Raises:
        UsageError: some do not exist.
    """
    if problems := [_missing(path) for path in inputs if not path.exists()]:
        raise UsageError(problems)


def _missing(path: Path) -> Problem:
    return Problem("data.no-such-path", "no such file or folder", str(path), "check the path")


def list_scans(inputs: Iterable[Path], channels: int) -> list[Scan]:
    """List the scans that files and folders hold, sorted by name.

    Of a folder: its files with one of :data:`VOLUME_SUFFIXES`, and the DICOM series in it and its subfolders. Files
    ``name_0000``, ``name_0001``, … are the channels of one scan, and so are folders of these names that hold one
    series each, or such files and folders that are called ``_0000``, ``_0001``, … in a folder ``name``.

    Raises:
        UsageError: nothing to segment.
    """
    problems: list[Problem] = []
    items: list[Scan] = []
    slices: list[Path] = []
    notes: list[Scan] = []
    for path in inputs:
        if path.is_dir():
            found, passed_over = _of_folder(path)
            items += found
            if not found:
                problems.append(_nothing_in(path, passed_over))
            elif passed_over:
                notes.append(_note(path, passed_over))
        elif not path.exists():
            problems.append(_missing(path))
        elif not split_suffix(path.name)[1] and is_dicom(path):
            slices.append(path.absolute())
        else:
            items.append(_of_file(path))
    items += _name_series(find_series(slices), None)
    # What is named twice, as by a folder and a file in it, is one scan; links of other names are scans of their own.
    items = list({tuple(path.parent.resolve() / path.name for path in each.paths): each for each in items}.values())
    scans = _one_mask_each(_group_channels(items, channels))
    if scans and all(scan.is_auxiliary for scan in scans):
        problems += [scan.problem for scan in scans if scan.problem]
    if problems:
        raise UsageError(problems)
    return scans + notes + (_channels_apart(items) if channels == 1 else [])


def _channels_apart(items: Sequence[Scan]) -> list[Scan]:
    """Return what stands for scans that are called as the channels of one, where the model has one channel."""
    found = {
        folder / case: numbered
        for (folder, case), numbered in _numbered(items).items()
        if 2 <= len(numbered) <= _MOST_CHANNELS and sorted(number for number, _ in numbered) == [*range(len(numbered))]
    }
    if not found:
        return []
    what, fix = "scans have the names of channels of one", "nothing, if each is a scan of its own"
    expected, named = "one file per scan, as the model has one channel", format_names((path.name for path in found), 3)
    problem = Problem(
        "predict.channels-apart", what, str(next(iter(found)).parent), fix, expected, f"{named}: _0000, …"
    )
    return [Scan(f"{named} (channels)", (), problem, is_auxiliary=True)]


def _nothing_in(folder: Path, passed_over: Sequence[Path]) -> Problem:
    expected = f"DICOM, or files {' '.join(VOLUME_SUFFIXES)}"
    found = _names(folder, passed_over)
    return Problem("predict.no-scan", "no scan", str(folder), "name another folder", expected, found)


def _note(folder: Path, passed_over: Sequence[Path]) -> Scan:
    """Return what stands for the files of a folder that are no scans: one line says so, none is lost in silence."""
    expected = f"DICOM, files {' '.join(VOLUME_SUFFIXES)}; in subfolders DICOM, or a file per channel (_0000, …)"
    fix, found = "nothing, if these are no scans; else convert them, or name their folder", _names(folder, passed_over)
    what = f"{len(passed_over)} files passed over"
    problem = Problem("predict.passed-over", what, str(folder), fix, expected, found)
    return Scan(f"{folder.resolve().name} (passed over)", (), problem, is_auxiliary=True)


def _names(folder: Path, files: Sequence[Path]) -> str:
    return format_names((str(file.relative_to(folder)) for file in sorted(files)), _LISTED)


def _one_mask_each(scans: Sequence[Scan]) -> list[Scan]:
    """Refuse scans that would write one mask, each by itself; the others go on."""
    groups: dict[str, list[Scan]] = {}
    for scan in scans:
        if scan.problem is None:
            groups.setdefault(scan.id, []).append(scan)
    return [_refuse_namesakes(scan, groups[scan.id]) if len(groups.get(scan.id, ())) > 1 else scan for scan in scans]


def _refuse_namesakes(scan: Scan, same: Sequence[Scan]) -> Scan:
    if scan.problem is not None:
        return scan
    what, where = f"{len(same)} scans would write the mask {scan.id}", ", ".join(str(each.files[0]) for each in same)
    fix = "predict them into different folders, or rename them"
    return replace(scan, problem=Problem("predict.mask-twice", what, where, fix))


def _of_folder(folder: Path) -> tuple[list[Scan], list[Path]]:
    """Return the files and series of a folder, each by itself, and the files that are none."""
    items: list[Scan] = []
    slices: list[Path] = []
    passed_over: list[Path] = []

    def name_unreadable(error: OSError) -> None:
        passed_over.append(Path(error.filename))

    for parent, folders, names in os.walk(folder, onerror=name_unreadable):
        if _MASKS in names and Path(parent) != folder:
            folders.clear()  # masks that were made here
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Links may lead in circles, and to folders of others.
        passed_over += [Path(parent) / name for name in folders if (Path(parent) / name).is_symlink()]
        headers = any(name.lower().endswith(_HEADER_SUFFIXES) for name in names)
        for file in (Path(parent) / name for name in sorted(names) if not name.startswith(".")):
            # Channels of a case in a folder of its own; other volumes in subfolders are not asked for.
            if (
                _is_volume(file)
                and not file.name.lower().endswith(_SEGMENTATION_SUFFIXES)
                and (file.parent == folder or _is_channel_of_folder(file))
            ):
                items.append(_of_file(file))
            elif _may_be_slice(file) and is_dicom(file):
                slices.append(file)
            elif _may_be_slice(file) and (problem := find_irregular(file)):
                items.append(Scan(file.name, (file,), problem, is_auxiliary=True))
            elif not (headers and file.name.lower().endswith(_DATA_SUFFIXES)):
                passed_over.append(file)
    # What is named as slices beside it is a slice, if an empty or damaged one.
    beside = {_without_numbers(file) for file in slices}
    lost = {file for file in passed_over if _without_numbers(file) in beside}
    found = find_series([*slices, *sorted(lost)])
    return items + _name_series(found, folder), [file for file in passed_over if file not in lost]


def _without_numbers(file: Path) -> Path:
    return file.with_name(_DIGITS.sub("0", file.name))


def _of_file(file: Path) -> Scan:
    return Scan(split_suffix(file.name)[0], (file,))


def _is_volume(file: Path) -> bool:
    return bool(split_suffix(file.name)[1]) and not file.name.startswith(".")


def _is_channel_of_folder(file: Path) -> bool:
    match = _CHANNEL.fullmatch(split_suffix(file.name)[0])
    return match is not None and not match["case"]


def _may_be_slice(file: Path) -> bool:
    hidden = file.name.startswith(".")
    return (
        not hidden
        and not split_suffix(file.name)[1]
        and not file.name.lower().endswith(_DATA_SUFFIXES)
        and not file.is_dir()
    )


def _name_series(findings: Sequence[Finding], root: Path | None) -> list[Scan]:
    """Make series scans, named after their folders under ``root``, and after themselves where a folder has several."""
    main = Counter(finding.series.folder for finding in findings if not finding.is_auxiliary)
    scans = []
    for finding in findings:
        folder = finding.series.folder
        inside = folder.relative_to(root).parts if root else ()
        # Only one scan of a folder can have its name; scouts and reports do not count.
        is_only = not finding.is_auxiliary and main[folder] == 1
        parts = (inside or (folder.resolve().name,)) if is_only else (*inside, finding.series.name)
        scans.append(Scan(_file_name("_".join(parts)), (finding.series,), finding.problem, finding.is_auxiliary))
    return [_apart(scan, scans) for scan in scans]


def _apart(scan: Scan, scans: Sequence[Scan]) -> Scan:
    """Give a series whose name others have, in upper or lower case, the end of its UID, or where that is alike a hash.

    A name depends on the series beside it, not on their order.
    """
    same = [other for other in scans if other.id.lower() == scan.id.lower()]
    uids = {_uid(other): _file_name(_uid(other).rsplit(".", 1)[-1]) for other in same}
    uid = _uid(scan)
    if len(same) == 1 or not uid:
        return scan
    is_alike = sum(end.lower() == uids[uid].lower() for end in uids.values()) > 1
    end = hashlib.sha256(uid.encode(errors="surrogateescape")).hexdigest()[:8] if is_alike else uids[uid]
    return replace(scan, id=_file_name(f"{scan.id}_{end}"))


def _uid(scan: Scan) -> str:
    return scan.files[0].uid if isinstance(scan.files[0], Series) else ""


def _file_name(name: str) -> str:
    """Make a name that was typed at a scanner, or is a UID, one for a file: no path, no option, not too long."""
    plain = re.sub(r"[^\w.+-]+", "_", name).strip(".").lstrip("-.") or "scan"
    if len(plain.encode()) <= _MAX_NAME_BYTES:
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{plain.encode()[: _MAX_NAME_BYTES - 9].decode(errors='ignore')}_{digest}"


def _channel_of(item: Scan) -> tuple[tuple[Path, str], int] | None:
    """Return the folder and the case that an item is a channel of, and the channel's number."""
    source = item.files[0]
    place = source.folder if isinstance(source, Series) else source
    match = _CHANNEL.fullmatch(place.name if isinstance(source, Series) else split_suffix(source.name)[0])
    if match is None or item.is_auxiliary:
        return None
    return (place.parent, match["case"] or place.resolve().parent.name), int(match["channel"])


def _numbered(items: Iterable[Scan]) -> dict[tuple[Path, str], list[tuple[int, Scan]]]:
    """Return the items that may be channels, each with its number, by folder and case."""
    groups: dict[tuple[Path, str], list[tuple[int, Scan]]] = {}
    for item in items:
        found = _channel_of(item)
        if found:
            groups.setdefault(found[0], []).append((found[1], item))
    return groups


def _of_others(channels: Sequence[Scan]) -> Problem | None:
    """Return the problem of DICOM series that lie as channels of one scan and are of two patients."""
    series = [source for item in channels for source in item.files if isinstance(source, Series)]
    if not differ_in_patient(series):
        return None
    what, fix = "channels of several patients", "put each patient's scan into a folder of its own"
    expected, found = "one PatientID and PatientName", ", ".join(each.folder.name for each in series)
    return Problem("dicom.mixed-channels", what, str(series[0].folder.parent), fix, expected, found)


def _group_channels(items: Sequence[Scan], channels: int) -> list[Scan]:
    scans, grouped = [], set()
    for (_, case), numbered in _numbered(items).items():
        if sorted(number for number, _ in numbered) == list(range(channels)):
            members = [item for _, item in sorted(numbered, key=lambda pair: pair[0])]
            problem = next((item.problem for item in members if item.problem), None) or _of_others(members)
            scans.append(Scan(case, tuple(item.files[0] for item in members), problem))
            grouped |= {id(item) for item in members}
    return sorted([*scans, *(item for item in items if id(item) not in grouped)], key=lambda scan: scan.id)
