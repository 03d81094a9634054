"""Check the test cases of a benchmark before its first run: sound, declared values, and in no training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.benchmark.test_cases import HeldOut
from pcl_auto.data.checks.check_files import known_image
from pcl_auto.data.dataset.safe_paths import identity_of
from pcl_auto.data.formats.scans import Scan
from pcl_auto.data.formats.usable_voxels import refuse_unusable
from pcl_auto.data.formats.volume import LoadedVolume, read_volume
from pcl_auto.data.labels import all_values, ignore_value
from pcl_auto.errors import DataError, Problem
from pcl_auto.evaluation.metrics import check_label
from pcl_auto.planning.inputs import known_checks, require_planned_images
from pcl_auto.planning.plan import Plan, PlannedCase
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.folders import DatasetFolder

# Scans in memory at once.
THREADS = 4


@dataclass
class _Found:
    """Findings of a test case: digests of its files and voxels, the values of its label, and problems."""

    id: str
    digests: set[str] = field(default_factory=set)
    values: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def check_test_cases(held_out: HeldOut, plan: Plan, data: DatasetFolder) -> list[Problem]:
    """Make sure that every test case can be scored, and that no training sees its scan; return what is worth a look.

    Labels in a folder of their own are for scoring alone: no split hides them, as they are of no case of the plan, and
    opening them tells no training anything. Those of ``of_pool`` are hidden labels: they stay closed until a mask is
    scored by them, and their images are those of the plan.

    Raises:
        DataError: test cases that cannot be scored, or that are trained on, all of them listed.
        StateError: images of the pool that have changed since they were planned.
    """
    known = known_checks(data)
    if held_out.of_pool:
        ids = [scan.id for scan in held_out.scans]
        require_planned_images(plan, ids, data)
        found = [_Found(case, _training_digests(plan.cases[case], known)) for case in ids]
        warnings = []
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda scan: _check(scan, held_out, plan), held_out.scans))
        warnings = _worth_a_look(held_out, found, plan)
    problems = [problem for each in found for problem in each.problems]
    problems += _trained_on(held_out, found, plan, known)
    if problems:
        raise DataError(problems)
    return warnings


def _check(scan: Scan, held_out: HeldOut, plan: Plan) -> _Found:
    """Read scan and label of a test case to their ends."""
    found = _Found(scan.id)
    try:
        volumes = [read_volume(source) for source in scan.files]
        for volume, source in zip(volumes, scan.files, strict=True):
            if not np.isfinite(volume.voxels).all():
                what, fix = "test scan holds values that are no numbers", "restore the scan from its source"
                raise DataError(Problem("benchmark.test-scan-not-finite", what, str(source), fix))
            refuse_unusable(volume.voxels, str(source))
        found.digests = {*map(file_digest, scan.paths), "-".join(map(_voxels_digest, volumes))}
        allowed = all_values(plan.dataset_json["labels"])
        found.values, found.problems = check_label(held_out.label(scan.id), volumes[0], allowed)
    except DataError as error:
        found.problems = [*error.problems]
    return found


def _voxels_digest(volume: LoadedVolume) -> str:
    """Return the digest that the checks of a data set keep of an image's voxels (Volume.digest)."""
    shape = repr((volume.voxels.shape[:0:-1], 1)).encode()
    digests = [hashlib.blake2b(shape, digest_size=16) for _ in volume.voxels]
    for digest, channel in zip(digests, volume.voxels, strict=True):
        digest.update(np.ascontiguousarray(channel, "<f4").data)
    return "-".join(digest.hexdigest() for digest in digests)


def _training_digests(case: PlannedCase, known: Mapping[str, Any] | None) -> set[str]:
    """Return the digests of an image's files, as planned, and of its voxels where they are on record."""
    files = case.digest.split("-") if case.digest else [file_digest(file) for file in case.files if file.is_file()]
    facts = known_image(known, case.id)
    volume = facts.get("volume") if isinstance(facts, Mapping) else None
    voxels = volume.get("digest") if isinstance(volume, Mapping) else None
    return {*files, str(voxels)} if voxels else {*files}


def _trained_on(
    held_out: HeldOut, found: list[_Found], plan: Plan, known: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield test scans that trainings see under another name: copies, links, the same voxels in another file."""
    tested = {each.id for each in found} if held_out.of_pool else set()
    owners = {
        digest: case
        for case in plan.cases.values()
        # Who plans with --use-test-images has asked for just that: their images are learned from, without labels.
        if case.id not in tested and (held_out.of_pool or case.source != "imagesTs")
        for digest in _training_digests(case, known)
    }
    where = "--test-cases" if held_out.of_pool else str(held_out.labels)
    fix = "take one of the two out of the data set" if held_out.of_pool else "take it and its label out of the test"
    for each in found:
        case = next((owners[digest] for digest in sorted(each.digests) if digest in owners), None)
        if case is not None:
            kind = "a labeled" if case.label is not None else "an unlabeled"
            what, twin = f"test scan {each.id!r} is {kind} training case", f"{each.id} = {case.id}"
            yield Problem("benchmark.test-scan-trained-on", what, where, fix, "scans that no training sees", twin)


def _worth_a_look(held_out: HeldOut, found: list[_Found], plan: Plan) -> list[Problem]:
    """Return warnings of test cases that are alike, and of labels without any class.

    Problems of labels that are one file, or all without a class, are added to the first test case.
    """
    where, warnings = str(held_out.labels), []
    shown = {each.id: each.values - {ignore_value(plan.dataset_json["labels"])} for each in found if not each.problems}
    empty = [case for case, values in shown.items() if not values]
    files = {case: identity_of(held_out.label(case)) for case in shown}
    bytes_of = {case: file_digest(held_out.label(case)) for case in shown if case not in empty}
    if same := _alike(files):
        what, fix = "one file is the label of several test cases", "give each case the label that was drawn on it"
        found[0].problems.append(Problem("label.of-two-cases", what, where, fix, found=same))
    elif same := _alike(bytes_of):
        what, fix = "test cases have the same label", "look at them on their scans: one may have the wrong name"
        warnings.append(Problem("label.equal", what, where, fix, "a label for each case", same))
    if same := _alike({each.id: tuple(sorted(each.digests)) for each in found if each.digests}):
        what, fix = "one test scan under several names", "take all but one of them out: twins count twice"
        warnings.append(Problem("data.twins", what, where, fix, "every scan once", same))
    if empty and len(empty) == len(shown) == len(found):
        what, fix = "no test label holds a class", "name labels that do: nothing can be scored"
        found[0].problems.append(Problem("label.all-empty", what, where, fix, "voxels of the classes"))
    elif empty:
        what, fix = "test labels without any class", "nothing, if these scans show none of the classes"
        warnings.append(Problem("label.empty", what, where, fix, found=", ".join(empty)))
    if folders := [file.name for file in _subfolders(held_out.labels)]:
        what, fix = "subfolders of test labels are passed over", "nothing, if they hold no test labels"
        warnings.append(Problem("data.passed-over", what, where, fix, found=", ".join(folders)))
    return warnings


def _subfolders(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.is_dir() and not file.name.startswith(".")]


def _alike(keys: Mapping[str, object]) -> str:
    """Return the names that share a key, as "a = b, c = d"; empty if none do."""
    groups: dict[object, list[str]] = {}
    for name, key in keys.items():
        groups.setdefault(key, []).append(name)
    return ", ".join(" = ".join(names) for names in groups.values() if len(names) > 1)
