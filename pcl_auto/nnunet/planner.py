"""nnU-Net's planners, with the memory of a step budgeted for labelled and unlabelled patches together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from pcl_auto.run.files import write_json

PLANNERS: dict[str, type[Any]] = {
    "default": ExperimentPlanner,
    "resenc-m": nnUNetPlannerResEncM,
    "resenc-l": nnUNetPlannerResEncL,
}


def _budgeted(planner: type[Any], min_patches: int) -> type[Any]:
    """``planner`` with patches small enough that ``min_patches`` of them fit the memory, not two."""

    class Budgeted(planner):  # type: ignore[misc]
        UNet_reference_val_corresp_bs_3d: int

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # nnU-Net's reference value is the size of a 3D network at a batch of two. Per patch it stays as it is.
            self.UNet_reference_val_3d *= self.UNet_reference_val_corresp_bs_3d / min_patches
            self.UNet_reference_val_corresp_bs_3d = min_patches
            self.UNet_min_batch_size = min_patches

        def determine_reader_writer(self) -> type[Any]:
            # nnU-Net would open an example image to find out.
            return SimpleITKIO  # type: ignore[no-any-return]

    Budgeted.__name__ = planner.__name__
    return Budgeted


@contextmanager
def _scratch_folders(name: str) -> Iterator[tuple[Path, Path]]:
    """Empty raw and preprocessed folders that nnU-Net takes for its own meanwhile."""
    variables = ("nnUNet_raw", "nnUNet_preprocessed")
    saved = {variable: os.environ.get(variable) for variable in variables}
    with tempfile.TemporaryDirectory(prefix="pclauto-plan-") as scratch:
        folders = [Path(scratch) / variable / name for variable in variables]
        for variable, folder in zip(variables, folders, strict=True):
            folder.mkdir(parents=True)
            os.environ[variable] = str(folder.parent)
        try:
            yield folders[0], folders[1]
        finally:
            for variable, value in saved.items():
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value


def plan_network(
    dataset_name: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    planner: str,
    memory_gb: float,
    min_patches: int,
) -> dict[str, Any]:
    """Plan network, patch size and batch size as nnU-Net does, from a fingerprint; nothing is left on disk.

    Args:
        dataset_name: ``DatasetNNN_Name``.
        dataset_json: nnU-Net's dataset.json; ``numTraining`` counts every image that training may show.
        fingerprint: nnU-Net's dataset fingerprint.
        planner: a key of :data:`PLANNERS`.
        memory_gb: the GPU memory a step may take.
        min_patches: labelled and unlabelled patches of a step, at least.

    Returns:
        nnU-Net's plans.
    """
    with _scratch_folders(dataset_name) as (raw, preprocessed):
        # An empty case list: the fingerprint says all that is to be known of the cases.
        write_json(raw / "dataset.json", {**dataset_json, "dataset": {}})
        write_json(preprocessed / "dataset_fingerprint.json", fingerprint)
        chosen = _budgeted(PLANNERS[planner], min_patches)
        # nnU-Net sets as many threads as it has augmentation workers; none is not a number of threads.
        workers = os.environ.get("nnUNet_n_proc_DA", "1")
        os.environ["nnUNet_n_proc_DA"] = str(max(1, int(workers)))
        try:
            plans: dict[str, Any] = chosen(dataset_name, gpu_memory_target_in_gb=memory_gb).plan_experiment()
        finally:
            os.environ["nnUNet_n_proc_DA"] = workers
    # Cascades need a second training on the first one's predictions of every case; not offered.
    plans["configurations"].pop("3d_cascade_fullres", None)
    for configuration in plans["configurations"].values():
        configuration.pop("next_stage", None)
    return plans


def step_memory_gb(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any], planner: str
) -> float:
    """The GPU memory that a step with the planned batch takes by nnU-Net's estimate."""
    chosen = plans["configurations"][configuration]
    network = chosen["architecture"]
    size = ExperimentPlanner.static_estimate_VRAM_usage(
        tuple(chosen["patch_size"]),
        len(dataset_json["channel_names"]),
        len(dataset_json["labels"]),
        network["network_class_name"],
        network["arch_kwargs"],
        network["_kw_requires_import"],
    )
    # The planners' own reference points; they are set in their constructors, which need files.
    residual = planner != "default"
    reference, patches = (
        (135e6 if residual else 85e6, 12) if len(chosen["patch_size"]) == 2 else (680e6 if residual else 560e6, 2)
    )
    return float(size / reference * 8 * chosen["batch_size"] / patches)
