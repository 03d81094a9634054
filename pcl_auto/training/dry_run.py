"""Estimate what a training would do and take: ``pclauto train --dry-run``."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pcl_auto.nnunet.data import store_records
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.planning.split_plans import is_preprocessed, with_recipe
from pcl_auto.recipe.time_budget import Costs, fit_recipe
from pcl_auto.training.estimate import REPORT_S, gpu_memory_mb, step_memory_mb, time_training
from pcl_auto.training.pretrained_start import match_record
from pcl_auto.training.request import Run, TrainRequest
from pcl_auto.training.train import prepare, workers_of
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.resources import available_memory_mb, size_mb

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.timing import Timing
    from pcl_auto.recipe.settings import Schedule

# A glance at each kind of step.
TIMING_S = 1.0
# What Python and the libraries hold beside a training on a CPU, in MB.
LIBRARIES_MB = 900


@dataclass(frozen=True)
class TrainingEstimate:
    """Estimate of what a training does and takes, memory and disk in MB (2^20 bytes); None where it is unknown.

    ``unknown``: why steps were not timed, empty where they were. ``gpu_memory_mb``: as seen here, or without a GPU
    an estimate from nnU-Net's. ``to_be_fitted``: the schedule is the recipe's own, and a budget will give it another
    length once steps have been timed. ``disk_mb``: what stays; ``disk_meanwhile_mb``: what goes again.
    ``pretrained``: what the network takes of pretrained weights.
    """

    patch_voxels: tuple[int, ...]
    labeled_patches: int
    unlabeled_patches: int
    features: tuple[int, ...]
    schedule: Schedule
    to_be_fitted: bool
    gpu_memory_mb: int | None
    memory_mb: int | None
    store_mb: int
    round_mb: float | None
    checkpoint_mb: float | None
    disk_mb: int | None
    disk_meanwhile_mb: int | None
    costs: Costs | None
    wall_s: float | None
    unknown: str
    commands: tuple[str, ...]
    pretrained: dict[str, Any] | None = None


def estimate_training(request: TrainRequest, run: Run, *, timed: bool = True) -> TrainingEstimate:
    """Estimate what the training ``run`` takes.

    If ``timed``, a few steps are made, where the images are preprocessed and the memory suffices.

    Raises:
        ResourceError: the budget is too small for it.
        StateError: pretrained weights that cannot be used.
    """
    matched = None
    if run.pretrained is not None:
        matched = match_record(run.pretrained, run.plan, run.configuration, run.recipe)
    planned = run.plan.nnunet["configurations"][run.configuration]
    patches = run.recipe.batch.patches or planned["batch_size"]
    joint = run.joint
    unlabeled = run.recipe.batch.unlabeled(patches) if joint else 0
    unknown = _why_unknown(run, request) if timed else "--time-steps makes a few steps to tell"
    timing = None if unknown else _timing(run, request)
    schedule, wall_s, costs = run.recipe.schedule, None, None
    to_be_fitted = _to_be_fitted(run)
    if timing is not None:
        costs = replace(timing.costs, end_s=timing.costs.end_s + REPORT_S)
        before_s = monotonic() - request.asked_at
        if run.budget_s is not None and to_be_fitted:
            to_be_fitted = False
            schedule = fit_recipe(
                run.recipe, run.budget_s, costs, before_s=before_s, planned_patches=planned["batch_size"]
            )
        costs = costs if joint or not run.split.unlabeled else costs.of_baseline()
        wall_s = round(before_s + costs.forecast_s(schedule), 1)
    rounds, folds = schedule.rounds if joint else 0, request.folds or 1
    configuration = with_recipe(planned, run.recipe)
    return TrainingEstimate(
        patch_voxels=tuple(int(size) for size in planned["patch_size"]),
        labeled_patches=patches - unlabeled,
        unlabeled_patches=unlabeled,
        features=tuple(configuration["architecture"]["arch_kwargs"]["features_per_stage"]),
        schedule=schedule,
        to_be_fitted=to_be_fitted,
        gpu_memory_mb=(None if timing is None else timing.gpu_memory_mb) or gpu_memory_mb(run),
        memory_mb=None if timing is None else timing.memory_mb,
        store_mb=round(size_mb(run.data.pclauto_dir / "store")),
        round_mb=None if timing is None else timing.round_mb,
        checkpoint_mb=None if timing is None else timing.checkpoint_mb,
        disk_mb=None if timing is None else round(folds * (timing.checkpoint_mb + rounds * timing.round_mb)),
        # The latest two, and the way back from a round.
        disk_meanwhile_mb=None if timing is None else round((3 if rounds else 2) * timing.checkpoint_mb),
        costs=costs,
        wall_s=wall_s,
        unknown=unknown,
        commands=_train_commands(run, request),
        pretrained=matched,
    )


def _to_be_fitted(run: Run) -> bool:
    return run.budget_s is not None and run.fitted is None


def _train_commands(run: Run, request: TrainRequest) -> tuple[str, ...]:
    """Return the commands of stock nnU-Net that do the same after ``pclauto env --export``; some runs have none."""
    if run.pretrained is not None:  # they know nothing of the weights
        return ()
    folds = ["all"] if request.folds is None else [str(fold) for fold in range(request.folds)]
    what = [str(run.data.id), run.configuration]
    model = ["-d", what[0], "-c", what[1], "-p", run.plans_name, "-tr", run.trainer]
    return (
        *(shlex.join(["nnUNetv2_train", *what, fold, "-p", run.plans_name, "-tr", run.trainer]) for fold in folds),
        shlex.join(["nnUNetv2_predict", *model, "-f", *folds, "-i", "SCANS", "-o", "MASKS"]),
    )


def _why_unknown(run: Run, request: TrainRequest) -> str:
    """Tell why steps cannot be timed here; empty where they can."""
    device = choose_device(request.device)
    needed, free = step_memory_mb(run), available_memory_mb()
    prepare_environment(workers=workers_of(request, device))
    if device.type == "cpu" and needed is not None and needed + LIBRARIES_MB > free:
        return f"a step takes about {needed + LIBRARIES_MB} MB, and {free} MB are free"
    with output_to(Path(os.devnull)):
        stored = is_preprocessed(run.plan, run.split, run.data, run.configuration)
        return "" if stored else "the images are not preprocessed yet; --prepare-only does it"


def _timing(run: Run, request: TrainRequest) -> Timing:
    """Time some steps on the stored images, in a temporary folder."""
    device = choose_device(request.device)
    with tempfile.TemporaryDirectory() as folder, output_to(Path(os.devnull)):
        scratch = Path(folder)
        data = DatasetFolder(scratch / "nnUNet_preprocessed" / run.data.name)
        data.pclauto_dir.mkdir(parents=True)
        for name in ("store", store_records.FOLDER, run.data.checks_file.name, run.data.plan_file.name):
            (data.pclauto_dir / name).symlink_to(run.data.pclauto_dir / name)
        for name in ("dataset.json", "dataset_fingerprint.json"):
            (data.path / name).symlink_to(run.data.path / name)
        apart, plans = prepare(replace(run, data=data), silent)
        # A budget is fitted to the joint training, for its baseline too; else what is timed is what would be trained.
        joint = run.joint or (_to_be_fitted(run) and bool(run.split.unlabeled))
        return time_training(
            apart, request, plans, device, data.path.parent, scratch / "results", TIMING_S, joint=joint
        )
