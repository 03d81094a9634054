"""Data sets in nnU-Net's own raw format: ``DatasetNNN_Name`` with a file per channel, labels for some cases or all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcl_auto.data.case import Case, Source, Task, by_id
from pcl_auto.data.dataset.safe_paths import DatasetRoot, refuse_case_id, shown
from pcl_auto.data.formats.suffixes import nifti_stem
from pcl_auto.data.labels import Labels
from pcl_auto.errors import Problem

FOLDER = re.compile(r"Dataset(\d{3,9})_(.+)", re.ASCII)
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.ASCII)


def read_raw(
    folder: DatasetRoot,
    content: Mapping[str, Any],
    channels: tuple[str, ...],
    labels: Labels,
    *,
    use_test_images: bool,
) -> tuple[Task, list[Problem]]:
    """Find the files of a data set in nnU-Net's raw format, without opening any of them.

    ``imagesTr`` holds a file per channel (``case_0000.nii.gz``, ``case_0001.nii.gz``, …); a case is labeled if
    ``labelsTr`` has it. ``imagesUn`` and ``imagesTs`` are as in a decathlon folder.

    Args:
        folder: the data set's folder.
        content: its ``dataset.json``.
        channels: names of the channels, in order.
        labels: classes or regions with their values.
        use_test_images: take ``imagesTs`` into the pool, as unlabeled cases.
    """
    where = str(folder.root / "dataset.json")
    problems = _refuse_what_is_not_read(content, where)
    found: dict[Source, list[Case]] = {}
    for source in ("imagesTr", "imagesUn", "imagesTs"):
        found[source], wrong = _cases(folder, source, len(channels))
        problems += wrong
    with_label, wrong = _labels(folder)
    problems += wrong
    training = [
        Case(case.id, case.image, with_label.pop(case.id, None), "imagesTr", case.further) for case in found["imagesTr"]
    ]
    problems += [
        Problem(
            "data.label-without-image",
            "label without an image",
            shown(path),
            "restore the image, or remove the label",
            f"{case}_0000 in imagesTr",
        )
        for case, path in with_label.items()
    ]
    if not any(case.label for case in training):
        fix = "put the label maps of some cases into labelsTr"
        problems.append(
            Problem("data.no-labeled", "no labeled case", str(folder.root), fix, "1 or more in labelsTr", "none")
        )
    pool = training + found["imagesUn"] + (found["imagesTs"] if use_test_images else [])
    problems += _refuse_repeated(pool, where)
    name, number = _parse_name(folder)
    return Task(folder.root, name, number, channels, labels, by_id(pool), by_id(found["imagesTs"])), problems


def _parse_name(folder: DatasetRoot) -> tuple[str, int | None]:
    match = FOLDER.fullmatch(folder.given.name) or FOLDER.fullmatch(folder.root.name)
    return (match[2], int(match[1])) if match else (folder.given.name, None)


def _refuse_what_is_not_read(content: Mapping[str, Any], where: str) -> list[Problem]:
    problems = []
    if content["file_ending"] not in (".nii.gz", ".nii"):
        fix = "convert the images and labels to NIfTI"
        problems.append(
            Problem(
                "dataset-json.file-ending",
                "file ending is not read",
                where,
                fix,
                ".nii.gz or .nii",
                str(content["file_ending"])[:40],
            )
        )
    if "dataset" in content:
        fix = "put the files into imagesTr and labelsTr, or list them as a decathlon task does"
        problems.append(Problem("dataset-json.file-list", 'a list of files under "dataset" is not read', where, fix))
    return problems


def _cases(folder: DatasetRoot, source: Source, channels: int) -> tuple[list[Case], list[Problem]]:
    """The cases of a folder with a file for each channel, and what is wrong with the others."""
    files, problems = folder.list_files(source)
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in files:
        base = nifti_stem(path.name)
        match = _CHANNEL.fullmatch(base) if base is not None else None
        if match is None:
            if base is not None:
                fix = "rename it: the case, then _0000 for the first channel, _0001 for the second"
                problems.append(
                    Problem("data.channel-name", "image name lacks the channel", shown(path), fix, "case_0000.nii.gz")
                )
            continue
        refusal = folder.refuse_target(path, "image")
        if refusal:
            problems.append(refusal)
        else:
            groups[match["case"]][int(match["channel"])] = path
    cases = []
    for case, group in groups.items():
        refusal = refuse_case_id(case, str(folder.root / source))
        if refusal:
            problems.append(refusal)
        elif sorted(group) != list(range(channels)):
            fix = "add the files of the other channels, or correct channel_names"
            has = ", ".join(f"_{channel:04d}" for channel in sorted(group))
            expected = f"_0000 to _{channels - 1:04d}" if channels > 1 else "_0000"
            problems.append(
                Problem("data.channel-files", f"channels of {case}", str(folder.root / source), fix, expected, has)
            )
        else:
            first, *further = (group[channel] for channel in range(channels))
            cases.append(Case(case, first, None, source, tuple(further)))
    return cases, problems


def _labels(folder: DatasetRoot) -> tuple[dict[str, Path], list[Problem]]:
    files, problems = folder.list_files("labelsTr")
    found = {}
    for path in files:
        base = nifti_stem(path.name)
        refusal = folder.refuse_target(path, "label")
        if refusal:
            problems.append(refusal)
        elif base is not None:
            found[base] = path
    return found, problems


def _refuse_repeated(cases: list[Case], where: str) -> list[Problem]:
    names: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        names[case.id.lower()].append(case)
    fix = "give every case a name of its own (upper and lower case are the same here)"
    return [
        Problem(
            "data.case-twice",
            "case name used twice",
            where,
            fix,
            f"one {same[0].id}",
            ", ".join(str(case.image) for case in same),
        )
        for same in names.values()
        if len(same) > 1
    ]
