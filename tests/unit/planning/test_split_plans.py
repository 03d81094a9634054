"""The images of a split: which store they are in, and whether they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pcl_auto.data.case import Case
from pcl_auto.data.split import Correction, Split
from pcl_auto.nnunet.data import store, store_records
from pcl_auto.nnunet.data.store_records import write_record
from pcl_auto.planning.make_plan import image_digests, neutral_intensities
from pcl_auto.planning.plan import Plan, store_key
from pcl_auto.planning.split_plans import is_preprocessed, with_recipe
from pcl_auto.recipe.settings import Contrast, Recipe
from pcl_auto.workspace.folders import DatasetFolder

CONFIGURATION = {
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample",
    "resampling_fn_data_kwargs": {},
}


def ct_plan() -> Plan:
    case: dict[str, Any] = {"label": "l.nii", "source": "training", "size": 1, "mtime_ns": 2, "shape": [1, 1, 1]}
    return Plan(
        {
            "task": {"root": "task"},
            "cases": {name: {**case, "image": f"{name}.nii"} for name in ("a", "b")},
            "dataset_json": {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}},
            "nnunet_plans": {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": CONFIGURATION}},
        }
    )


def test_a_corrected_case_does_not_decide_which_store_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave corrected labels out of a CT store, which depends on labels, in a training and in its dry run."""
    read: list[str] = []

    def intensities(cases: Sequence[Case], channels: int, _ignored: int | None) -> dict[str, dict[str, float]]:
        read.extend(case.id for case in cases)
        return neutral_intensities(channels)

    monkeypatch.setattr(store, "foreground_intensities", intensities)
    corrected = Correction("b", "0" * 64, "L1_s0", "model", 1)
    split = Split("L1_s0_plus1", 0, ("a", "b"), (), (), (), (corrected,))
    data, plan = DatasetFolder(tmp_path / "Dataset001_Organ"), ct_plan()
    assert not is_preprocessed(plan, split, data, "3d_fullres")
    assert read == ["a"]
    plans = {**plan.nnunet, "foreground_intensity_properties_per_channel": neutral_intensities(1)}
    folder = data.store(store_key(plans, "3d_fullres"))
    folder.mkdir(parents=True)
    for case, image in image_digests(plan, None).items():
        for file in store_records.case_files(folder, case):
            file.touch()
        write_record(folder, case, image, {})
    assert is_preprocessed(plan, split, data, "3d_fullres")


@pytest.mark.parametrize(("planned", "expected"), [([2, 2, 1], [2, 2, 4]), (2, [2, 2, 5])])
def test_the_convolutions_of_the_head_come_after_the_planned_ones(
    planned: list[int] | int, expected: list[int]
) -> None:
    network = {"n_stages": 4, "features_per_stage": [32, 64, 128, 256], "n_conv_per_stage_decoder": planned}
    configuration = {"batch_size": 2, "architecture": {"arch_kwargs": network}}
    recipe = Recipe("mine", contrast=Contrast(head_convolutions=3))
    changed = with_recipe(configuration, recipe)
    assert changed["architecture"]["arch_kwargs"] == {**network, "n_conv_per_stage_decoder": expected}
    assert network["n_conv_per_stage_decoder"] is planned
    assert with_recipe(configuration, Recipe("other")) == configuration
