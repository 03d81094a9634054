"""Record a plan: what was found in a data set, what nnU-Net's planner made of it, and why."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcl_auto.data.case import Case
from pcl_auto.data.dataset.safe_paths import refuse_case_id
from pcl_auto.errors import Problem, StateError, UsageError, format_names
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.workspace.files import read_json, refusing_nonsense, require_shape, write_json
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.shapes import DATASET, NAME

SCHEMA_VERSION = 1
_ENTRY = {
    "image": str, "label": (str, None), "source": str, "size": int, "mtime_ns": int, "shape": [int], "further?": [str],
}  # fmt: skip
# Of plan.json, see pcl_auto.workspace.shapes: what is looked at before anything is prepared, and all of it.
SHAPE = {
    "schema_version": int,
    "task": {"root": str, ...: object},
    "settings": {
        "configuration?": str, "planner?": str, "memory_gb?": float, "plans_file?": (str, None),
        "pretrained?": str, ...: bool,
    },
    "cases": {...: _ENTRY},
    "configuration": NAME,
    "dataset_json": {f"{key.removesuffix('?')}?": shape for key, shape in DATASET.items()},
    "nnunet_plans": {"configurations": {...: {...: object}}},
}  # fmt: skip
_WHOLE_SHAPE = {
    **SHAPE,
    "test_images": [str],
    "configuration_reason": str,
    "dataset_json": DATASET,
    "fingerprint": {"spacings": [[float] * 3], "shapes_after_crop": [[int] * 3], ...: object},
    "step_memory_gb": {...: (float, None)},
    "shared?": bool,
}
# A joint step holds at least two labeled and two unlabeled patches: the loss compares images.
MIN_PATCHES = 4
# Schemes that take their statistics from labeled foreground, so that a store with them belongs to a split.
LABEL_DEPENDENT_SCHEMES = frozenset({"CTNormalization"})
# As nnU-Net's planners resample labels, and the region that is not zero.
_RESAMPLED_LABELS = [
    "resample_data_or_seg_to_shape", {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
]  # fmt: skip
STOCK_PREPROCESSOR = "DefaultPreprocessor"
# nnU-Net's own targets on a GPU; a CPU trains smaller patches.
GPU_MEMORY_GB = {"default": 8.0, "resenc-m": 8.0, "resenc-l": 24.0}
CPU_MEMORY_GB = 4.0
# nnU-Net's names of the planners.
_PLANNERS = {"default": "ExperimentPlanner", "resenc-m": "nnUNetPlannerResEncM", "resenc-l": "nnUNetPlannerResEncL"}


def memory_to_plan_for(asked: float | None, planner: str) -> tuple[float, str]:
    """Return the memory in GB that a training step may take, and the reason for it."""
    if asked is not None:
        return asked, "asked for"
    if choose_device("auto").type == "cuda":
        return GPU_MEMORY_GB.get(planner, 8.0), "nnU-Net's own target; --gpu-memory-gb for another"
    return CPU_MEMORY_GB, "no GPU here: patches that a CPU can train; --gpu-memory-gb 8 plans for a GPU"


@dataclass(frozen=True)
class PlanSettings:
    """Settings that the user asked for."""

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
    # The network is that of these pretrained weights: a checkpoint, its folder, or a hub's address with its revision.
    pretrained: str | None = None
    # Images get the spacing of the pre-training, not that of the data set.
    pretrained_spacing: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values; plans without pretrained weights have none for them, as before."""
        values = dict(self.__dict__)
        if self.pretrained is None:
            del values["pretrained"], values["pretrained_spacing"]
        return values


@dataclass(frozen=True, kw_only=True)
class PlannedCase(Case):
    """A case of the training pool with the size (bytes), time and shape (x, y, z) that its image was planned with.

    ``digest``: of the image, as :class:`pcl_auto.data.identity.Identity` has it; empty in a plan of version 0.2.
    """

    size: int
    mtime_ns: int
    shape: tuple[int, ...]
    digest: str = ""


@dataclass(frozen=True)
class Plan:
    """A plan as it lies in ``plan.json``."""

    content: dict[str, Any]
    # Masks that stand for labels, by case: pseudo-labels corrected by hand.
    corrected: Mapping[str, Path] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder of the data set."""
        return Path(self.content["task"]["root"])

    @property
    def settings(self) -> PlanSettings:
        """The settings that the user asked for."""
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
                digest=entry.get("digest", ""),
                further=tuple(self.root / file for file in entry.get("further", ())),
            )
            for case, entry in self.content["cases"].items()
        }

    def require(self, cases: Iterable[str]) -> None:
        """Make sure that the plan has these cases, whatever names them: files of the workspace, or the user.

        Raises:
            StateError: it lacks some.
        """
        if unknown := sorted(set(cases) - self.content["cases"].keys()):
            fix = "restore the data set and run `pclauto plan` again, or take another split"
            what, where = "cases that are not in the plan", str(self.root)
            raise StateError(Problem("plan.unknown-case", what, where, fix, found=format_names(unknown)))

    def configuration_named(self, name: str | None) -> str:
        """Return ``name`` if it was planned, the plan's own choice for None.

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

    def is_made_from(self, inputs: Mapping[str, Any]) -> bool:
        """Tell whether the plan was made from these inputs, so that planning again would choose the same.

        Wherever the data set lies now; and a plan of version 0.2 has no digests.
        """
        return all(
            _comparable(key, self.content.get(key), inputs) == _comparable(key, value, self.content)
            for key, value in inputs.items()
        )

    def equals(self, other: Plan) -> bool:
        """Tell whether two plans are one as JSON has them."""
        texts = [json.dumps(plan.content, sort_keys=True) for plan in (self, other)]
        return texts[0] == texts[1]

    def depends_on_labels(self, configuration: str) -> bool:
        """Tell whether preprocessing needs intensity statistics of labeled foreground (CT)."""
        schemes = self.nnunet["configurations"][configuration]["normalization_schemes"]
        return bool(LABEL_DEPENDENT_SCHEMES & set(schemes))


def _comparable(key: str, value: Any, other: Mapping[str, Any]) -> Any:
    """Return a part of a plan as it is compared with that of ``other``."""
    if key == "task" and isinstance(value, dict):
        return {**value, "root": None}
    if key == "cases" and isinstance(value, dict):
        undigested = {case for case, entry in other.get("cases", {}).items() if "digest" not in entry}
        return {
            case: {**entry, "digest": ""} if case in undigested else {"digest": "", **entry}
            for case, entry in value.items()
        }
    return value


def read_plan(data: DatasetFolder) -> Plan:
    """Read the plan of a prepared data set.

    Raises:
        StateError: it is damaged, or was written by another version.
    """
    content = read_json(data.plan_file, {"schema_version?": object})
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
    require_shape(content, SHAPE, data.plan_file)
    plan = Plan(content)
    with refusing_nonsense(data.plan_file):
        plan.settings.as_dict()
        for case, planned in plan.cases.items():
            inside = [file.relative_to(plan.root) for file in (*planned.files, planned.label) if file is not None]
            if refuse_case_id(case, "") or any(".." in file.parts for file in inside):
                raise ValueError(f"case {case!r}")
    return plan


def require_whole(plan: Plan, data: DatasetFolder) -> None:
    """Make sure that a plan on file has all that is needed to prepare data and to train with it.

    Raises:
        StateError: it is damaged.
    """
    require_shape(plan.content, _WHOLE_SHAPE, data.plan_file)
    require_trusted(plan.nnunet, plan.dataset_json, data.plan_file)
    known = plan.nnunet["configurations"].keys() & plan.content["step_memory_gb"].keys()
    with refusing_nonsense(data.plan_file):
        estimate_plan(plan)
        if missing := {plan.configuration, *plan.nnunet["configurations"]} - known:
            raise LookupError(f"configuration {min(missing)}")


def require_current(plan: Plan, data: DatasetFolder) -> None:
    """Make sure that ``plan`` is still that of the data set, after a wait for who plans.

    Raises:
        StateError: it was planned anew meanwhile.
    """
    if not read_plan(data).equals(plan):
        what, fix = "the data set was planned anew meanwhile", "repeat the command"
        raise StateError(Problem("plan.made-anew", what, str(data.plan_file), fix))


def write_plan(data: DatasetFolder, content: Mapping[str, Any]) -> Plan:
    """Write a plan and the files that nnU-Net expects beside it; ``plan.json`` last, since it says that all is there.

    In a folder that nnU-Net has made of the same data set, its own files stay.
    """
    beside = {"dataset.json": content["dataset_json"], "dataset_fingerprint.json": content["fingerprint"]}
    for name, value in beside.items():
        if not content.get("shared") or not (data.path / name).is_file():
            write_json(data.path / name, value)
    write_json(data.plan_file, dict(content))
    return Plan(dict(content))


def store_key(plans: Mapping[str, Any], configuration: str) -> str:
    """Return the name of the case store that ``plans`` need: equal for equal preprocessing, different otherwise."""
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
    of_labels = [chosen.get("resampling_fn_seg"), chosen.get("resampling_fn_seg_kwargs")]
    if of_labels not in (_RESAMPLED_LABELS, [None, None]):
        decisive["resampling of labels"] = of_labels
    if chosen.get("preprocessor_name", STOCK_PREPROCESSOR) != STOCK_PREPROCESSOR:
        decisive["preprocessor"] = chosen["preprocessor_name"]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    return f"{configuration}_{digest}"


@dataclass(frozen=True)
class PlanEstimate:
    """The room that the preprocessed images take at most, in MB (2^20 bytes), and nnU-Net's own commands."""

    store_mb: int
    commands: tuple[str, ...]


def estimate_plan(plan: Plan) -> PlanEstimate:
    """Estimate the case store of the plan's configuration, before it is compressed."""
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
    if plan.settings.pretrained is not None:  # nnU-Net would plan another network
        return PlanEstimate(math.ceil(size / 2**20), ())
    if plan.settings.plans_file is None:
        command += ["-pl", _PLANNERS[plan.settings.planner], "-gpu_memory_target", f"{plan.settings.memory_gb:g}"]
    return PlanEstimate(math.ceil(size / 2**20), (shlex.join(command),))
