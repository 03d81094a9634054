"""Find the masks in a folder, CASE.nii.gz, and check them as the labels of their cases are checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl_auto.data.checks.check_files import ignored_everywhere, image_facts, known_image
from pcl_auto.data.dataset.safe_paths import identity_of
from pcl_auto.data.formats.nifti import Volume, compare_grids, probe_label
from pcl_auto.data.formats.suffixes import is_other_volume, nifti_stem
from pcl_auto.data.labels import all_values
from pcl_auto.errors import DataError, Problem, format_names
from pcl_auto.planning.plan import PlannedCase
from pcl_auto.workspace.files import find_irregular
from pcl_auto.workspace.output import visible


def masks_in(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Find the masks in a folder, by case; return also what was passed over.

    Raises:
        DataError: files in a format that no label has, such as an editor's own; what is no file; two masks of one case.
    """
    masks: dict[str, Path] = {}
    passed_over: list[Path] = []
    problems: list[Problem] = []
    for file in visible(folder):
        case = nifti_stem(file.name)
        if case is None and not is_other_volume(file.name):
            passed_over.append(file)
        elif case is None:
            fix = "save the mask as NIfTI, CASE.nii.gz, and remove this file"
            problems.append(Problem("review.mask-not-nifti", "no NIfTI", str(file), fix))
        elif not file.exists():  # a link
            fix = "put the mask itself in this place, or remove the link"
            problems.append(Problem("data.missing", "a link to no file", str(file), fix, "a file", "no such file"))
        elif irregular := find_irregular(file, "put the mask itself in this place"):
            problems.append(irregular)
        elif masks.setdefault(case, file) != file:
            problems.append(Problem("review.mask-twice", "second mask of one case", str(file), "keep one of them"))
    if problems:
        raise DataError(problems)
    return masks, passed_over


def warn_of_passed_over(folder: Path, files: Sequence[Path]) -> list[Problem]:
    """Warn of what lies in a folder of masks and is none."""
    if not files:
        return []
    what, fix = "files and folders passed over", "nothing, if these are no masks"
    found = format_names((file.name for file in files), limit=5)
    return [Problem("data.passed-over", what, str(folder), fix, "masks CASE.nii.gz", found)]


def judge_mask(
    mask: Path, case: PlannedCase, labels: Any, known: Mapping[str, Any] | None
) -> tuple[Volume | None, list[Problem]]:
    """Read a mask; return it, if it can be read, and what is wrong with it as the label of a case.

    ``known``: what the checks of ``pclauto plan`` have found; an image that they know is not read again.
    """
    label, problems = probe_label(mask, tuple(all_values(labels)))
    image = image_facts(case.files, known_image(known, case.id))
    if label is not None and image is not None:
        problems = [*problems, *compare_grids(image, label)]
    problems = [*problems, *ignored_everywhere(label, labels)]
    return label, problems


def refuse_shared_files(
    masks: Mapping[str, Path], opened: Mapping[str, PlannedCase], cases: Mapping[str, PlannedCase]
) -> Iterable[Problem]:
    """Refuse one file, by whatever links, for two cases, and labels that stay closed; no file is opened.

    Closed are all but those of ``opened`` cases: also those of cases that the split leaves out altogether.
    """
    labels = [(case, entry.label) for case, entry in opened.items() if entry.label and case not in masks]
    files: dict[object, list[tuple[str, Path]]] = defaultdict(list)
    for case, file in (*masks.items(), *((case, label) for case, label in labels if label.is_file())):
        files[identity_of(file)].append((case, file))
    for same in files.values():
        if len(same) > 1:
            what, fix = "one file is the label of several cases", "give each case the mask that was drawn on it"
            found = ", ".join(f"{case}: {file}" for case, file in same)
            yield Problem("label.of-two-cases", what, str(same[0][1]), fix, "a file for each case", found)
    hidden = [entry.label for case, entry in cases.items() if case not in opened]
    closed = {identity_of(label) for label in hidden if label is not None and label.is_file()}
    for mask in masks.values():
        if identity_of(mask) in closed:
            what = "the mask is the label of a hidden case, by its place or by a link"
            fix = "put a mask that was made without the label in this place, or name another folder"
            yield Problem("split.label-is-hidden", what, str(mask), fix)
