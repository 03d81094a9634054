"""Write a run's folder with its text files alone: enough for all of a report but the pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from pcl_auto.report.tables import default_recipe
from pcl_auto.training.request import JOINT_TRAINER

RECIPE = {"name": "tiny", "description": "a few steps", **default_recipe()}
RECIPE["schedule"] = {"steps_per_epoch": 2, "supervised_epochs": 1, "rounds": 2, "epochs_per_round": 1}


def write_run(
    results: Path,
    *,
    trainer: str = JOINT_TRAINER,
    recipe_values: dict[str, Any] = RECIPE,
    cases: tuple[str, ...] = ("c", "d", "e"),
    classes: tuple[str, ...] = ("core", "shell"),
    happened: Sequence[dict[str, Any]] = (),
    **identity: Any,
) -> Path:
    """Write a finished run of 3 epochs and 2 rounds, with the events ``happened`` besides; return its model folder."""
    model = results / "Dataset001_X" / f"{trainer}__nnUNetPlans_tiny__3d_fullres"
    folder = model / "fold_all"
    split = {"name": "L2_s0", "seed": 0, "labeled": ["a", "b"], "validation": [], "unlabeled": cases, "hidden": cases}
    record = {
        "identity": {
            "dataset": "Dataset001_X", "configuration": "3d_fullres", "trainer": trainer, "split": split, "seed": 0,
            "recipe": recipe_values, "deterministic": False, "fold": "all", "plan": "p", "input": "i", **identity,
        },
        "command": ["/bin/pclauto", "train", "--labeled", "2"],
        "versions": {"pclauto": "1", "torch": "2"}, "device": "cpu", "last_start": "2026-01-01T00:00:00",
        "outputs": {},
    }  # fmt: skip
    plans = {
        "transpose_forward": [0, 1, 2],
        "original_median_spacing_after_transp": [1, 1, 1],
        "configurations": {
            "3d_fullres": {
                "patch_size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0], "batch_size": 4, "normalization_schemes": ["Z"],
                "architecture": {
                    "network_class_name": "a.Net", "arch_kwargs": {"n_stages": 2, "features_per_stage": [4]},
                },
                "pclauto": {"store": "s"},
            }
        },
    }  # fmt: skip
    dataset = {"channel_names": {"0": "T2"}, "labels": {"background": 0, **{n: i + 1 for i, n in enumerate(classes)}}}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(dataset))
    epoch = {"event": "epoch", "seconds": 2.0, "patch_dice": [0.5, None], "patch_dice_of": "labeled cases"}
    drawn = {"event": "pseudo_labels", "cases": len(cases), "outside_labeled_range": 0, "vanished": []}
    events: list[dict[str, Any]] = [
        {**epoch, "epoch": 1, "losses": {"loss": 1.0}},
        {**drawn, "round": 1, "used": len(cases), "dice_to_last_round": None},
        {**epoch, "epoch": 2, "losses": {"loss": 0.5, "contrast": 2.0}},
        {**drawn, "round": 2, "used": len(cases) - 1, "dice_to_last_round": 0.8772},
        {**epoch, "epoch": 3, "losses": {"loss": 0.25, "contrast": 1.5}},
        *happened,
        {"event": "trained", "epochs": 3, "seconds": 4.5, "memory_mb": 321},
    ]
    lines = [json.dumps({"time": "2026-01-01T00:00:00+00:00", **event}) for event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + '\n{"event": "cut o')
    for number in (1, 2):
        ledger = folder / "pseudo_labels" / f"round_{number}" / "ledger.csv"
        (ledger.parent / "cases").mkdir(parents=True)
        dice = cycle([""] if number == 1 else ["0.7", "0.9", "0.8"])
        with ledger.open("w", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(["case", "volume_ml_core", "dice_to_last_round", "used", "remarks"])
            writer.writerows(
                [case, 1.5, value, int(value != "0.7"), ""] for case, value in zip(cases, dice, strict=False)
            )
    return model


def write_scores(
    model: Path, dice: dict[str, float], *, labels: str = "labelsTs", mirroring: bool = True, **more: Any
) -> None:
    """Put an evaluation with these Dice scores by case on record with a model."""
    content = {
        "time": "2026-01-01", "predictions": "gone", "labels": labels, "mirroring": mirroring,
        "mean": {"dice": sum(dice.values()) / len(dice), "hd95_mm": None},
        "per_class": {"1": {"dice": {"mean": 0.4321}, "hd95_mm": {"mean": None}}},
        "cases": [{"id": case, "dice": {"1": value}, "hd95_mm": {"1": None}} for case, value in dice.items()],
        **more,
    }  # fmt: skip
    (model / "evaluations").mkdir(exist_ok=True)
    (model / "evaluations" / f"{Path(labels).name}_{mirroring}.json").write_text(json.dumps(content))
