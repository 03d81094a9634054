"""Find the test cases of a benchmark: scans with labels that no training sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pcl_auto.data.formats.scans import Scan, list_scans, paths_of
from pcl_auto.data.formats.suffixes import VOLUME_SUFFIXES, find_nifti, find_volume, split_suffix, unread_stem
from pcl_auto.errors import DataError, Problem, UsageError
from pcl_auto.planning.plan import Plan
from pcl_auto.workspace.files import file_digest, refuse_irregular

# The draw of test cases is the same for every benchmark, whatever its own seeds.
SEED = 2023


@dataclass(frozen=True)
class HeldOut:
    """Test scans and the folder of their labels, which have their names.

    ``of_pool``: the scans are labeled cases of the data set itself, kept out of every training.
    """

    scans: tuple[Scan, ...]
    labels: Path
    of_pool: bool = False

    def label(self, case: str) -> Path:
        """Return the label of a test case."""
        return find_volume(self.labels, case)

    def digest(self) -> str:
        """Return a checksum of the scans that are scored and the labels that they are scored by."""
        content = hashlib.sha256()
        for scan in self.scans:
            content.update(f"{scan.id} {[file.stat().st_size for file in scan.paths]} ".encode())
            label = self.label(scan.id)
            # No label of the pool is opened before it is scored by.
            refuse_irregular(label, DataError)
            if self.of_pool:
                stats = label.stat()
                content.update(f"{stats.st_size} {stats.st_mtime_ns}".encode())
                continue
            for file in paths_of(label):
                content.update(file.read_bytes())
        return content.hexdigest()[:16]

    @cached_property
    def image_digests(self) -> list[str]:
        """The SHA-256 of the files of every scan; the plan knows those of the pool."""
        return [] if self.of_pool else [file_digest(file) for scan in self.scans for file in scan.paths]


def hold_out(plan: Plan, number: int) -> tuple[HeldOut | None, list[Problem]]:
    """Draw labeled cases of the plan as test cases, always the same ones; fewer are a part of more.

    Problems are numbers that leave no labeled case to learn from, and labels that are not called like their scans.
    """
    with_label = sorted(case.id for case in plan.cases.values() if case.label is not None)
    if number >= len(with_label):
        fix, expected = "ask for fewer: the others are learned from", f"1 to {len(with_label) - 1}"
        code, what = "benchmark.too-few-labeled", "too few labeled cases"
        return None, [Problem(code, what, "--test-cases", fix, expected, str(number))]
    order = np.random.default_rng(SEED).permutation(len(with_label))
    chosen = [plan.cases[with_label[index]] for index in sorted(order[:number])]
    labels = {case.id: case.label for case in chosen if case.label is not None}
    folder = labels[chosen[0].id].parent
    try:
        scans = list_scans([file for case in chosen for file in case.files], len(plan.dataset_json["channel_names"]))
    except UsageError as error:
        return None, list(error.problems)
    # Masks are named after their scans, and are scored by the labels of that name.
    paths = {case: find_nifti(folder, case) for case in labels}
    if [scan.id for scan in scans] != list(labels) or paths != labels:
        what = "labels in several folders, or with other names than their scans"
        fix = "copy test scans and labels into two folders, and name them with --test-images and --test"
        return None, [Problem("benchmark.labels-elsewhere", what, "--test-cases", fix)]
    return HeldOut(tuple(scans), folder, of_pool=True), []


def folder_problems(images: Path, labels: Path) -> list[Problem]:
    """List which of the two folders is missing."""
    problems = []
    for what, folder, option in (("images", images, "--test-images"), ("labels", labels, "--test")):
        if not folder.is_dir():
            fix = f"name one with {option}, or keep cases out with --test-cases"
            problems.append(Problem("benchmark.test-folder-missing", f"no folder of test {what}", str(folder), fix))
    return problems


def find_held_out(images: Path, labels: Path, plan: Plan) -> tuple[HeldOut | None, list[Problem]]:
    """Find the scans in ``images`` that have a label in ``labels``.

    Problems are missing folders, labels without a scan, no label at all, and scans that the training pool has with
    their labels.
    """
    problems = folder_problems(images, labels)
    if problems:
        return None, problems
    try:
        listed = list_scans([images], len(plan.dataset_json["channel_names"]))
    except UsageError as error:
        return None, list(error.problems)
    listed = [scan for scan in listed if not scan.is_auxiliary]
    scans = {scan.id: scan for scan in listed}
    files = [file.name for file in sorted(labels.iterdir()) if not file.name.startswith(".")]
    cases = [stem for stem, suffix in map(split_suffix, files) if suffix]
    what, fix = "test label in a format that is not read", "convert it to .nii.gz, or take it out of the folder"
    problems += [
        Problem("benchmark.test-label-format", what, str(labels / name), fix, " | ".join(VOLUME_SUFFIXES))
        for name in files
        if unread_stem(name) not in (None, *cases)
    ]
    problems += [
        Problem("benchmark.test-label-twice", f"test label {case!r} in several files", str(labels), "keep one of them")
        for case in sorted({case for case in cases if cases.count(case) > 1})
    ]
    if not cases:
        fix, expected = "name another folder with --test", f"files {' '.join(VOLUME_SUFFIXES)}"
        problems.append(Problem("benchmark.no-test-label", "no test label", str(labels), fix, expected))
    problems += [scan.problem for scan in listed if scan.problem and scan.id in cases]
    fix = "add the scan, or remove its label"
    problems += [
        Problem("benchmark.test-label-without-scan", f"test label {case!r} without a scan", str(images), fix)
        for case in cases
        if case not in scans
    ]
    held_out = HeldOut(tuple(scans[case] for case in cases if case in scans), labels)
    trained_on = {case.image.resolve() for case in plan.cases.values() if case.label is not None}
    code, fix = "benchmark.test-scan-trained-on", "name other scans with --test-images"
    problems += [
        Problem(code, f"test scan {scan.id!r} is a labeled training case", str(images), fix)
        for scan in held_out.scans
        if trained_on & {file.resolve() for file in scan.paths}
    ]
    return held_out, problems
