"""``--dry-run``: what plan, train and predict would do and take; nothing is written but to a folder that goes again."""

from __future__ import annotations

import copy
import math
import os
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from pcl_auto.budget import Costs, fit_recipe
from pcl_auto.data.labels import ignore_value
from pcl_auto.data.scans import list_scans
from pcl_auto.errors import DataError
from pcl_auto.forecast import REPORT_S, step_memory_mb, time_training
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.planning.plan import Plan, store_key
from pcl_auto.planning.split_plans import labeled_files, prepare_split, record_split, with_recipe
from pcl_auto.predict import Outputs, Prediction, Status, mask_name
from pcl_auto.request import JOINT, Run, TrainRequest
from pcl_auto.run.disk import size_mb
from pcl_auto.run.events import silent
from pcl_auto.run.files import read_json
from pcl_auto.run.memory import available_memory_mb
from pcl_auto.run.quiet import output_to
from pcl_auto.run.workspace import DatasetFolder
from pcl_auto.training import run_settings, workers_of

if TYPE_CHECKING:
    from pcl_auto.nnunet.timing import Timing
    from pcl_auto.recipe import Schedule

# A glance at each kind of step.
TIMING_S = 1.0
# What Python and the libraries hold beside a training on a CPU, in MB.
LIBRARIES_MB = 900
_PLANNERS = {"default": "ExperimentPlanner", "resenc-m": "nnUNetPlannerResEncM", "resenc-l": "nnUNetPlannerResEncL"}


@dataclass(frozen=True)
class TrainForecast:
    """What a training would do and take; None where nobody knows. Memory and disk in MB (2^20 bytes).

    ``gpu_memory_mb``: nnU-Net's estimate of a step. ``disk_mb``: what stays; ``disk_meanwhile_mb``: what goes again.
    """

    patch_voxels: tuple[int, ...]
    labeled_patches: int
    unlabeled_patches: int
    features: tuple[int, ...]
    schedule: Schedule
    gpu_memory_mb: int | None
    memory_mb: int | None
    store_mb: int
    round_mb: float | None
    checkpoint_mb: float | None
    disk_mb: int | None
    disk_meanwhile_mb: int | None
    costs: Costs | None
    wall_s: float | None
    commands: tuple[str, ...]


def foresee_training(request: TrainRequest, run: Run) -> TrainForecast:
    """What the training ``run`` takes: timed where the images are preprocessed and the memory suffices.

    Raises:
        ResourceError: the budget is too small for it.
    """
    planned = run.plan.nnunet["configurations"][run.configuration]
    patches = run.recipe.batch.patches or planned["batch_size"]
    joint = run.trainer == JOINT
    unlabeled = run.recipe.batch.unlabeled(patches) if joint else 0
    timing = _timing(run, request)
    schedule, wall_s, costs = run.recipe.schedule, None, None
    if timing is not None:
        costs = replace(timing.costs, end_s=timing.costs.end_s + REPORT_S)
        before_s = monotonic() - request.asked_at
        if run.budget_s is not None and run.fitted is None:
            schedule = fit_recipe(run.recipe, run.budget_s, costs, before_s=before_s)
        costs = costs if joint or not run.split.unlabeled else costs.of_baseline()
        wall_s = round(before_s + costs.forecast_s(schedule), 1)
    rounds = schedule.rounds if joint else 0
    configuration = with_recipe(planned, run.recipe)
    return TrainForecast(
        patch_voxels=tuple(int(size) for size in planned["patch_size"]),
        labeled_patches=patches - unlabeled,
        unlabeled_patches=unlabeled,
        features=tuple(configuration["architecture"]["arch_kwargs"]["features_per_stage"]),
        schedule=schedule,
        gpu_memory_mb=step_memory_mb(run),
        memory_mb=None if timing is None else timing.memory_mb,
        store_mb=round(size_mb(run.data.own / "store")),
        round_mb=None if timing is None else timing.round_mb,
        checkpoint_mb=None if timing is None else timing.checkpoint_mb,
        disk_mb=None if timing is None else round(timing.checkpoint_mb + rounds * timing.round_mb),
        # The latest two, and the way back from a round.
        disk_meanwhile_mb=None if timing is None else round((3 if rounds else 2) * timing.checkpoint_mb),
        costs=costs,
        wall_s=wall_s,
        commands=_train_commands(run, request),
    )


def _train_commands(run: Run, request: TrainRequest) -> tuple[str, ...]:
    """What does the same in stock nnU-Net, in a shell prepared by ``pclauto env --export``."""
    folds = ["all"] if request.folds is None else [str(fold) for fold in range(request.folds)]
    what = [str(run.data.id), run.configuration]
    model = ["-d", what[0], "-c", what[1], "-p", run.plans_name, "-tr", run.trainer]
    return (
        *(shlex.join(["nnUNetv2_train", *what, fold, "-p", run.plans_name, "-tr", run.trainer]) for fold in folds),
        shlex.join(["nnUNetv2_predict", *model, "-f", *folds, "-i", "SCANS", "-o", "MASKS"]),
    )


def _timing(run: Run, request: TrainRequest) -> Timing | None:
    """A quick timing on the stored images, in a folder elsewhere; None where they are not stored, or too large here."""
    device = choose_device(request.device)
    needed, free = step_memory_mb(run), available_memory_mb()
    too_large = device.type == "cpu" and needed is not None and free is not None and needed + LIBRARIES_MB > free
    prepare_environment(workers=workers_of(request, device))
    with tempfile.TemporaryDirectory() as folder, output_to(Path(os.devnull)):
        if too_large or not _is_stored(run):
            return None
        scratch = Path(folder)
        data = DatasetFolder(scratch / "nnUNet_preprocessed" / run.data.name)
        data.own.mkdir(parents=True)
        (data.own / "store").symlink_to(run.data.own / "store")
        for name in ("dataset.json", "dataset_fingerprint.json"):
            (data.path / name).symlink_to(run.data.path / name)
        apart = replace(run, data=data)
        record_split(run.split, data)
        plans, store = prepare_split(
            run.plan, run.split, run.recipe, data, configuration=run.configuration, listener=silent
        )
        settings = run_settings(apart, plans, store, request, silent)
        return time_training(apart, request, plans, settings, device, data.path.parent, scratch / "results", TIMING_S)


def _is_stored(run: Run) -> bool:
    """Whether every image is preprocessed in the way that the split needs; looking opens labels of labelled cases."""
    from pcl_auto.nnunet import store

    plans = copy.deepcopy(run.plan.nnunet)
    if run.plan.depends_on_labels(run.configuration):
        plans["foreground_intensity_properties_per_channel"] = store.foreground_intensities(
            labeled_files(run.plan, run.split.labeled),
            len(run.plan.dataset_json["channel_names"]),
            ignore_value(run.plan.dataset_json["labels"]),
        )
    folder = run.data.store(store_key(plans, run.configuration))
    return all(store.is_stored(folder, case) for case in run.plan.cases)


@dataclass(frozen=True)
class PlanForecast:
    """What is to come of a plan: the room that the preprocessed images take at most, and nnU-Net's own commands."""

    store_mb: int
    commands: tuple[str, ...]


def foresee_store(plan: Plan) -> PlanForecast:
    """The room for the case store of the plan's configuration, before it is compressed."""
    fingerprint, chosen = plan.content["fingerprint"], plan.nnunet["configurations"][plan.configuration]
    turned, target = plan.nnunet["transpose_forward"], [float(value) for value in chosen["spacing"]]
    voxels = 0.0
    for shape, spacing in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        # A 2D configuration leaves the slices as they are.
        kept = [float(spacing[axis]) for axis in turned]
        wanted = [*kept[: len(kept) - len(target)], *target]
        voxels += math.prod(shape[axis] * now / then for axis, now, then in zip(turned, kept, wanted, strict=True))
    size = voxels * (4 * len(plan.dataset_json["channel_names"]) + 2)
    number = str(int(plan.nnunet["dataset_name"].split("_")[0].removeprefix("Dataset")))
    command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", plan.configuration]
    if plan.settings.plans_file is None:
        command += ["-pl", _PLANNERS[plan.settings.planner], "-gpu_memory_target", f"{plan.settings.memory_gb:g}"]
    return PlanForecast(math.ceil(size / 2**20), (shlex.join(command),))


def foresee_masks(inputs: Sequence[Path], output: Path, model: Path, outputs: Outputs) -> list[Prediction]:
    """What would become of every scan: ``done``, ``kept`` where a mask of that name is there, ``failed``, ``skipped``.

    Raises:
        UsageError: nothing to segment.
    """
    channels = len(read_json(model / "dataset.json")["channel_names"])
    found = []
    for scan in list_scans(inputs, channels):
        if scan.problem:
            error = DataError(scan.problem)
            status: Status = "skipped" if scan.beside else "failed"
            found.append(Prediction(scan.id, None, status, str(scan.problem), 0 if scan.beside else error.exit_code))
            continue
        file = output / mask_name(scan, outputs)
        found.append(Prediction(scan.id, str(file), "kept" if file.is_file() else "done"))
    return found
