"""Estimate what a training will take, from steps that a trainer in a temporary folder makes on this machine."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pcl_auto.data.labels import head_count
from pcl_auto.errors import Problem, UsageError
from pcl_auto.nnunet.environment import variables_set
from pcl_auto.nnunet.training.run_settings import with_settings
from pcl_auto.planning.split_plans import with_recipe
from pcl_auto.recipe.settings import EMA_TEACHER_METHODS, Contrast
from pcl_auto.recipe.time_budget import Fitted, fit_recipe, format_duration, read_fit, write_fit
from pcl_auto.training.request import JOINT_TRAINER, SUPERVISED_TRAINER, Run, TrainRequest
from pcl_auto.workspace.atomic import staging_folder
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import output_to, started_ranks
from pcl_auto.workspace.resources import forget_peak_memory, keep_freed_memory, peak_memory_mb, size_mb

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.timing import Timing

# Of a budget, to look at each kind of step; and the most that is worth it.
TIMING_SHARE, MAX_TIMING_S = 0.02, 20.0
# The report at the end of a run.
REPORT_S = 3.0
# Bytes that a weight takes on a GPU: itself, its gradient, its momentum, and its copy in half precision.
WEIGHT_BYTES = 14
# Of what is reserved on a GPU to what is counted here: cuDNN's workspace, and gaps. Measured were 1.0 to 1.15.
GPU_MARGIN = 1.2


def fit_budget(run: Run, request: TrainRequest, plans: dict[str, Any], device: Any) -> Fitted:
    """Fit the schedule of ``run`` to its time budget and put it on file, unless an earlier command has.

    The joint training is what is timed and fitted, for its baseline too: so both have the same steps.

    Raises:
        ResourceError: the budget is too small.
        UsageError: several processes train together.
    """
    if run.budget_s is None:
        raise ValueError("a run without a budget")
    if started_ranks() > 1:
        fix = "take --epochs"
        raise UsageError(
            Problem("budget.several-processes", "steps of several processes are not timed", "--budget with --gpus", fix)
        )
    with sole_writer(run.budget_file, wait=True):
        if run.budget_file.is_file():
            return read_fit(run.budget_file, run.recipe)
        seconds = min(TIMING_SHARE * run.budget_s, MAX_TIMING_S)
        with staging_folder(run.budget_file) as scratch:
            timing = time_training(
                run, request, plans, device, run.data.path.parent, scratch, seconds, joint=bool(run.split.unlabeled)
            )
        costs = replace(timing.costs, end_s=timing.costs.end_s + REPORT_S)
        before_s = monotonic() - request.asked_at
        planned: int = run.plan.nnunet["configurations"][run.configuration]["batch_size"]
        schedule = fit_recipe(run.recipe, run.budget_s, costs, before_s=before_s, planned_patches=planned)
        fitted = Fitted(
            budget=format_duration(run.budget_s),
            recipe=run.recipe.as_dict(),
            schedule=schedule,
            costs=costs,
            before_s=before_s,
            memory_mb=timing.memory_mb,
            checkpoint_mb=round(timing.checkpoint_mb, 1),
            round_mb=round(timing.round_mb, 2),
            device=str(device),
            gpu_memory_mb=timing.gpu_memory_mb,
        )
        write_fit(run.budget_file, fitted)
        return fitted


def time_training(
    run: Run,
    request: TrainRequest,
    plans: dict[str, Any],
    device: Any,
    preprocessed: Path,
    scratch: Path,
    seconds: float,
    *,
    joint: bool,
) -> Timing:
    """Time the parts of a training of ``run``.

    Args:
        run: what is to be trained, with the settings that its trainer reads.
        request: what was asked for.
        plans: of its split, see :func:`pcl_auto.planning.split_plans.prepare_split`.
        device: to train on.
        preprocessed: the folder with the data set's folder in it.
        scratch: a folder for what the trainer writes.
        seconds: about how long to look at each kind of step.
        joint: with its rounds; else nnU-Net's training on the labeled cases.
    """
    begun = monotonic()
    with output_to(run.data.log_file if scratch.is_relative_to(run.data.path) else scratch / "log.txt"):
        import torch

        from pcl_auto.nnunet.training.joint_trainer import TRAINERS
        from pcl_auto.nnunet.training.timing import measure

        # A worker of nnU-Net's validation imports the same.
        beside_s = monotonic() - begun
        if device.type == "cpu":
            keep_freed_memory()
            forget_peak_memory()
        torch.backends.cudnn.benchmark = not run.settings.deterministic
        kind = TRAINERS[JOINT_TRAINER if joint else SUPERVISED_TRAINER]
        # Pretrained weights take no other time than drawn ones.
        settings = replace(run.settings, pretrained="")
        named = with_settings(plans, run.plans_name, run.configuration, settings)
        with variables_set(nnUNet_preprocessed=str(preprocessed), nnUNet_results=str(scratch)):
            trainer = kind(
                {**named, "continue_training": False},
                run.configuration,
                "all" if request.folds is None else 0,
                run.plan.dataset_json,
                device,
            )
            try:
                return measure(trainer, seconds=seconds, beside_s=beside_s, folds=request.folds or 1)
            finally:
                del trainer
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()


def step_memory_mb(run: Run) -> int | None:
    """Estimate the GPU memory of a step, as nnU-Net does, for the recipe's batch and network; None where it cannot."""
    planned_gb: float | None = run.plan.content["step_memory_gb"][run.configuration]
    if planned_gb is None:
        return None
    planned = run.plan.nnunet["configurations"][run.configuration]
    batch: int = planned["batch_size"]
    patches = run.recipe.batch.patches or batch
    changed = run.recipe.network.width * _head_memory(run, planned)
    return round(planned_gb * 1024 * patches / batch * changed)


def _head_memory(run: Run, planned: dict[str, Any]) -> float:
    """Return how many times the memory of the planned network the one with the recipe's segmentation head takes."""
    if not run.recipe.contrast.head_convolutions:
        return 1.0
    from pcl_auto.nnunet.planning.planner import feature_map_size

    plain = replace(run.recipe, contrast=Contrast())
    deeper, without = (
        feature_map_size(with_recipe(planned, recipe), run.plan.dataset_json) for recipe in (run.recipe, plain)
    )
    return deeper / without


def gpu_memory_mb(run: Run) -> int | None:
    """Estimate the most GPU memory that a training reserves; None where :func:`step_memory_mb` is not known.

    nnU-Net's estimate grows with the voxels of a step alone. Here the weights come to it, with Adam's second moments,
    teachers and a second network where the recipe has them, and in joint steps with the contrastive loss the gradient
    of the features at the drawn voxels, which is held for all voxels.
    """
    from pcl_auto.nnunet.network import weight_count

    step_mb = step_memory_mb(run)
    if step_mb is None:
        return None
    configuration = with_recipe(run.plan.nnunet["configurations"][run.configuration], run.recipe)
    dataset_json, recipe = run.plan.dataset_json, run.recipe
    weights = weight_count(configuration, len(dataset_json["channel_names"]), head_count(dataset_json["labels"]))
    teachers = (recipe.teacher.ema_rounds > 0) + (recipe.unlabeled_loss.method in EMA_TEACHER_METHODS)
    networks = 2 if run.joint and recipe.unlabeled_loss.method == "cross_supervision" else 1
    weight_bytes = networks * (WEIGHT_BYTES + 4 * (recipe.optimizer.name != "sgd")) + 4 * teachers * run.joint
    features: int = configuration["architecture"]["arch_kwargs"]["features_per_stage"][0]
    voxels: int = configuration["batch_size"] * math.prod(configuration["patch_size"])
    feature_bytes = 4 * features * voxels if run.joint and recipe.contrast.weight else 0
    return round(GPU_MARGIN * (step_mb + (weights * weight_bytes + feature_bytes) / 2**20))


def expected(run: Run) -> dict[str, float | None]:
    """Return what is forecast of a run before it begins; of a cross-validation's time and disk no fold has a share."""
    fitted = run.fitted if run.fold is None else None
    timed_s = None
    if fitted is not None:
        costs = fitted.costs if run.joint else fitted.costs.of_baseline()
        timed_s = round(fitted.before_s + costs.forecast_s(fitted.schedule), 1)
    return {
        "wall_s": timed_s,
        "memory_mb": None if fitted is None else fitted.memory_mb,
        "gpu_memory_mb": (None if fitted is None else fitted.gpu_memory_mb) or gpu_memory_mb(run),
        "disk_mb": None if fitted is None else fitted.disk_mb(joint=run.joint),
    }


def measured(folder: Path, device: Any, wall_s: float | None) -> dict[str, float | None]:
    """Return what the run in ``folder`` has taken, as :func:`expected` has it; memory is that of the last process."""
    gpu_mb = None
    if device.type == "cuda":
        import torch

        gpu_mb = int(torch.cuda.max_memory_reserved(device) / 2**20)
    return {
        "wall_s": None if wall_s is None else round(wall_s, 1),
        "memory_mb": peak_memory_mb(),
        "gpu_memory_mb": gpu_mb,
        "disk_mb": round(size_mb(folder)),
    }
