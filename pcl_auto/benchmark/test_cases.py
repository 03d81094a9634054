"""The test cases of a benchmark: scans with labels that no training sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.data.formats.suffixes import find_nifti, nifti_stem
from pcl_auto.errors import Problem, UsageError
from pcl_auto.planning.plan import Plan

# Of the draw of test cases: the same for every benchmark, whatever its own seeds.
SEED = 2023


@dataclass(frozen=True)
class HeldOut:
    """Test scans and the folder of their labels, which have their names.

    ``of_pool``: whether they are labeled cases of the data set itself, kept out of every training.
    """

    scans: tuple[Scan, ...]
    labels: Path
    of_pool: bool = False

    def digest(self) -> str:
        """One value for the scans that are scored and the labels that they are scored by."""
        content = hashlib.sha256()
        for scan in self.scans:
            content.update(f"{scan.id} {[file.stat().st_size for file in scan.paths]} ".encode())
            label = find_nifti(self.labels, scan.id)
            # Of the pool no label is opened before it is scored by.
            stats = label.stat()
            content.update(f"{stats.st_size} {stats.st_mtime_ns}".encode() if self.of_pool else label.read_bytes())
        return content.hexdigest()[:16]


def hold_out(plan: Plan, number: int) -> tuple[HeldOut | None, list[Problem]]:
    """So many of the plan's labeled cases as test cases, always the same ones, and of fewer ones a part of them.

    Problems are numbers that leave no labeled case to learn from, and labels that are not called like their scans.
    """
    with_label = sorted(case.id for case in plan.cases.values() if case.label is not None)
    if number >= len(with_label):
        fix = "ask for fewer: the others are learned from"
        return None, [
            Problem(
                "benchmark.too-few-labeled",
                "too few labeled cases",
                "--test-cases",
                fix,
                f"1 to {len(with_label) - 1}",
                str(number),
            )
        ]
    order = np.random.default_rng(SEED).permutation(len(with_label))
    chosen = [plan.cases[with_label[place]] for place in sorted(order[:number])]
    labels = {case.id: case.label for case in chosen if case.label is not None}
    folder = labels[chosen[0].id].parent
    try:
        scans = list_scans([file for case in chosen for file in case.files], len(plan.dataset_json["channel_names"]))
    except UsageError as error:
        return None, list(error.problems)
    # Masks are named after their scans, and are scored by the labels of that name.
    if [scan.id for scan in scans] != list(labels) or any(
        find_nifti(folder, case) != label for case, label in labels.items()
    ):
        fix = "copy test scans and labels into two folders, and name them with --test-images and --test"
        return None, [
            Problem(
                "benchmark.labels-elsewhere",
                "labels in several folders, or with other names than their scans",
                "--test-cases",
                fix,
            )
        ]
    return HeldOut(tuple(scans), folder, of_pool=True), []


def folder_problems(images: Path, labels: Path) -> list[Problem]:
    """Which of the two folders is not there."""
    return [
        Problem(
            "benchmark.test-folder-missing",
            f"no folder of test {what}",
            str(folder),
            f"name one with {option}, or keep cases out with --test-cases",
        )
        for what, folder, option in (("images", images, "--test-images"), ("labels", labels, "--test"))
        if not folder.is_dir()
    ]


def find_held_out(images: Path, labels: Path, plan: Plan) -> tuple[HeldOut | None, list[Problem]]:
    """The scans in ``images`` with a label in ``labels``; scans without one are left out.

    Problems are missing folders, labels without a scan, no label at all, and scans that the training pool has with
    their labels.
    """
    problems = folder_problems(images, labels)
    if problems:
        return None, problems
    try:
        scans = {scan.id: scan for scan in list_scans([images], len(plan.dataset_json["channel_names"]))}
    except UsageError as error:
        return None, list(error.problems)
    files = [file for file in sorted(labels.iterdir()) if not file.name.startswith(".")]
    cases = [stem for file in files if (stem := nifti_stem(file.name)) is not None]
    if not cases:
        problems.append(
            Problem(
                "benchmark.no-test-label",
                "no test label",
                str(labels),
                "name another folder with --test",
                "files .nii.gz .nii",
            )
        )
    problems += [
        Problem(
            "benchmark.test-label-without-scan",
            f"test label {case!r} without a scan",
            str(images),
            "add the scan, or remove its label",
        )
        for case in cases
        if case not in scans
    ]
    held_out = HeldOut(tuple(scans[case] for case in cases if case in scans), labels)
    trained_on = {case.image.resolve() for case in plan.cases.values() if case.label is not None}
    problems += [
        Problem(
            "benchmark.test-scan-trained-on",
            f"test scan {scan.id!r} is a labeled training case",
            str(images),
            "name other scans with --test-images",
        )
        for scan in held_out.scans
        if trained_on & {file.resolve() for file in scan.paths}
    ]
    return held_out, problems
