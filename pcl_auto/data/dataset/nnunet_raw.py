"""Data sets in nnU-Net's own raw format: ``DatasetNNN_Name`` with a file per channel, labels for some cases or all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcl_auto.data.case import Case, Source, Task, by_id
from pcl_auto.data.dataset.dataset_json import RAW_FOLDER
from pcl_auto.data.dataset.safe_paths import DatasetRoot, shown
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, nifti_stem
from pcl_auto.data.labels import Labels

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.ASCII)


def read_raw(
    folder: DatasetRoot,
    content: Mapping[str, Any],
    channels: tuple[str, ...],
    labels: Labels,
    *,
    use_test_images: bool,
) -> Task:
    """Find the files of a data set in nnU-Net's raw format, without opening any of them.

    ``imagesTr`` holds a file per channel (``case_0000.nii.gz``, ``case_0001.nii.gz``, …); a case is labeled if
    ``labelsTr`` has it. ``imagesUn`` and ``imagesTs`` are as in a decathlon folder.

    Args:
        folder: the data set's folder, which gets the problems.
        content: its ``dataset.json``.
        channels: names of the channels, in order.
        labels: classes or regions with their values.
        use_test_images: take ``imagesTs`` into the pool, as unlabeled cases.
    """
    _refuse_unread_keys(folder, content)
    images, unlabeled, test = (
        _read_cases(folder, source, len(channels)) for source in ("imagesTr", "imagesUn", "imagesTs")
    )
    label_files = [path for path in folder.list_volumes("labelsTr", "label") if folder.accepts(path, "label")]
    folder.refuse_twins(label_files, "label")
    with_label = {nifti_stem(path.name) or "": path for path in label_files}
    training = [replace(case, label=with_label.pop(case.id, None)) for case in images]
    folder.refuse_shared_labels(training)
    for case, path in with_label.items():
        what, fix = "label without an image", "restore the image, or remove the label"
        if (match := _CHANNEL.fullmatch(case)) and any(match["case"] == image.id for image in images):
            fix = f"call it {match['case']}: labels have no channel in their names"
        folder.report_problem("data.label-without-image", what, shown(path), fix, f"{case}_0000 in imagesTr")
    if not any(case.label for case in training):
        fix, expected = "put the label maps of some cases into labelsTr", "1 or more in labelsTr"
        folder.report_problem("data.no-labeled", "no labeled case", str(folder.root), fix, expected, "none")
    folder.refuse_test_images(training, test)
    folder.refuse_repeated_images(training + unlabeled, "the training cases")
    folder.refuse_repeated_images(test, "the test cases")
    pool = training + unlabeled + (test if use_test_images else [])
    folder.refuse_repeated_ids(pool, "the training cases")
    match = RAW_FOLDER.fullmatch(folder.given.name) or RAW_FOLDER.fullmatch(folder.root.name)
    name, number = (match[2], int(match[1])) if match else (folder.given.name, None)
    return Task(folder.root, name, number, channels, labels, by_id(pool), by_id(test))


def _refuse_unread_keys(folder: DatasetRoot, content: Mapping[str, Any]) -> None:
    where = str(folder.root / "dataset.json")
    if "file_ending" not in content:
        what, fix = (
            "file_ending is missing",
            'add "file_ending": ".nii.gz" (or ".nii", as the files are) to dataset.json',
        )
        folder.report_problem("dataset-json.no-file-ending", what, where, fix, ".nii.gz or .nii", "no such key")
    elif str(content["file_ending"]).lower() not in NIFTI_SUFFIXES:
        what, fix = "file ending is not read", "convert the images and labels to NIfTI"
        found = str(content["file_ending"])[:40]
        folder.report_problem("dataset-json.file-ending", what, where, fix, ".nii.gz or .nii", found)
    if "dataset" in content:
        what = 'a list of files under "dataset" is not read'
        fix = "put the files into imagesTr and labelsTr, or links to them"
        folder.report_problem("dataset-json.file-list", what, where, fix)


def _read_cases(folder: DatasetRoot, source: Source, channels: int) -> list[Case]:
    """Return the cases of a folder that have a file for each channel."""
    groups: dict[str, dict[int, Path]] = defaultdict(dict)
    files = folder.list_volumes(source, "image")
    folder.refuse_twins(files, "image")
    for path in files:
        match = _CHANNEL.fullmatch(nifti_stem(path.name) or "")
        if match is None:
            what = "image name lacks the channel"
            fix = "rename it: the case, then _0000 for the first channel, _0001 for the second"
            folder.report_problem("data.channel-name", what, shown(path), fix, "case_0000.nii.gz")
        elif folder.accepts(path, "image"):
            groups[match["case"]][int(match["channel"])] = path
    cases = []
    for case, group in groups.items():
        if not folder.accepts_case_id(case, str(folder.root / source)):
            continue
        if sorted(group) == list(range(channels)):
            first, *further = (group[channel] for channel in range(channels))
            cases.append(Case(case, first, None, source, tuple(further)))
            continue
        what, fix = f"channels of {case}", "add the files of the other channels, or correct channel_names"
        found = ", ".join(f"_{channel:04d}" for channel in sorted(group))
        expected = f"_0000 to _{channels - 1:04d}" if channels > 1 else "_0000"
        folder.report_problem("data.channel-files", what, str(folder.root / source), fix, expected, found)
    return cases
