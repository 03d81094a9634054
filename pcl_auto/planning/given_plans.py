"""nnU-Net plans that are there already: made by nnU-Net, or changed by hand, and taken as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.planning.plan import CONFIGURATIONS
from pcl_auto.workspace.folders import DatasetFolder


def find_plans(name: str, data: DatasetFolder) -> Path:
    """The plans file called ``name``: a path, or nnU-Net's name of plans of this data set (nnUNetResEncUNetMPlans).

    Raises:
        UsageError: there is no such file; the plans that are there are named.
    """
    for candidate in (Path(name), data.plans_file(name)):
        if candidate.is_file():
            return candidate.resolve()
    there = sorted(file.stem for file in data.path.glob("*.json") if "plans" in file.stem.lower())
    raise UsageError(
        Problem(
            code="plan.unknown-plans",
            what=f"no plans {name!r}",
            where=str(data.path),
            expected=" | ".join(there) or "a plans file",
            fix="name one of these, or a file, with --plans",
        )
    )


def read_plans(file: Path, data: DatasetFolder, dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Plans for the images of a data set, without cascades, every configuration spelled out.

    Raises:
        StateError: no plans of nnU-Net, or for images of other channels.
    """
    from pcl_auto.nnunet.planning.planner import spelled_out
    from pcl_auto.nnunet.trusted import require_trusted

    try:
        plans: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StateError(_unusable(file, "JSON", str(error))) from error
    require_trusted(plans, dataset_json, file)
    channels = len(dataset_json["channel_names"])
    plans["configurations"] = {
        name: spelled_out(plans, name) for name in CONFIGURATIONS if name in plans["configurations"]
    }
    if not plans["configurations"]:
        raise StateError(_unusable(file, " | ".join(CONFIGURATIONS), "none of them"))
    planned = {name: len(entry["normalization_schemes"]) for name, entry in plans["configurations"].items()}
    if set(planned.values()) != {channels}:
        found = ", ".join(f"{name} {number}" for name, number in planned.items())
        raise StateError(_unusable(file, f"plans for {channels} channels", found))
    plans["dataset_name"], plans["image_reader_writer"] = data.name, "SimpleITKIO"
    return plans


def _unusable(file: Path, expected: str, found: str) -> Problem:
    return Problem(
        "plan.unfit", "plans do not fit", str(file), "name other plans with --plans, or leave it out", expected, found
    )
