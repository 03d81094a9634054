"""Find the scans in files and folders: volumes in one file, DICOM series, and channels that belong together."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.data.formats.dicom import Finding, Series, find_series, is_dicom
from pcl_auto.data.formats.suffixes import VOLUME_SUFFIXES, split_suffix
from pcl_auto.errors import Problem, UsageError

# Voxels that a header of its own names.
_DATA_SUFFIXES = (".raw", ".zraw", ".raw.gz")
_CHANNEL = re.compile(r"(?P<case>.*)_(?P<channel>\d{4})$")

Source = Path | Series


@dataclass(frozen=True)
class Scan:
    """A scan: its name and its volumes, one in 4D or one per channel, or the problem that it cannot be segmented for.

    ``is_auxiliary`` is true of what lies beside scans and is none: a scout, a report.
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
        return "" if isinstance(self.files[0], Series) else split_suffix(self.files[0].name)[1]


def paths_of(source: Source) -> tuple[Path, ...]:
    """Return the files of a volume: one, or the slices of a DICOM series."""
    return source.files if isinstance(source, Series) else (source,)


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
        UsageError: nothing to segment, or two scans whose masks would have the same name.
    """
    problems: list[Problem] = []
    items: list[Scan] = []
    slices: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = _of_folder(path)
            items += found
            if not found:
                problems.append(_nothing_in(path))
        elif not path.exists():
            problems.append(_missing(path))
        elif not split_suffix(path.name)[1] and is_dicom(path):
            slices.append(path)
        else:
            items.append(_of_file(path))
    items += _name_series(find_series(slices), None)
    scans = _group_channels(items, channels)
    problems += _one_mask_each(scan for scan in scans if not scan.is_auxiliary)
    if scans and all(scan.is_auxiliary for scan in scans):
        problems += [scan.problem for scan in scans if scan.problem]
    if problems:
        raise UsageError(problems)
    return scans


def _nothing_in(folder: Path) -> Problem:
    expected = f"DICOM, or files {' '.join(VOLUME_SUFFIXES)}"
    return Problem("predict.no-scan", "no scan", str(folder), "name another folder", expected)


def _one_mask_each(scans: Iterable[Scan]) -> Iterator[Problem]:
    groups: dict[str, list[Scan]] = {}
    for scan in scans:
        groups.setdefault(scan.id, []).append(scan)
    for case, same in sorted(groups.items()):
        if len(same) > 1:
            what, where = (
                f"{len(same)} scans would write the mask {case}",
                ", ".join(str(scan.files[0]) for scan in same),
            )
            fix = "predict them into different folders, or rename them"
            yield Problem("predict.mask-twice", what, where, fix)


def _of_folder(folder: Path) -> list[Scan]:
    """Return the files and series of a folder, each by itself."""
    items = [_of_file(file) for file in sorted(folder.iterdir()) if _is_volume(file)]
    slices = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(parent) / name for name in sorted(names)):
            # Channels of a case in a folder of its own; other volumes in subfolders are not asked for.
            if file.parent != folder and _is_volume(file) and _is_channel_of_folder(file):
                items.append(_of_file(file))
            elif _may_be_slice(file) and is_dicom(file):
                slices.append(file)
    return items + _name_series(find_series(slices), folder)


def _of_file(file: Path) -> Scan:
    return Scan(split_suffix(file.name)[0], (file,))


def _is_volume(file: Path) -> bool:
    return bool(split_suffix(file.name)[1]) and not file.name.startswith(".")


def _is_channel_of_folder(file: Path) -> bool:
    match = _CHANNEL.match(split_suffix(file.name)[0])
    return match is not None and not match["case"]


def _may_be_slice(file: Path) -> bool:
    hidden = file.name.startswith(".")
    return (
        not hidden
        and not split_suffix(file.name)[1]
        and not file.name.lower().endswith(_DATA_SUFFIXES)
        and file.is_file()
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
    # Series of the same number and description get the end of their UID.
    names = Counter(scan.id for scan in scans)
    return [
        replace(scan, id=f"{scan.id}_{_uid_end(scan)}") if names[scan.id] > 1 and _uid_end(scan) else scan
        for scan in scans
    ]


def _uid_end(scan: Scan) -> str:
    return scan.files[0].uid.rsplit(".", 1)[-1] if isinstance(scan.files[0], Series) else ""


def _file_name(name: str) -> str:
    """Make a name that was typed at a scanner one for a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip(".") or "scan"


def _channel_of(item: Scan) -> tuple[tuple[Path, str], int] | None:
    """Return the folder and the case that an item is a channel of, and the channel's number."""
    source = item.files[0]
    place = source.folder if isinstance(source, Series) else source
    match = _CHANNEL.match(place.name if isinstance(source, Series) else split_suffix(source.name)[0])
    if match is None or item.is_auxiliary:
        return None
    return (place.parent, match["case"] or place.resolve().parent.name), int(match["channel"])


def _group_channels(items: Sequence[Scan], channels: int) -> list[Scan]:
    groups: dict[tuple[Path, str], list[tuple[int, Scan]]] = {}
    for item in items:
        found = _channel_of(item)
        if found:
            groups.setdefault(found[0], []).append((found[1], item))
    scans, grouped = [], set()
    for (_, case), numbered in groups.items():
        if sorted(number for number, _ in numbered) == list(range(channels)):
            members = [item for _, item in sorted(numbered, key=lambda pair: pair[0])]
            problem = next((item.problem for item in members if item.problem), None)
            scans.append(Scan(case, tuple(item.files[0] for item in members), problem))
            grouped |= {id(item) for item in members}
    return sorted([*scans, *(item for item in items if id(item) not in grouped)], key=lambda scan: scan.id)
