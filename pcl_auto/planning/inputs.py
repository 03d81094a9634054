"""Make sure, before they are used, that images are those that were planned, and that labels can be learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcl_auto.data.checks.check_files import CheckedLabel, check_labels, image_stats, known_image
from pcl_auto.data.dataset.safe_paths import DatasetRoot
from pcl_auto.data.identity import FileState, identify
from pcl_auto.data.split import Split
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.nnunet.environment import available_cores
from pcl_auto.planning.dataset_changes import changed_description
from pcl_auto.planning.plan import Plan, PlannedCase
from pcl_auto.workspace.files import file_digest, read_json
from pcl_auto.workspace.folders import DatasetFolder

_RESTORE = "restore the file, or run `pclauto plan` again"


def known_checks(data: DatasetFolder) -> dict[str, Any] | None:
    """Return what the checks of ``pclauto plan`` have found; None where that cannot be read, and is found anew."""
    try:
        known = read_json(data.checks_file) if data.checks_file.is_file() else None
    except StateError:
        return None
    return known if isinstance(known, dict) else None


def check_inputs(plan: Plan, split: Split, data: DatasetFolder) -> dict[str, CheckedLabel]:
    """Make sure that a split's images are those that were planned, and check its labels as they are now.

    The labels of hidden cases are not looked at. Labels that have changed since they were checked are checked again.

    Returns:
        what the label of each labeled and validation case is and holds.

    Raises:
        StateError: images that are gone or have other bytes, labels that are gone, a dataset.json that says otherwise,
            corrected masks that are not those on record; all of it listed.
        DataError: labels that cannot be learned from, all of them listed.
    """
    known = known_checks(data)
    plan.require([*split.labeled, *split.validation, *split.unlabeled, *split.hidden])
    opened = [plan.cases[case] for case in (*split.labeled, *split.validation)]
    used = (*split.labeled, *split.validation, *split.unlabeled)
    problems = changed_description(plan, used, [case.id for case in opened])
    problems += [*_changed_images(plan, used, known), *_gone_labels(opened)]
    problems = problems or [*_changed_corrections(split, opened)]
    if problems:
        raise StateError(problems)
    if misleading := _misleading_labels(plan, split, opened):
        raise DataError(misleading)
    channels = len(plan.dataset_json["channel_names"])
    labels, problems = check_labels(
        opened, plan.dataset_json["labels"], channels, threads=available_cores(), known=known
    )
    if problems:
        raise DataError(problems)
    return labels


def require_planned_images(plan: Plan, ids: Sequence[str], data: DatasetFolder) -> None:
    """Make sure that the images of these cases are those that were planned, before they are shown to somebody.

    Raises:
        StateError: images that are gone or have other bytes, a dataset.json that says otherwise; all of it listed.
    """
    if problems := [*changed_description(plan, ids), *_changed_images(plan, ids, known_checks(data))]:
        raise StateError(problems)


def _changed_images(plan: Plan, ids: Sequence[str], known: Mapping[str, Any] | None) -> Iterator[Problem]:
    cases = plan.cases
    for case in ids:
        planned = cases[case]
        if not all(file.is_file() for file in planned.files):
            finding = "the file is gone"
        elif is_planned_image(planned, known):
            continue
        else:
            finding = "other bytes" if planned.digest else "another size or time"
        yield Problem(
            "plan.image-changed", "image changed since it was planned", str(planned.image), _RESTORE, found=finding
        )


def is_planned_image(case: PlannedCase, known: Mapping[str, Any] | None) -> bool:
    """Tell whether the image of a case has still the bytes that it was planned with.

    A plan of version 0.2 knows the size and the time of its images alone.
    """
    if not case.digest:
        return image_stats(*case.files) == {"size": case.size, "mtime_ns": case.mtime_ns}
    return identify(case.files, known_image(known, case.id)).digest == case.digest


def _gone_labels(cases: Sequence[PlannedCase]) -> Iterator[Problem]:
    for case in cases:
        if case.label is not None and not case.label.is_file():
            yield Problem("plan.label-gone", "label is gone", str(case.label), _RESTORE)


def _misleading_labels(plan: Plan, split: Split, opened: Sequence[PlannedCase]) -> list[Problem]:
    """Refuse labels that have become links: out of the data set, or to a label that the split hides."""
    root = DatasetRoot(plan.root, follow_links=plan.settings.follow_links)
    hidden = {_file_id(label) for case in split.hidden if (label := plan.cases[case].label) and label.is_file()}
    problems = []
    for case in opened:
        if case.label is None or case.id in split.corrected or not root.accepts(case.label, "label"):
            continue
        if _file_id(case.label) in hidden:
            what, fix = "label is a link to the label of a hidden case", "put the file itself in this place"
            problems.append(Problem("split.label-is-hidden", what, str(case.label), fix))
    return [*root.problems, *problems]


def _file_id(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino


def _changed_corrections(split: Split, opened: Sequence[PlannedCase]) -> Iterator[Problem]:
    for case in opened:
        mask = split.corrected.get(case.id)
        if mask is None or case.label is None:
            continue
        found = file_digest(case.label)
        if found != mask:
            what = "the corrected mask is not the one that was taken up"
            fix = "restore the file, or correct the case again with `pclauto review` and `pclauto continue`"
            yield Problem("split.correction-changed", what, str(case.label), fix, f"SHA-256 {mask}", found)


@contextmanager
def untouched(cases: Sequence[PlannedCase]) -> Iterator[None]:
    """While images and labels are read that were checked before.

    Raises:
        StateError: one of them has changed meanwhile; nothing that was read is to be used.
    """
    files = [(*case.files, *([] if case.label is None else [case.label])) for case in cases]
    before = [FileState.of(each) for each in files]
    yield
    fix = "wait until nothing writes it any more, and repeat the command"
    problems = [
        Problem("plan.changed-meanwhile", "file changed while it was read", str(each[-1]), fix)
        for each, state in zip(files, before, strict=True)
        if not all(file.is_file() for file in each) or FileState.of(each) != state
    ]
    if problems:
        raise StateError(problems)
