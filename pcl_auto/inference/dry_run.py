"""Estimate what plan would do and take; nothing is written."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from pcl_auto.planning.plan import Plan

_PLANNERS = {"default": "ExperimentPlanner", "resenc-m": "nnUNetPlannerResEncM", "resenc-l": "nnUNetPlannerResEncL"}


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
