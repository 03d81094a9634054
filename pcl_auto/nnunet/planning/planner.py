"""Get nnU-Net's plans from its planners, with memory for labeled and unlabeled patches together, or from a file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from pcl_auto.data.labels import head_count
from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.nnunet.environment import variables_set
from pcl_auto.nnunet.network import refuse_unrunnable
from pcl_auto.nnunet.trusted_plans import READERS_AS_STORED, require_trusted
from pcl_auto.workspace.files import parse_json, refuse_irregular, write_json

PLANNERS: dict[str, type[Any]] = {
    "default": ExperimentPlanner,
    "resenc-m": nnUNetPlannerResEncM,
    "resenc-l": nnUNetPlannerResEncL,
}
# Those that are trained: a cascade needs a second training on the first one's predictions of every case.
CONFIGURATIONS = ("3d_fullres", "3d_lowres", "2d")
# Where a configuration carries its memory from the planner to the caller.
_MEMORY_KEY = "step_memory_gb"


def budgeted(planner: type[Any], min_patches: int) -> type[Any]:
    """Return ``planner`` with patches small enough that ``min_patches`` of them fit the memory, not two."""

    class Budgeted(planner):  # type: ignore[misc]
        UNet_reference_val_3d: float

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._full_reference_3d: float = self.UNet_reference_val_3d
            # nnU-Net shrinks a 3D patch until two of them fit its reference.
            self.UNet_reference_val_3d = self._full_reference_3d * 2 / min_patches
            self.UNet_min_batch_size = min_patches

        @staticmethod
        def static_estimate_VRAM_usage(*network: Any) -> float:  # noqa: N802
            """Return nnU-Net's estimate, from the shapes of a network whose weights are never drawn."""
            with torch.device("meta"):
                return float(planner.static_estimate_VRAM_usage(*network))

        def determine_reader_writer(self) -> type[Any]:
            # nnU-Net would open an example image to find out.
            return SimpleITKIO  # type: ignore[no-any-return]

        def get_plans_for_configuration(
            self, spacing: Any, median_shape: Any, data_identifier: str, voxels: float, cache: dict[str, Any]
        ) -> dict[str, Any]:
            """Choose patch and network as nnU-Net does, and the batch that the whole memory holds with them."""
            plan: dict[str, Any] = super().get_plans_for_configuration(
                spacing, median_shape, data_identifier, voxels, cache
            )
            return self.fill_memory(plan, voxels)

        def fill_memory(self, plan: dict[str, Any], voxels: float) -> dict[str, Any]:
            """Give a configuration the batch that the memory holds; ``voxels``: of the whole data set."""
            patch_gb = self.patch_gb(plan)
            # The planner's own limit: no step sees more than a twentieth of all voxels.
            most = round(voxels * self.max_dataset_covered / float(np.prod(plan["patch_size"], dtype=np.float64)))
            # Down, where nnU-Net rounds to the nearest: a patch too many is up to a tenth over what was asked for.
            fitting = math.floor(self.UNet_vram_target_GB / patch_gb)
            plan["batch_size"] = max(min(fitting, most), self.UNet_min_batch_size)
            plan[_MEMORY_KEY] = float(plan["batch_size"] * patch_gb)
            return plan

        def patch_gb(self, plan: dict[str, Any]) -> float:
            """Return the GPU memory in GB of one patch by nnU-Net's estimate, which its reference values calibrate."""
            network = plan["architecture"]
            size = self.static_estimate_VRAM_usage(
                plan["patch_size"],
                len(self.dataset_json["channel_names"]),
                head_count(self.dataset_json["labels"]),
                network["network_class_name"],
                network["arch_kwargs"],
                network["_kw_requires_import"],
            )
            reference, patches = (
                (self.UNet_reference_val_2d, self.UNet_reference_val_corresp_bs_2d)
                if len(plan["patch_size"]) == 2
                else (self._full_reference_3d, self.UNet_reference_val_corresp_bs_3d)
            )
            return float(size / reference * self.UNet_reference_val_corresp_GB / patches)

    Budgeted.__name__ = planner.__name__
    return Budgeted


def feature_map_size(configuration: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> int:
    """Count the numbers in all feature maps of a planned network for one patch, nnU-Net's measure of its memory."""
    with torch.device("meta"):  # its weights are never drawn
        built = _built(configuration, len(dataset_json["channel_names"]), head_count(dataset_json["labels"]))
    return int(built.compute_conv_feature_map_size(configuration["patch_size"]))


def _built(configuration: Mapping[str, Any], channels: int, heads: int) -> Any:
    network = configuration["architecture"]
    return get_network_from_plans(
        network["network_class_name"],
        network["arch_kwargs"],
        network["_kw_requires_import"],
        channels,
        heads,
        allow_init=False,
    )


@contextmanager
def _scratch_folders(name: str) -> Iterator[tuple[Path, Path]]:
    """Yield empty raw and preprocessed folders that nnU-Net takes for its own meanwhile."""
    with tempfile.TemporaryDirectory(prefix="pclauto-plan-") as scratch:
        raw, preprocessed = (Path(scratch) / kind / name for kind in ("raw", "preprocessed"))
        raw.mkdir(parents=True)
        preprocessed.mkdir(parents=True)
        with variables_set(nnUNet_raw=str(raw.parent), nnUNet_preprocessed=str(preprocessed.parent)):
            yield raw, preprocessed


def plan_network(
    dataset_name: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    planner: str,
    memory_gb: float,
    min_patches: int,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Plan network, patch size and batch size as nnU-Net does, from a fingerprint; nothing is left on disk.

    Args:
        dataset_name: ``DatasetNNN_Name``.
        dataset_json: nnU-Net's dataset.json; ``numTraining`` counts every image that training may show.
        fingerprint: nnU-Net's dataset fingerprint.
        planner: a key of :data:`PLANNERS`.
        memory_gb: the GPU memory a step may take.
        min_patches: labeled and unlabeled patches of a step, at least.

    Returns:
        nnU-Net's plans, and the GPU memory in GB that a step of each configuration takes by nnU-Net's estimate.

    Raises:
        UsageError: there is no such planner.
    """
    if planner not in PLANNERS:
        raise UsageError(
            Problem(
                code="plan.unknown-planner",
                what=f"no planner {planner!r}",
                where="--planner",
                expected=" | ".join(PLANNERS),
                fix="take one of these",
            )
        )
    return run_planner(budgeted(PLANNERS[planner], min_patches), dataset_name, dataset_json, fingerprint, memory_gb)


def run_planner(
    planner: type[Any],
    dataset_name: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    memory_gb: float,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run a planner that :func:`budgeted` has made; arguments and result are those of :func:`plan_network`."""
    with _scratch_folders(dataset_name) as (raw, preprocessed):
        # An empty case list: the fingerprint says all that is to be known of the cases.
        write_json(raw / "dataset.json", {**dataset_json, "dataset": {}})
        write_json(preprocessed / "dataset_fingerprint.json", fingerprint)
        # nnU-Net sets as many threads as it has augmentation workers; none is not a number of threads.
        with variables_set(nnUNet_n_proc_DA=str(max(1, int(os.environ.get("nnUNet_n_proc_DA", "1"))))):
            plans: dict[str, Any] = planner(dataset_name, gpu_memory_target_in_gb=memory_gb).plan_experiment()
    plans["configurations"].pop("3d_cascade_fullres", None)
    for configuration in plans["configurations"].values():
        configuration.pop("next_stage", None)
    memory = {name: entry.pop(_MEMORY_KEY) for name, entry in plans["configurations"].items()}
    return plans, memory


def read_plans(file: Path, dataset_name: str, dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Read plans that nnU-Net made, or somebody changed, and take them for a data set, without cascades.

    Every configuration is written out, with all that it inherits.

    Raises:
        StateError: no plans of nnU-Net, or for images of other channels.
    """
    refuse_irregular(file, StateError, "name a file with nnU-Net's plans")
    try:
        plans: dict[str, Any] = parse_json(file)
    except (OSError, ValueError) as error:
        raise StateError(_unfit(file, "JSON", str(error))) from error
    require_trusted(plans, dataset_json, file)
    channels, manager = len(dataset_json["channel_names"]), PlansManager(plans)
    # A patch, a spacing and an order of axes of scans that were turned are not those of scans as they are stored.
    if plans["image_reader_writer"] not in READERS_AS_STORED:
        expected = f"image_reader_writer {' | '.join(sorted(READERS_AS_STORED))}"
        raise StateError(_unfit(file, expected, plans["image_reader_writer"]))
    plans["configurations"] = {
        name: {
            key: value
            for key, value in manager.get_configuration(name).configuration.items()
            if key not in ("inherits_from", "previous_stage", "next_stage")
        }
        for name in CONFIGURATIONS
        # One that learns from another one's masks too is of a cascade, whatever its name.
        if name in plans["configurations"] and manager.get_configuration(name).previous_stage_name is None
    }
    if not plans["configurations"]:
        raise StateError(_unfit(file, " | ".join(CONFIGURATIONS), "none of them"))
    planned = {name: len(entry["normalization_schemes"]) for name, entry in plans["configurations"].items()}
    if set(planned.values()) != {channels}:
        found = ", ".join(f"{name} {number}" for name, number in planned.items())
        raise StateError(_unfit(file, f"plans for {channels} channels", found))
    for name, entry in plans["configurations"].items():
        fix, heads = "take plans as nnU-Net wrote them, or leave --plans out", head_count(dataset_json["labels"])
        build = partial(_built, entry, channels, heads)
        refuse_unrunnable(build, channels, heads, entry["patch_size"], f"{file}: {name}", fix)
    plans["dataset_name"], plans["image_reader_writer"] = dataset_name, "SimpleITKIO"
    return plans


def _unfit(file: Path, expected: str, found: str) -> Problem:
    return Problem(
        "plan.unfit", "plans do not fit", str(file), "name other plans with --plans, or leave it out", expected, found
    )
