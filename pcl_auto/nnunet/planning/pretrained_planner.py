"""Plan the network of pretrained weights for a data set: their architecture as it is, patch and batch to fit memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncM,
)

from pcl_auto.errors import Problem, ResourceError, StateError
from pcl_auto.nnunet.planning.planner import budgeted, run_planner
from pcl_auto.nnunet.pretrained.architecture import Architecture, whole_stride
from pcl_auto.nnunet.pretrained.source import PretrainedSource

_CONFIGURATIONS = {2: ("2d",), 3: ("3d_fullres", "3d_lowres")}


def plan_for(
    source: PretrainedSource,
    dataset_name: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    memory_gb: float,
    min_patches: int,
    its_spacing: bool,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Plan as nnU-Net does, with the network of ``source`` in place of nnU-Net's.

    Spacing, normalization and resampling are the data set's; the patch is as large as the memory allows, in steps of
    the network's whole stride.

    Args:
        source: the pretrained weights.
        dataset_name: ``DatasetNNN_Name``.
        dataset_json: nnU-Net's dataset.json.
        fingerprint: nnU-Net's dataset fingerprint.
        memory_gb: the GPU memory a step may take.
        min_patches: labeled and unlabeled patches of a step, at least.
        its_spacing: resample the images to the spacing of the pre-training.

    Returns:
        nnU-Net's plans, and the GPU memory in GB that a step of each configuration takes by nnU-Net's estimate.

    Raises:
        StateError: the files of ``source`` do not say what network or spacing it has; no configuration has its axes.
        ResourceError: the memory does not hold the smallest patches of its network.
    """
    network, spacing_mm = source.described.architecture, source.described.spacing_mm
    if network is None:
        raise StateError(_unsaid(source, "the network", "leave out --for, or name weights with adaptation_plan.json"))
    if its_spacing and (spacing_mm is None or len(spacing_mm) != network.dimensions):
        raise StateError(_unsaid(source, "the spacing", "leave out --pretrained-spacing"))
    base = nnUNetPlannerResEncM if network.is_residual else ExperimentPlanner
    planner = _with_network(budgeted(base, min_patches), network, min_patches, spacing_mm if its_spacing else None)
    plans, memory = run_planner(planner, dataset_name, dataset_json, fingerprint, memory_gb)
    wanted = _CONFIGURATIONS[network.dimensions]
    plans["configurations"] = {
        name: plans["configurations"][name] for name in wanted if name in plans["configurations"]
    }
    if not plans["configurations"]:
        raise StateError(
            Problem(
                code="pretrained.other-dimensions",
                what="the images have no volume for a 3D network",
                where=str(source.file),
                expected="images of several slices",
                found="a single slice",
                fix="take weights of a 2D network",
            )
        )
    return plans, {name: memory[name] for name in plans["configurations"]}


def _with_network(
    planner: type[Any], network: Architecture, min_patches: int, spacing_mm: Sequence[float] | None
) -> type[Any]:
    """Return ``planner`` with a fixed network, and if given a fixed spacing in the order of the network's axes."""

    class Pretrained(planner):  # type: ignore[misc]
        def determine_fullres_target_spacing(self) -> np.ndarray:
            """Return the spacing in the order in which scans are stored."""
            own: np.ndarray = super().determine_fullres_target_spacing()
            if spacing_mm is None:
                return own
            # nnU-Net turns scans so that the axis of the largest spacing comes first.
            order = [int(np.argmax(own)), *(axis for axis in range(3) if axis != np.argmax(own))]
            # A 2D network sees slices, whose distance stays.
            own[order[3 - len(spacing_mm) :]] = spacing_mm
            return own

        def get_plans_for_configuration(
            self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict[str, Any]
        ) -> dict[str, Any]:
            plan: dict[str, Any] = super().get_plans_for_configuration(
                spacing, median_shape, data_identifier, voxels, cache
            )
            if len(plan["patch_size"]) != network.dimensions:
                return plan
            plan["architecture"] = network.as_plans()

            def memory_gb(patch_voxels: tuple[int, ...]) -> float:
                key = f"pretrained {patch_voxels}"
                if key not in cache:
                    cache[key] = self.patch_gb({**plan, "patch_size": patch_voxels})
                return float(cache[key])

            target = float(self.UNet_vram_target_GB)
            patch = fit_patch(network, median_shape, lambda size: memory_gb(size) * min_patches <= target)
            if patch is None:
                smallest = smallest_patch(network)
                needed = math.ceil(memory_gb(smallest) * min_patches)
                raise ResourceError(_too_large(smallest, target, needed))
            plan["patch_size"] = list(patch)
            return self.fill_memory(plan, voxels)  # type: ignore[no-any-return]

    Pretrained.__name__ = planner.__name__
    return Pretrained


def smallest_patch(network: Architecture) -> tuple[int, ...]:
    """Return the smallest patch whose deepest features have more than one voxel, as normalization needs."""
    *others, last = whole_stride(network)
    return (*others, 2 * last)


def fit_patch(
    network: Architecture, median_shape: Sequence[float], fits: Callable[[tuple[int, ...]], bool]
) -> tuple[int, ...] | None:
    """Return the largest patch that ``fits``; None where the smallest does not.

    As in nnU-Net it begins with the median image, and the axis that sees most of it is shortened first.

    Args:
        network: its strides.
        median_shape: of the images in voxels, along the network's axes.
        fits: tells whether the memory holds patches of a size.
    """
    step = whole_stride(network)
    median = [float(size) for size in median_shape][-len(step) :]
    patch = [max(1, math.ceil(size / unit)) * unit for size, unit in zip(median, step, strict=True)]
    if math.prod(patch) == math.prod(step):  # deepest features of one voxel cannot be normalized
        patch[int(np.argmax(median))] += step[int(np.argmax(median))]
    while not fits(tuple(patch)):
        shares = {
            axis: patch[axis] / median[axis]
            for axis in range(len(step))
            if patch[axis] > step[axis] and math.prod(patch) > 2 * math.prod(step)
        }
        if not shares:
            return None
        axis = max(shares, key=lambda each: shares[each])
        patch[axis] -= step[axis]
    return tuple(patch)


def _unsaid(source: PretrainedSource, what: str, fix: str) -> Problem:
    return Problem(
        code="pretrained.not-described",
        what=f"the files of the weights do not say {what} of their pre-training",
        where=str(source.file),
        expected="an adaptation_plan.json of nnssl, or nnU-Net's plans in the checkpoint",
        fix=fix,
    )


def _too_large(patch_voxels: Sequence[int], memory_gb: float, needed_gb: float) -> Problem:
    return Problem(
        code="pretrained.too-large",
        what="the network of the weights does not fit the memory asked for, with the smallest patches",
        where=f"patches of {'×'.join(map(str, patch_voxels))} voxels",
        expected=f"{needed_gb:g} GB",
        found=f"{memory_gb:g} GB",
        fix=f"plan with --gpu-memory-gb {needed_gb:g}, or take weights of a smaller network",
    )
