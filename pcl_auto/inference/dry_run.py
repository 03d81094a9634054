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
from typing import TYPE_CHECKING, Any

from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.data.labels import ignore_value
from pcl_auto.errors import DataError
from pcl_auto.inference.predict import (
    Outputs,
    Prediction,
    checkpoints_of,
    failed,
    mask_folder,
    mask_name,
    refuse_damaged,
    refuse_scan_folder,
)
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.planning.plan import Plan, store_key
from pcl_auto.planning.split_plans import labeled_files, prepare_split, record_split, with_recipe
from pcl_auto.recipe.time_budget import Costs, fit_recipe
from pcl_auto.training.estimate import REPORT_S, step_memory_mb, time_training
from pcl_auto.training.request import JOINT_TRAINER, Run, TrainRequest
from pcl_auto.training.train import run_settings, workers_of
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.system import available_memory_mb, size_mb

if TYPE_CHECKING:
    from pcl_auto.inference.masks import MaskFolder
    from pcl_auto.nnunet.inference.predictor import ModelPredictor, PatchSeconds
    from pcl_auto.nnunet.training.timing import Timing
    from pcl_auto.recipe.settings import Schedule

# A glance at each kind of step.
TIMING_S = 1.0
# What Python and the libraries hold beside a training on a CPU, in MB.
LIBRARIES_MB = 900
_PLANNERS = {"default": "ExperimentPlanner", "resenc-m": "nnUNetPlannerResEncM", "resenc-l": "nnUNetPlannerResEncL"}


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training would do and take, memory and disk in MB (2^20 bytes); None where nobody knows.

    ``unknown``: why steps were not timed, empty where they were. ``gpu_memory_mb``: as seen here, or without a GPU
    nnU-Net's estimate of a step. ``disk_mb``: what stays; ``disk_meanwhile_mb``: what goes again.
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
    unknown: str
    commands: tuple[str, ...]


def estimate_training(request: TrainRequest, run: Run) -> TrainingEstimate:
    """What the training ``run`` takes: timed where the images are preprocessed and the memory suffices.

    Raises:
        ResourceError: the budget is too small for it.
    """
    planned = run.plan.nnunet["configurations"][run.configuration]
    patches = run.recipe.batch.patches or planned["batch_size"]
    joint = run.trainer == JOINT_TRAINER
    unlabeled = run.recipe.batch.unlabeled(patches) if joint else 0
    unknown = _why_unknown(run, request)
    timing = None if unknown else _timing(run, request)
    schedule, wall_s, costs = run.recipe.schedule, None, None
    if timing is not None:
        costs = replace(timing.costs, end_s=timing.costs.end_s + REPORT_S)
        before_s = monotonic() - request.asked_at
        if run.budget_s is not None and run.fitted is None:
            schedule = fit_recipe(run.recipe, run.budget_s, costs, before_s=before_s)
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
        gpu_memory_mb=(None if timing is None else timing.gpu_memory_mb) or step_memory_mb(run),
        memory_mb=None if timing is None else timing.memory_mb,
        store_mb=round(size_mb(run.data.pclauto_dir / "store")),
        round_mb=None if timing is None else timing.round_mb,
        checkpoint_mb=None if timing is None else timing.checkpoint_mb,
        # Folds have their pseudo-labels together.
        disk_mb=None if timing is None else round(folds * timing.checkpoint_mb + rounds * timing.round_mb),
        # The latest two, and the way back from a round.
        disk_meanwhile_mb=None if timing is None else round((3 if rounds else 2) * timing.checkpoint_mb),
        costs=costs,
        wall_s=wall_s,
        unknown=unknown,
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


def _why_unknown(run: Run, request: TrainRequest) -> str:
    """Why steps cannot be timed here; empty where they can."""
    device = choose_device(request.device)
    needed, free = step_memory_mb(run), available_memory_mb()
    prepare_environment(workers=workers_of(request, device))
    if device.type == "cpu" and needed is not None and free is not None and needed + LIBRARIES_MB > free:
        return f"a step takes about {needed + LIBRARIES_MB} MB, and {free} MB are free"
    with output_to(Path(os.devnull)):
        return "" if _is_stored(run) else "the images are not preprocessed yet; --prepare-only does it"


def _timing(run: Run, request: TrainRequest) -> Timing:
    """A quick timing on the stored images, in a folder elsewhere."""
    device = choose_device(request.device)
    with tempfile.TemporaryDirectory() as folder, output_to(Path(os.devnull)):
        scratch = Path(folder)
        data = DatasetFolder(scratch / "nnUNet_preprocessed" / run.data.name)
        data.pclauto_dir.mkdir(parents=True)
        (data.pclauto_dir / "store").symlink_to(run.data.pclauto_dir / "store")
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
    """Whether every image is preprocessed in the way that the split needs; looking opens labels of labeled cases."""
    from pcl_auto.nnunet.data import store

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
class PlanEstimate:
    """What is to come of a plan: the room that the preprocessed images take at most, and nnU-Net's own commands."""

    store_mb: int
    commands: tuple[str, ...]


def estimate_plan(plan: Plan) -> PlanEstimate:
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
    return PlanEstimate(math.ceil(size / 2**20), (shlex.join(command),))


@dataclass(frozen=True)
class MaskEstimate:
    """What would become of a scan, and what that takes; None where nothing is to be segmented.

    ``memory_mb``: beside the image (2^20 bytes). ``wall_s``: of the network alone.
    """

    scan: Prediction
    memory_mb: int | None = None
    wall_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The forecast as plain values."""
        return {**self.scan.as_dict(), "memory_mb": self.memory_mb, "wall_s": self.wall_s}


def estimate_prediction(
    inputs: Sequence[Path],
    output: Path,
    model: Path,
    outputs: Outputs,
    *,
    device: str = "auto",
    mirroring: bool = True,
    overwrite: bool = False,
) -> list[MaskEstimate]:
    """What would become of every scan: ``done``, ``kept`` where its mask is there, ``failed``, ``skipped``.

    Every scan is read, so that what is wrong with one is told now; the network is tried with one patch.

    Raises:
        StateError: no usable model, or masks of another model in ``output``.
        UsageError: nothing to segment, or scans that lie in ``output``.
    """
    chosen = choose_device(device)
    prepare_environment()
    with output_to(Path(os.devnull)):
        from pcl_auto.nnunet.inference.predictor import ModelPredictor

        predictor = ModelPredictor(model, chosen, mirroring=mirroring)
        scans = list_scans(inputs, predictor.channels)
        refuse_scan_folder(inputs, scans, output)
        masks = mask_folder(output, model, scans, mirroring=mirroring, overwrite=overwrite)
        patch_seconds = predictor.patch_seconds()
        return [_foresee_mask(scan, predictor, masks, outputs, patch_seconds) for scan in scans]


def _foresee_mask(
    scan: Scan, predictor: ModelPredictor, masks: MaskFolder, outputs: Outputs, patch_seconds: PatchSeconds
) -> MaskEstimate:
    try:
        return _look_at(scan, predictor, masks, outputs, patch_seconds)
    except Exception as error:  # noqa: BLE001 (as in the prediction itself)
        return MaskEstimate(failed(scan, error))


def _look_at(
    scan: Scan, predictor: ModelPredictor, masks: MaskFolder, outputs: Outputs, patch_seconds: PatchSeconds
) -> MaskEstimate:
    if scan.problem:
        if scan.is_auxiliary:
            return MaskEstimate(Prediction(scan.id, None, "skipped", str(scan.problem), problems=(scan.problem,)))
        raise DataError(scan.problem)
    name = mask_name(scan, outputs)
    facts, file = masks.kept(scan, name), str(masks.folder / name)
    if facts is not None:
        return MaskEstimate(Prediction(scan.id, file, "kept", **facts))
    refuse_damaged(scan)
    _, _, demand = predictor.read(scan.files)
    slabs = demand.slabs_that_fit(str(scan.files[0]))
    done = Prediction(scan.id, file, "done", slabs=slabs)
    # In slabs there is no confidence.
    patch_s = patch_seconds.masks + (patch_seconds.confidence if outputs.quality and slabs == 1 else 0.0)
    return MaskEstimate(done, demand.needed_mb(slabs), round(patch_s * demand.patches(slabs), 1))


def mask_commands(model: Path, output: Path, *, device: str, mirroring: bool) -> tuple[str, ...]:
    """What segments scans with ``model`` in stock nnU-Net, in a shell prepared by ``pclauto env --export``."""
    folds = [checkpoint.parent.name.removeprefix("fold_") for checkpoint in checkpoints_of(model)]
    command = ["nnUNetv2_predict_from_modelfolder", "-i", "SCANS", "-o", str(output), "-m", str(model), "-f", *folds]
    return (shlex.join([*command, "-device", device, *([] if mirroring else ["--disable_tta"])]),)
