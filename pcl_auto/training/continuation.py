"""``pclauto continue``: corrected pseudo-labels in as labels, and how the training goes on with them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.data.split import Correction, Split, with_corrections
from pcl_auto.errors import Problem, StateError
from pcl_auto.planning.inputs import check_inputs, known_checks
from pcl_auto.planning.plan import read_plan
from pcl_auto.recipe.load import from_dict
from pcl_auto.recipe.settings import Recipe, Schedule
from pcl_auto.training.corrected_masks import check_masks, find_corrected_masks, keep_mask, mask_digest
from pcl_auto.training.request import TrainRequest, resolve_run
from pcl_auto.training.run_facts import (
    RunFacts,
    last_checkpoint,
    last_round,
    read_unchanged_run,
    run_folder,
    run_folders,
)
from pcl_auto.training.run_inputs import refuse_other_inputs
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import started_rank


@dataclass(frozen=True)
class Continuation:
    """A training that goes on from a run with corrected pseudo-labels as labels.

    ``folds``: of that run, whose first one the network comes from. ``wall_s``: how long it takes if its epochs and
    pseudo-labels go as the last ones of that run; None where nothing is known of them. ``warnings``: of masks.
    """

    model: Path
    folds: int
    masks: dict[str, Path]
    split: Split
    recipe: Recipe
    request: TrainRequest
    wall_s: float | None
    warnings: list[Problem]


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
        corrected: the folder of a review, or one with masks; None for those that the run has on record.
        write: whether masks are copied; otherwise nothing is written.

    Raises:
        StateError: nothing is corrected, or not where it is looked for; the run has no round; the data set was planned
            anew with other images, classes or channels than the run's, or its files have changed since; files of the
            run are not as its training left them.
        DataError: masks that cannot be labels, all problems at once.
        LockedError: the run is still being trained.
    """
    run = read_unchanged_run(run_folder(model))
    last_round(run)  # there is one
    data = workspace.dataset(run.identity["dataset"])
    plan = read_plan(data)
    refuse_other_inputs(run, plan, data)
    # Of several processes of this command the first one asks.
    with sole_writer(run.folder.parent) if started_rank() == 0 else nullcontext():
        start = last_checkpoint(run.folder)
    found = find_corrected_masks(run, plan, corrected)
    masks = found.masks
    if not masks:
        if again := _repeated(run, workspace, given, corrected, write=write):
            return again
        raise _no_correction(run, found.warnings)
    # What a training that goes on will use, before masks are compared with it.
    plan = replace(
        plan, corrected={case: data.correction_file(case, mask) for case, mask in run.split.corrected.items()}
    )
    check_inputs(plan, run.split, data)
    round_number = run.rounds[-1].number
    # By the bytes that are checked: an editor may save a mask meanwhile.
    corrections = [
        Correction(case, mask_digest(mask), run.split.name, run.folder.parent.name, round_number)
        for case, mask in sorted(masks.items())
    ]
    warnings = [*found.warnings, *check_masks(found, plan, run.split, known_checks(data))]
    for entry in corrections if write else []:
        keep_mask(masks[entry.case], data.correction_file(entry.case, entry.mask), entry.mask)
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
        start_from=start,
        steps_before=run.steps_before + _epochs_done(run) * run.steps_per_epoch,
    )
    folds = len(run_folders(run.folder.parent))
    seconds = _seconds_of(recipe.schedule, run)
    return Continuation(run.folder.parent, folds, masks, split, recipe, request, seconds, warnings)


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


def _no_correction(run: RunFacts, warnings: list[Problem]) -> StateError:
    return StateError(
        [
            Problem(
                code="review.no-correction",
                what="no corrected mask that is new",
                where=str(run.folder.parent),
                expected="corrected/CASE.nii.gz in a folder of `pclauto review`",
                fix="run `pclauto review`, save corrected masks there, and repeat the command",
            ),
            *warnings,
        ]
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
