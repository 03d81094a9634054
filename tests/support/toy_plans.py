"""Plans as they lie in plan.json, of data sets that nobody had to plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl_auto.planning.plan import SCHEMA_VERSION, PlanSettings


def toy_plan(
    root: Path,
    dataset: str,
    cases: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    configurations: Sequence[str] = ("3d_fullres",),
) -> dict[str, Any]:
    """Return the content of a plan.

    Args:
        root: of the data set.
        dataset: nnU-Net's name of it: Dataset005_Toy.
        cases: as a plan has them.
        dataset_json: nnU-Net's description.
        configurations: that were planned.
    """
    number, _, name = dataset.removeprefix("Dataset").partition("_")
    return {
        "schema_version": SCHEMA_VERSION,
        "task": {"root": str(root), "name": name, "number": int(number)},
        "settings": PlanSettings().as_dict(),
        "configuration": "3d_fullres",
        "cases": dict(cases),
        "dataset_json": dict(dataset_json),
        "fingerprint": {},
        "nnunet_plans": {"dataset_name": dataset, "configurations": {each: {} for each in configurations}},
    }
