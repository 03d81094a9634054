"""Estimate what plan and predict would do and take; nothing is written."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcl_auto.data.formats.scans import Scan, list_scans
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
from pcl_auto.planning.plan import Plan
from pcl_auto.workspace.processes import output_to

if TYPE_CHECKING:
    from pcl_auto.inference.masks import MaskFolder
    from pcl_auto.nnunet.inference.predictor import ModelPredictor, PatchSeconds

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
    from pcl_auto.nnunet.data.images import read_image

    name = mask_name(scan, outputs)
    facts, file = masks.kept(scan, name), str(masks.folder / name)
    if facts is not None:
        return MaskEstimate(Prediction(scan.id, file, "kept", **facts))
    refuse_damaged(scan)
    where = str(scan.files[0])
    demand = predictor.demand(*read_image(scan.files), where)
    slabs = demand.slabs_that_fit(where)
    done = Prediction(scan.id, file, "done", slabs=slabs)
    # In slabs there is no confidence.
    patch_s = patch_seconds.masks + (patch_seconds.confidence if outputs.quality and slabs == 1 else 0.0)
    return MaskEstimate(done, demand.needed_mb(slabs), round(patch_s * demand.patches(slabs), 1))


def mask_commands(model: Path, output: Path, *, device: str, mirroring: bool) -> tuple[str, ...]:
    """What segments scans with ``model`` in stock nnU-Net, in a shell prepared by ``pclauto env --export``."""
    folds = [checkpoint.parent.name.removeprefix("fold_") for checkpoint in checkpoints_of(model)]
    command = ["nnUNetv2_predict_from_modelfolder", "-i", "SCANS", "-o", str(output), "-m", str(model), "-f", *folds]
    return (shlex.join([*command, "-device", device, *([] if mirroring else ["--disable_tta"])]),)
