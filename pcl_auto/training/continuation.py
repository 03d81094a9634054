"""``pclauto continue``: corrected pseudo-labels in as labels, and how the training goes on with them."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.data.formats.nifti import compare_grids, probe_channels, probe_label
from pcl_auto.data.formats.suffixes import nifti_stem
from pcl_auto.data.labels import all_values
from pcl_auto.data.split import Correction, Split, with_corrections
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.recipe.load import from_dict
from pcl_auto.recipe.settings import Recipe, Schedule
from pcl_auto.training.request import TrainRequest, resolve_run
from pcl_auto.training.run_facts import (
    RunFacts,
    last_checkpoint,
    last_round,
    read_run,
    review_folders,
    run_folder,
    run_folders,
)
from pcl_auto.training.run_inputs import refuse_other_inputs
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import file_digest, refuse_irregular
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import started_rank


@dataclass(frozen=True)
class Continuation:
    """A training that goes on from a run with corrected pseudo-labels as labels.

    ``folds``: of that run, whose first one the network comes from. ``wall_s``: how long it takes if its epochs and
    pseudo-labels go as the last ones of that run; None where nothing is known of them.
    """

    model: Path
    folds: int
    masks: dict[str, Path]
    split: Split
    recipe: Recipe
    request: TrainRequest
    wall_s: float | None


def continuation(
    model: Path, workspace: Workspace, given: TrainRequest, *, corrected: Path | None = None, write: bool = True
) -> Continuation:
    """Take corrected masks up as labels, and say how the training of ``model`` goes on with them.

    The masks are checked as labels are when a data set is planned, and copied into the workspace. The run that they
    correct stays as it is: its network is the start of a new one, which has the rounds that were left of it, or where
    it is finished all of them again.

    Args:
        model: the run whose pseudo-labels were corrected.
        workspace: where its data set is planned.
        given: device and the like; ``epochs`` for all rounds together.
        corrected: a folder of :func:`export_review`; None for those that the run has on record.
        write: whether masks are copied; otherwise nothing is written.

    Raises:
        StateError: nothing is corrected, the run has no round, or the data set was planned anew with other images,
            classes or channels than the run's.
        DataError: masks that cannot be labels, all problems at once.
        LockedError: the run is still being trained.
    """
    run = read_run(run_folder(model))
    last_round(run)  # there is one
    data = workspace.dataset(run.identity["dataset"])
    plan = read_plan(data)
    refuse_other_inputs(run, plan, data)
    # Of several processes of this command the first one asks.
    with sole_writer(run.folder.parent) if started_rank() == 0 else nullcontext():
        start = last_checkpoint(run.folder)
    masks = {case: mask for case, mask in _corrected_masks(run, corrected).items() if _is_new(run.split, case, mask)}
    if not masks:
        if again := _repeated(run, workspace, given, corrected, write=write):
            return again
        raise _no_correction(run)
    _check_masks(masks, plan, run.split)
    round_number = run.rounds[-1].number
    corrections = [
        Correction(case, _digest(mask), run.split.name, run.folder.parent.name, round_number)
        for case, mask in sorted(masks.items())
    ]
    for entry in corrections if write else []:
        _keep(masks[entry.case], data.correction_file(entry.case, entry.mask))
    recipe = remaining(from_dict(run.identity["recipe"]), _epochs_done(run), given.epochs)
    split = with_corrections(run.split, corrections)
    request = replace(
        given,
        dataset=run.identity["dataset"],
        split=split,
        seed=run.identity["seed"],
        recipe=recipe,
        epochs=None,
        configuration=run.identity["configuration"],
        deterministic=run.identity["deterministic"],
        pretrained=start,
        steps_before=run.steps_before + _epochs_done(run) * run.steps_per_epoch,
    )
    folds = len(run_folders(run.folder.parent))
    seconds = _seconds_of(recipe.schedule, run)
    return Continuation(run.folder.parent, folds, masks, split, recipe, request, seconds)


def _repeated(
    run: RunFacts, workspace: Workspace, given: TrainRequest, corrected: Path | None, *, write: bool
) -> Continuation | None:
    """Return the continuation that ``run`` was made by, if the same command would make it again."""
    if not run.split.history:
        return None
    before = run.folder.parent.parent / run.split.history[-1].model
    try:
        found = continuation(before, workspace, given, corrected=corrected, write=write)
    except StateError:  # its run, or what was corrected, is there no more
        return None
    return found if resolve_run(found.request, workspace).model == run.folder.parent else None


def _no_correction(run: RunFacts) -> StateError:
    return StateError(
        Problem(
            code="review.no-correction",
            what="no corrected mask that is new",
            where=str(run.folder.parent),
            expected="corrected/CASE.nii.gz in a folder of `pclauto review`",
            fix="run `pclauto review`, save corrected masks there, and repeat the command",
        )
    )


def remaining(recipe: Recipe, epochs_done: int, epochs: int | None) -> Recipe:
    """Return the recipe of what follows: the rounds that are left, or after the last one all of them again.

    Args:
        recipe: of the run so far.
        epochs_done: of it.
        epochs: for all of the rounds together; None for as many as the recipe has.
    """
    schedule = recipe.schedule
    done = max(0, epochs_done - schedule.supervised_epochs) // schedule.epochs_per_round
    left = schedule.rounds - done if done < schedule.rounds else schedule.rounds
    name = recipe.name
    if epochs is not None:
        left = min(left, epochs)
        schedule = replace(schedule, epochs_per_round=epochs // left)
        name = f"{name}_e{epochs}"
    # The network knows the classes already: its last layer is not begun anew.
    contrast = replace(recipe.contrast, restart_head=False)
    return replace(recipe, name=name, schedule=replace(schedule, supervised_epochs=0, rounds=left), contrast=contrast)


def _seconds_of(schedule: Schedule, run: RunFacts) -> float | None:
    epochs, labeled = run.epochs, run.happened("pseudo_labels")
    if not epochs or not labeled:
        return None
    epoch_s, round_s = float(epochs[-1]["seconds"]), float(labeled[-1].get("seconds", 0))
    return schedule.epochs * epoch_s + schedule.rounds * round_s


def _epochs_done(run: RunFacts) -> int:
    return max((int(event["epoch"]) for event in run.epochs), default=0)


def _corrected_masks(run: RunFacts, given: Path | None) -> dict[str, Path]:
    """Find the masks in ``corrected`` of every review folder of the run, by case."""
    # Those of the runs that it goes on from too: somebody may have corrected more since.
    models = [run.folder.parent.parent / entry.model for entry in run.split.history]
    before = [folder for model in models for folder in run_folders(model)]
    on_record = [folder for place in dict.fromkeys([*before, run.folder]) for folder in review_folders(place)]
    folders = [given] if given is not None else [Path(folder) for folder in on_record]
    found: dict[str, Path] = {}
    for folder in folders:
        for case, mask in _masks_in(folder / "corrected").items():
            # Of a case that was corrected twice the later correction.
            found[case] = max(found.get(case, mask), mask, key=lambda file: file.stat().st_mtime_ns)
    return found


def _masks_in(folder: Path) -> dict[str, Path]:
    """Find the masks in a folder, by case.

    Raises:
        DataError: files in a format that no label has, such as an editor's own; two masks of one case.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".")) if folder.is_dir() else []
    found: dict[str | None, Path] = {}
    twins = [file for file in files if found.setdefault(nifti_stem(file.name), file) != file]
    if others := [file for file in files if nifti_stem(file.name) is None]:
        fix = "save the mask from the editor as NIfTI, CASE.nii.gz, and remove this file"
        raise DataError([Problem("review.mask-not-nifti", "no NIfTI", str(file), fix) for file in others])
    if twins:
        fix = "keep one of them"
        raise DataError([Problem("review.mask-twice", "second mask of one case", str(file), fix) for file in twins])
    return {case: file for case, file in found.items() if case is not None}


def _is_new(split: Split, case: str, mask: Path) -> bool:
    return split.corrected.get(case) != _digest(mask)


def _check_masks(masks: Mapping[str, Path], plan: Plan, split: Split) -> None:
    """Check masks as labels are checked before planning: all problems at once, before anything is written."""
    plan.require(case for case in masks if case in split.unlabeled or case in split.corrected)
    allowed, cases = tuple(all_values(plan.dataset_json["labels"])), plan.cases
    problems: list[Problem] = []
    for case, mask in masks.items():
        if case not in split.unlabeled and case not in split.corrected:
            has_label = case in (*split.labeled, *split.validation)
            code = "review.case-has-label" if has_label else "review.unknown-case"
            what = "the case has a label of its own" if has_label else "no such case"
            fix = (
                "correct the label in the data set and plan again" if has_label else "name masks after unlabeled cases"
            )
            problems.append(Problem(code, what, str(mask), fix))
            continue
        label, found = probe_label(mask, allowed)
        image, _ = probe_channels(cases[case].files)
        problems += found
        if label is not None and image is not None:
            problems += compare_grids(image, label)
        if label is not None and not any(value and count for value, count in (label.label_values or {}).items()):
            problems.append(
                Problem("review.mask-empty", "the mask is empty", str(mask), "save the corrected mask, not a new one")
            )
    if problems:
        raise DataError(problems)


def _digest(mask: Path) -> str:
    """SHA-256 of a mask as it is kept: gzipped."""
    return file_digest(mask) if mask.name.lower().endswith(".gz") else hashlib.sha256(_gzipped(mask)).hexdigest()


def _gzipped(mask: Path) -> bytes:
    refuse_irregular(mask, DataError, "save the corrected mask itself in this place")
    return gzip.compress(mask.read_bytes(), mtime=0)


def _keep(mask: Path, target: Path) -> None:
    content = mask.read_bytes() if mask.name.lower().endswith(".gz") else _gzipped(mask)
    if target.is_file() and target.read_bytes() == content:
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
