"""The plan of a data set: what was found, what nnU-Net's planner made of it, and why."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder

SCHEMA_VERSION = 1
CONFIGURATIONS = ("3d_fullres", "3d_lowres", "2d")
# A joint step holds at least two labeled and two unlabeled patches: the loss compares images.
MIN_PATCHES = 4
# nnU-Net blurs patches with kernels that reach up to six voxels far, reflected at the borders.
MIN_PATCH_VOXELS = 7
# Schemes that take their statistics from labeled foreground, so that a store with them belongs to a split.
LABEL_DEPENDENT_SCHEMES = frozenset({"CTNormalization"})
STOCK_PREPROCESSOR = "DefaultPreprocessor"
_NEUTRAL_INTENSITIES = {
    "mean": 0.0, "median": 0.0, "std": 1.0, "min": 0.0, "max": 0.0, "percentile_99_5": 0.0, "percentile_00_5": 0.0,
}  # fmt: skip


# nnU-Net's own targets on a GPU; a CPU trains smaller patches.
GPU_MEMORY_GB = {"default": 8.0, "resenc-m": 8.0, "resenc-l": 24.0}
CPU_MEMORY_GB = 4.0


def memory_to_plan_for(asked: float | None, planner: str) -> tuple[float, str]:
    """Return the memory in GB that a training step may take, and the reason for it."""
    if asked is not None:
        return asked, "asked for"
    if choose_device("auto").type == "cuda":
        return GPU_MEMORY_GB.get(planner, 8.0), "nnU-Net's own target; --gpu-memory-gb for another"
    return CPU_MEMORY_GB, "no GPU here: patches that a CPU can train; --gpu-memory-gb 8 plans for a GPU"


@dataclass(frozen=True)
class PlanSettings:
    """What the user asked of the plan."""

    configuration: str = "auto"
    planner: str = "default"
    memory_gb: float = 8.0
    use_test_images: bool = False
    bias_correction: bool = False
    # nnU-Net plans that are there already, taken as they are: the file.
    plans_file: str | None = None
    # Links may lead out of the data set's folder; unlabeled scans that cannot be used are left out, not refused.
    follow_links: bool = False
    skip_bad_unlabeled: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class PlannedCase:
    """A case of the training pool: where its files are and what is known of its image."""

    id: str
    image: Path
    label: Path | None
    source: str
    size: int
    mtime_ns: int
    shape: tuple[int, ...]
    # Of the channels after the first, where each has a file of its own.
    further: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the image: one, or one per channel."""
        return (self.image, *self.further)


@dataclass(frozen=True)
class Plan:
    """A plan as it lies in ``plan.json``."""

    content: dict[str, Any]
    # Masks that stand for labels, by case: pseudo-labels corrected by hand.
    corrected: Mapping[str, Path] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The decathlon folder."""
        return Path(self.content["task"]["root"])

    @property
    def settings(self) -> PlanSettings:
        """What the user asked for."""
        return PlanSettings(**self.content["settings"])

    @property
    def configuration(self) -> str:
        """The configuration that training takes."""
        return str(self.content["configuration"])

    @property
    def nnunet(self) -> dict[str, Any]:
        """nnU-Net's plans, before any split."""
        plans: dict[str, Any] = self.content["nnunet_plans"]
        return plans

    @property
    def dataset_json(self) -> dict[str, Any]:
        """nnU-Net's description of the data set."""
        description: dict[str, Any] = self.content["dataset_json"]
        return description

    @property
    def cases(self) -> dict[str, PlannedCase]:
        """The training pool by case id."""
        return {
            case: PlannedCase(
                id=case,
                image=self.root / entry["image"],
                label=self.corrected.get(case, None if entry["label"] is None else self.root / entry["label"]),
                source=entry["source"],
                size=entry["size"],
                mtime_ns=entry["mtime_ns"],
                shape=tuple(entry["shape"]),
                further=tuple(self.root / file for file in entry.get("further", ())),
            )
            for case, entry in self.content["cases"].items()
        }

    def configuration_named(self, name: str | None) -> str:
        """``name`` if it was planned, the plan's own choice for None.

        Raises:
            UsageError: no such configuration was planned.
        """
        planned = self.nnunet["configurations"]
        if name in (None, "auto"):
            return self.configuration
        if name not in planned:
            raise UsageError(
                Problem(
                    code="plan.unknown-configuration",
                    what=f"configuration {name!r} was not planned for this data set",
                    where=self.nnunet["dataset_name"],
                    expected=" | ".join(planned),
                    fix="take one of these",
                )
            )
        return str(name)

    def depends_on_labels(self, configuration: str) -> bool:
        """Whether preprocessing needs intensity statistics of labeled foreground (CT)."""
        schemes = self.nnunet["configurations"][configuration]["normalization_schemes"]
        return bool(LABEL_DEPENDENT_SCHEMES & set(schemes))


def read_plan(data: DatasetFolder) -> Plan:
    """The plan of a prepared data set.

    Raises:
        StateError: it was written by another version.
    """
    content = read_json(data.plan_file)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise StateError(
            Problem(
                code="plan.other-version",
                what="plan of another version",
                where=str(data.plan_file),
                expected=str(SCHEMA_VERSION),
                found=str(content.get("schema_version")),
                fix="run `pclauto plan` again with --force",
            )
        )
    return Plan(content)


def write_plan(data: DatasetFolder, content: Mapping[str, Any]) -> Plan:
    """Write a plan and what nnU-Net expects beside it; ``plan.json`` last, since it says that all is there.

    In a folder that nnU-Net has made of the same data set, its own files stay.
    """
    beside = {"dataset.json": content["dataset_json"], "dataset_fingerprint.json": content["fingerprint"]}
    for name, value in beside.items():
        if not content.get("shared") or not (data.path / name).is_file():
            write_json(data.path / name, value)
    write_json(data.plan_file, dict(content))
    return Plan(dict(content))


def neutral_intensities(channels: int) -> dict[str, dict[str, float]]:
    """Intensity statistics of no label: nnU-Net reads them for every channel, uses them for CT alone."""
    return {str(channel): dict(_NEUTRAL_INTENSITIES) for channel in range(channels)}


def store_key(plans: Mapping[str, Any], configuration: str) -> str:
    """The name of the case store that ``plans`` need: equal for equal preprocessing, different otherwise."""
    chosen = plans["configurations"][configuration]
    schemes = chosen["normalization_schemes"]
    decisive = {
        "spacing": chosen["spacing"],
        "normalization": [schemes, chosen["use_mask_for_norm"]],
        "resampling": [chosen["resampling_fn_data"], chosen["resampling_fn_data_kwargs"]],
        "transpose": plans["transpose_forward"],
        "intensities": [
            plans["foreground_intensity_properties_per_channel"][str(channel)]
            for channel, scheme in enumerate(schemes)
            if scheme in LABEL_DEPENDENT_SCHEMES
        ],
    }
    if chosen.get("preprocessor_name", STOCK_PREPROCESSOR) != STOCK_PREPROCESSOR:
        decisive["preprocessor"] = chosen["preprocessor_name"]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    return f"{configuration}_{digest}"


def name_preprocessor(plans: Mapping[str, Any], name: str) -> None:
    """Let every configuration of ``plans`` name a preprocessor that corrects the bias field.

    Raises:
        UsageError: the images are CT, whose intensities mean something as they are.
    """
    for configuration in plans["configurations"].values():
        if LABEL_DEPENDENT_SCHEMES & set(configuration["normalization_schemes"]):
            raise UsageError(
                Problem(
                    code="plan.ct-bias-correction",
                    what="CT has no bias field",
                    where="--bias-correction",
                    expected="images of MR alone",
                    fix="leave out --bias-correction",
                )
            )
        configuration["preprocessor_name"] = name


def choose_configuration(wanted: str, planned: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The configuration to train and the reason for it.

    Raises:
        UsageError: the one wanted was not planned, or its patches are too thin.
    """
    if wanted == "auto":
        if "3d_fullres" not in planned:
            return "2d", "the images have a single slice"
        if thin := _thinnest(planned["3d_fullres"]):
            return "2d", f"in 3D a patch would be {thin} voxels thin, less than nnU-Net's augmentation can blur"
        reason = "the images have more than one slice: 3D at full resolution"
        if "3d_lowres" in planned:
            seen, seen_in_lowres = (_share_seen(planned[name]) for name in ("3d_fullres", "3d_lowres"))
            reason += f" (a patch sees {seen:.0%} of the median image; 3d_lowres, planned too, {seen_in_lowres:.0%})"
        return "3d_fullres", reason
    if wanted not in planned:
        reasons = {
            "3d_lowres": "nnU-Net plans 3d_lowres where a patch sees less than a quarter of the median image",
            "3d_fullres": "the images have a single slice",
            "3d_cascade_fullres": "cascades are not trained: they learn from a first stage's masks of every case",
        }
        raise UsageError(
            Problem(
                code="plan.unknown-configuration",
                what=f"no configuration {wanted!r} for this data set",
                where=where,
                expected=" | ".join(planned),
                found=reasons.get(wanted, ""),
                fix="take one of these, or auto",
            )
        )
    if thin := _thinnest(planned[wanted]):
        raise UsageError(
            Problem(
                code="plan.patch-too-thin",
                what=f"patches of {wanted} are too thin",
                where=where,
                expected=f"{MIN_PATCH_VOXELS} voxels or more along every axis: nnU-Net's augmentation blurs them",
                found=str(thin),
                fix="take --configuration 2d",
            )
        )
    return wanted, "asked for"


def _share_seen(configuration: Mapping[str, Any]) -> float:
    """How much of the median image a patch covers."""
    return float(math.prod(configuration["patch_size"]) / math.prod(configuration["median_image_size_in_voxels"]))


def _thinnest(configuration: Mapping[str, Any]) -> int:
    """The shortest axis of a patch in voxels, if it is too short; else 0."""
    shortest = int(min(configuration["patch_size"]))
    return shortest if shortest < MIN_PATCH_VOXELS else 0
