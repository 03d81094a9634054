"""Find the masks that a person has corrected in the folders of reviews, and check them as labels are checked."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcl_auto.data.checks.check_files import equal_labels, known_label
from pcl_auto.data.formats.nifti import Volume, probe_label
from pcl_auto.data.formats.suffixes import nifti_stem
from pcl_auto.data.labels import all_values
from pcl_auto.data.split import Split
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.planning.plan import Plan, PlannedCase
from pcl_auto.training.mask_folder import judge_mask, masks_in, refuse_shared_files, warn_of_passed_over
from pcl_auto.training.review_record import (
    CORRECTED,
    PSEUDO_LABELS,
    edited,
    edited_in_place,
    folder_taken,
    is_review_of,
    other_images,
    read_review,
)
from pcl_auto.training.run_facts import RunFacts, review_folders, run_folders
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import file_digest, refuse_irregular
from pcl_auto.workspace.output import REVIEW_RECORD, visible

_INSTEAD = "or name the folder whose masks are to be taken with --corrected"


@dataclass
class CorrectedMasks:
    """Masks that are new, by case, and warnings of what was passed over.

    ``exported``: the cases whose pseudo-label was exported with this SHA-256. ``pseudo_labels``: those files, by case.
    """

    masks: dict[str, Path] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    exported: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    pseudo_labels: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))


def find_corrected_masks(run: RunFacts, plan: Plan, given: Path | None) -> CorrectedMasks:
    """Find the new masks in the review folders of a run and of the runs that it goes on from.

    What a person has drawn is taken, refused or named: nothing is passed over without a word.

    Args:
        run: whose pseudo-labels were corrected.
        plan: of its data set.
        given: to be looked into instead of the folders on record: the folder of a review, or one that holds masks.

    Raises:
        StateError: folders that are gone, or belong to another model; masks that were edited where they were
            exported, or that lie on other images.
        DataError: files that no label can be; several masks of one case.
    """
    found = CorrectedMasks()
    folders = _own_folders(run, found.warnings) if given is None else {_given_folder(given): {}}
    if given is not None:
        folders = {folder: _require_own(folder, run) for folder in folders}
    masks: dict[str, list[Path]] = defaultdict(list)
    problems: list[Problem] = []
    for folder, record in folders.items():
        place = folder / CORRECTED
        if record and not place.is_dir():
            problems.append(_gone(place))
        own, passed_over = masks_in(place if record or place.is_dir() else folder)
        found.warnings += warn_of_passed_over(place, passed_over)
        problems += other_images(folder, record, plan, own, f"export the case anew into another folder, {_INSTEAD}")
        problems += _edited(folder, record, own, run.split, found.warnings)
        for case, mask in own.items():
            masks[case].append(mask)
        for case, digest in record.get("exported", {}).items():
            found.exported[digest].add(case)
            found.pseudo_labels[case].append(folder / PSEUDO_LABELS / f"{case}.nii.gz")
    if problems:
        raise StateError(problems)
    found.masks = _new_masks(masks, run.split)
    return found


def _runs(run: RunFacts) -> list[Path]:
    """Return the folders of the runs that a run goes on from, and its own, which is the last."""
    before = [run.folder.parent.parent / entry.model for entry in run.split.history]
    return [*dict.fromkeys([*(folder for model in before for folder in run_folders(model)), run.folder])]


def _own_folders(run: RunFacts, warnings: list[Problem]) -> dict[Path, dict[str, Any]]:
    """Return the review folders on record, each with its own record.

    One of an earlier run that is gone is a warning alone: its masks were taken up when that run was gone on from.

    Raises:
        StateError: folders of the run itself that are gone or hold something else.
    """
    runs, own = _runs(run), {*map(Path, review_folders(run.folder))}
    folders: dict[Path, dict[str, Any]] = {}
    problems: list[Problem] = []
    for folder in dict.fromkeys(Path(each) for place in runs for each in review_folders(place)):
        record = read_review(folder)
        if record and is_review_of(record, folder, runs):
            folders[folder] = record
            continue
        expected = f"the {REVIEW_RECORD} of a review of the model"
        problem = folder_taken(folder, record, f"put the review back, {_INSTEAD}", expected)
        (problems if folder in own else warnings).append(problem if visible(folder) else _gone(folder))
    if problems:
        raise StateError(problems)
    return folders


def _gone(folder: Path) -> Problem:
    fix = f"put it back, {_INSTEAD}"
    found = "no folder" if not folder.is_dir() else "an empty folder"
    what = "a folder of corrected masks is gone"
    return Problem("review.folder-gone", what, str(folder), fix, "what `pclauto review` has put there", found)


def _given_folder(given: Path) -> Path:
    """Return the review's folder where one of its own folders, such as ``corrected``, is given; else what is given."""
    folder = Path(os.path.abspath(given))  # noqa: PTH100 (links in it stay, as the user names them)
    is_inside = not (folder / REVIEW_RECORD).exists() and (folder.parent / REVIEW_RECORD).exists()
    return folder.parent if is_inside else folder


def _require_own(folder: Path, run: RunFacts) -> dict[str, Any]:
    """Return the record of a folder that was named, which needs none: masks may come from anywhere."""
    record = read_review(folder)
    if record and not is_review_of(record, folder, _runs(run)):
        fix = "name the model that was reviewed with --model, or another folder with --corrected"
        raise StateError(folder_taken(folder, record, fix, str(run.folder.parent)))
    return record


def _edited(
    folder: Path, record: Mapping[str, Any], masks: Mapping[str, Path], split: Split, warnings: list[Problem]
) -> list[Problem]:
    """Refuse masks that were edited where they were exported; warn of those that were saved again, later, where to."""
    if not record:
        return []
    taken = {entry.mask for entry in split.history}
    known = {file_digest(mask) for mask in masks.values()} | taken
    refused = []
    for file, digest in edited_in_place(folder, record).items():
        if digest in known:
            continue
        corrected = masks.get(nifti_stem(file.name) or "")
        if corrected is None or corrected.stat().st_mtime_ns <= file.stat().st_mtime_ns:
            refused.append(file)
            continue
        what, fix = (
            "an edited pseudo-label is passed over",
            "nothing, if the mask that was saved later is the right one",
        )
        warnings.append(Problem("review.edited-in-place", what, str(file), fix, found=f"taken is {corrected}"))
    return edited(refused, folder, "and repeat the command; or remove it, if it is not to be used")


def _new_masks(masks: Mapping[str, Sequence[Path]], split: Split) -> dict[str, Path]:
    """Choose the mask of each case that the split does not have yet.

    Raises:
        DataError: cases with several of which nothing says which one counts.
    """
    chosen: dict[str, Path] = {}
    problems: list[Problem] = []
    for case, files in masks.items():
        taken = [entry.mask for entry in split.history if entry.case == case]
        contents = {mask_digest(file): file for file in files}
        current = contents.get(split.corrected.get(case, ""))
        new = [file for digest, file in contents.items() if digest not in taken]
        if not new and current is None:  # one of before is to count again
            new = [*contents.values()]
        is_older = current is not None and any(file.stat().st_mtime_ns <= current.stat().st_mtime_ns for file in new)
        if len(new) > 1 or is_older:
            what, fix = "several masks of one case", f"keep one of them, {_INSTEAD}"
            found = ", ".join(map(str, contents.values()))
            problems.append(Problem("review.mask-twice", what, case, fix, "one mask", found))
        elif new:
            chosen[case] = new[0]
    if problems:
        raise DataError(problems)
    return chosen


def check_masks(found: CorrectedMasks, plan: Plan, split: Split, known: Mapping[str, Any] | None) -> list[Problem]:
    """Check masks as labels are checked before planning: all problems at once, before anything is written.

    Args:
        found: the masks.
        plan: of the data set, with the corrections of ``split``.
        split: of the run that is gone on from.
        known: what the checks of ``pclauto plan`` have found; of it, only labels that the split opens are looked at.

    Returns:
        warnings.

    Raises:
        DataError: masks that cannot be labels of their cases.
    """
    plan.require(case for case in found.masks if case in split.unlabeled or case in split.corrected)
    cases = plan.cases
    opened = {case: cases[case] for case in (*split.labeled, *split.validation)}
    problems = [*refuse_shared_files(found.masks, opened, cases)]
    contents = {
        case: digest for case in opened
        if case not in split.corrected and (digest := _known_content(known_label(known, case)))
    }  # fmt: skip
    drawn: dict[str, str] = {}
    for case, mask in found.masks.items():
        if case not in split.unlabeled and case not in split.corrected:
            problems.append(_not_correctable(mask, has_label=case in opened))
            continue
        if case not in (whose := found.exported.get(file_digest(mask), {case})):
            what, fix = "the mask is the pseudo-label of another case", "save it under the name of its own case"
            problems.append(
                Problem("label.of-other-case", what, str(mask), fix, f"a mask of {case}", " = ".join(sorted(whose)))
            )
        label, of_mask = _judge(mask, cases[case], plan.dataset_json["labels"], known)
        problems += of_mask
        if label is not None and any(label.label_values or ()):
            drawn[case] = label.digest
    if problems:
        raise DataError(problems)
    return [
        *equal_labels({**contents, **drawn}, str(plan.root)),
        *_pseudo_labels_of_others(found, drawn, tuple(all_values(plan.dataset_json["labels"]))),
    ]


def _pseudo_labels_of_others(
    found: CorrectedMasks, drawn: Mapping[str, str], allowed: Sequence[int]
) -> Iterable[Problem]:
    """Warn of masks that are another case's pseudo-label voxel by voxel, saved anew; ``drawn`` are digests by case."""
    exported: dict[str, set[str]] = defaultdict(set)
    for case, files in found.pseudo_labels.items():
        for label in (probe_label(file, allowed)[0] for file in files if file.is_file()):
            if label is not None:
                exported[label.digest].add(case)
    for case, digest in drawn.items():
        if case not in (whose := exported.get(digest, {case})):
            what, fix = "the mask equals the pseudo-label of another case", "look at it on its image"
            found_as = f"as that of {' = '.join(sorted(whose))}"
            yield Problem("label.of-other-case", what, str(found.masks[case]), fix, f"a mask of {case}", found_as)


def _judge(
    mask: Path, case: PlannedCase, labels: Any, known: Mapping[str, Any] | None
) -> tuple[Volume | None, list[Problem]]:
    """Read a mask; return it, if it can be read, and what is wrong with it as a corrected label of a case."""
    label, problems = judge_mask(mask, case, labels, known)
    if label is not None and [*(label.label_values or ())] == [0]:
        fix = "save the corrected mask, not a new one"
        problems.append(Problem("review.mask-empty", "the mask is empty", str(mask), fix))
    return label, problems


def _not_correctable(mask: Path, *, has_label: bool) -> Problem:
    if has_label:
        fix = "correct the label in the data set and plan again"
        return Problem("review.case-has-label", "the case has a label of its own", str(mask), fix)
    return Problem("review.unknown-case", "no such case", str(mask), "name masks after unlabeled cases")


def _known_content(facts: Any) -> str:
    """Return the digest of what a label holds, as its check has found it; empty of one that is empty or not known."""
    try:
        is_empty = not any(value != "0" for value in facts["label_values"])
        return "" if is_empty else str(facts["volume"]["digest"])
    except (KeyError, TypeError):
        return ""


def mask_digest(mask: Path) -> str:
    """Return the SHA-256 of a mask as it is kept: gzipped."""
    return file_digest(mask) if mask.name.lower().endswith(".gz") else hashlib.sha256(gzipped(mask)).hexdigest()


def gzipped(mask: Path) -> bytes:
    """Return the bytes of an uncompressed mask as they are kept."""
    refuse_irregular(mask, DataError, "save the corrected mask itself in this place")
    return gzip.compress(mask.read_bytes(), mtime=0)


def keep_mask(mask: Path, target: Path, digest: str) -> None:
    """Copy a mask into the workspace, gzipped, if it is not there yet.

    Raises:
        DataError: it is no longer the one of this :func:`mask_digest`.
    """
    content = mask.read_bytes() if mask.name.lower().endswith(".gz") else gzipped(mask)
    if hashlib.sha256(content).hexdigest() != digest:
        what, fix = "the mask was saved anew while it was checked", "repeat the command"
        raise DataError(Problem("review.mask-changed", what, str(mask), fix))
    if target.is_file() and target.read_bytes() == content:
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
