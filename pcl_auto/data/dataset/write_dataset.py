"""Write cases as a data set: links to their files or copies, and ``dataset.json``; whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pcl_auto.data.case import Case
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.dataset.plain_listing import target_taken
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, split_suffix
from pcl_auto.data.labels import Labels
from pcl_auto.errors import DataError, UsageError
from pcl_auto.workspace.atomic import publish
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.resources import require_room


@dataclass(frozen=True)
class Written:
    """Numbers of files that were linked and copied, and the bytes that copies and converted files take."""

    linked: int
    copied: int
    bytes_written: int


def layout(cases: Sequence[Case]) -> dict[Path, str]:
    """Return the place in the data set of every file of its cases; of what is no NIfTI, that of the NIfTI to be."""
    places = {}
    for case in cases:
        for channel, file in enumerate(case.files):
            number = f"_{channel:04d}" if is_raw(cases) else ""
            places[file] = f"{case.source}/{case.id}{number}{_suffix(file)}"
        if case.label is not None:
            places[case.label] = f"labelsTr/{case.id}{_suffix(case.label)}"
    return places


def is_raw(cases: Sequence[Case]) -> bool:
    """Tell whether nnU-Net's raw format is needed: the decathlon's has one file for all channels of a case."""
    return any(case.further for case in cases)


def _suffix(file: Path) -> str:
    suffix = split_suffix(file.name)[1]
    return suffix if suffix in NIFTI_SUFFIXES else NIFTI_SUFFIXES[0]


def write_dataset(
    root: Path, target: Path, cases: Sequence[Case], channels: Sequence[str], labels: Labels, *, copy: bool
) -> Written:
    """Write a data set into ``root``, and move it to ``target``.

    Args:
        root: on the file system of ``target``; files of the cases that lie there already, in their places, stay.
        target: not there, or an empty folder.
        cases: NIfTI files, those for tests with ``imagesTs`` as their source.
        channels: names, in order.
        labels: classes by name.
        copy: copy the files; otherwise they are hard links where the disk allows it.

    Raises:
        DataError: what was written is no data set that can be read.
        ResourceError: the disk has no room.
        UsageError: something lies in the target by now.
    """
    places = layout(cases)
    for folder in ("imagesTr", "labelsTr", *(["imagesTs"] if any(case.source == "imagesTs" for case in cases) else [])):
        (root / folder).mkdir(parents=True, exist_ok=True)
    device = root.stat().st_dev
    others = {file: root / place for file, place in places.items() if file != root / place}
    apart = [file for file in others if copy or file.stat().st_dev != device]
    require_room(root, sum(file.stat().st_size for file in apart), "copies of images and masks")
    linked = {file for file, new in others.items() if _place(file.resolve(), new, copy=copy)}
    write_json(root / "dataset.json", _description(target.name, cases, channels, labels, places))
    _, problems = read_task(root)
    if problems:
        raise DataError([replace(each, where=each.where.replace(str(root), str(target))) for each in problems])
    size = sum((root / place).stat().st_size for file, place in places.items() if file not in linked)
    try:
        if target.exists():
            target.rmdir()
    except OSError as error:
        raise UsageError(target_taken(target, "files")) from error
    publish(root, target)
    return Written(len(linked), len(others) - len(linked), size)


def _place(file: Path, new: Path, *, copy: bool) -> bool:
    """Link or copy a file, and tell whether it was linked."""
    if not copy:
        try:
            os.link(file, new)
        except OSError:  # another disk, one without links, or a file of somebody else
            pass
        else:
            return True
    shutil.copyfile(file, new)
    return False


def _description(
    name: str, cases: Sequence[Case], channels: Sequence[str], labels: Labels, places: Mapping[Path, str]
) -> dict[str, Any]:
    labeled = [case for case in cases if case.label is not None]
    names = {str(number): channel for number, channel in enumerate(channels)}
    if is_raw(cases):
        ending = Counter(_suffix(case.image) for case in cases).most_common(1)[0][0]
        return {
            "name": name, "channel_names": names, "labels": labels, "numTraining": len(labeled), "file_ending": ending
        }  # fmt: skip
    tests = [f"./{places[case.image]}" for case in cases if case.source == "imagesTs"]
    return {
        "name": name,
        "tensorImageSize": "3D" if len(channels) == 1 else "4D",
        "modality": names,
        "labels": {str(value): label for label, value in labels.items()},
        "numTraining": len(labeled),
        "numTest": len(tests),
        "training": [
            {"image": f"./{places[case.image]}", "label": f"./{places[case.label]}"}
            for case in labeled
            if case.label is not None
        ],
        "test": tests,
    }
