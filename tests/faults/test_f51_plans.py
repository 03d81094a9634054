"""F51: plans and dataset.json that name code, or are of no possible size, are refused before anything is imported."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from refusal import refused
from tiny_model import DESCRIPTION, PLANS, make_model

from pcl_auto.errors import StateError
from pcl_auto.nnunet import trusted_plans
from pcl_auto.nnunet.trusted_plans import require_trusted

CONFIGURATION = "configurations.3d_fullres"
NETWORK = f"{CONFIGURATION}.architecture"
FINGERPRINT: dict[str, Any] = {
    "spacings": [[3.6, 0.625, 0.625]] * 32,
    "shapes_after_crop": [[20, 320, 320]] * 32,
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 0.0, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 1.0}
    },
    "median_relative_size_after_cropping": 1.0,
}


def changed(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(content)
    *path, last = key.split(".")
    entry = result
    for name in path:
        entry = entry[name]
    entry[last] = value
    return result


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{NETWORK}.network_class_name", "os.system"),
        (f"{NETWORK}.network_class_name", "evil.PlainConvUNet"),
        (f"{NETWORK}.network_class_name", None),
        (f"{NETWORK}.arch_kwargs.conv_op", "os.system"),
        (f"{NETWORK}.arch_kwargs.norm_op", "builtins.eval"),
        (f"{NETWORK}.arch_kwargs.nonlin", "evil.Act"),
        (f"{NETWORK}.arch_kwargs.nonlin_kwargs", {"num_parameters": 10**12}),
        (f"{NETWORK}.arch_kwargs.input_channels", "os.system"),
        (f"{NETWORK}._kw_requires_import", ["conv_op", "features_per_stage"]),
        (f"{NETWORK}.arch_kwargs.n_stages", 10**6),
        (f"{NETWORK}.arch_kwargs.features_per_stage", [4, 10**9]),
        (f"{NETWORK}.arch_kwargs.features_per_stage", 10**9),
        (f"{NETWORK}.arch_kwargs.features_per_stage", [4, 8, 16]),
        (f"{NETWORK}.arch_kwargs.kernel_sizes", [[3, 3, 3], [999, 999, 999]]),
        (f"{NETWORK}.arch_kwargs.strides", [[1, 1, 1], [0, 0, 0]]),
        (f"{NETWORK}.arch_kwargs.n_conv_per_stage", [1, 10**9]),
        (f"{CONFIGURATION}.patch_size", [10**6, 10**6, 10**6]),
        (f"{CONFIGURATION}.patch_size", [16384, 16384, 16384]),
        (f"{CONFIGURATION}.patch_size", [8, -8, 8]),
        (f"{CONFIGURATION}.patch_size", "8"),
        (f"{CONFIGURATION}.batch_size", 10**9),
        (f"{CONFIGURATION}.batch_size", True),
        (f"{CONFIGURATION}.spacing", [1e-12, 1, 1]),
        (f"{CONFIGURATION}.spacing", [float("nan"), 1, 1]),
        (f"{CONFIGURATION}.preprocessor_name", "join"),
        (f"{CONFIGURATION}.normalization_schemes", ["os"]),
        (f"{CONFIGURATION}.normalization_schemes", ["ZScoreNormalization"] * 2),
        (f"{CONFIGURATION}.resampling_fn_data", "Union"),
        (f"{CONFIGURATION}.resampling_fn_seg", ["os.system"]),
        (f"{CONFIGURATION}.resampling_fn_probabilities_kwargs", {"fn": "os.system"}),
        (f"{CONFIGURATION}.data_identifier", "../../evil"),
        (f"{CONFIGURATION}.data_identifier", "/etc"),
        (f"{CONFIGURATION}.previous_stage", "../../evil"),
        (f"{CONFIGURATION}.inherits_from", "3d_fullres"),
        (f"{CONFIGURATION}.inherits_from", "nowhere"),
        ("configurations", []),
        ("image_reader_writer", "os"),
        ("label_manager", "join"),
        ("plans_name", "../../evil"),
        ("dataset_name", "/evil"),
        ("transpose_forward", [0, 0, 7]),
    ],
)
def test_f51_plans_are_refused(key: str, value: Any) -> None:
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(changed(PLANS, key, value), DESCRIPTION, "model")
    assert all(problem.where.startswith("the plans of model: ") for problem in refusal.problems)


def test_f51_a_configuration_is_called_by_a_plain_name() -> None:
    configurations = {"../evil": PLANS["configurations"]["3d_fullres"]}
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted({**PLANS, "configurations": configurations}, DESCRIPTION, "model")
    assert (refusal.problem.expected, refusal.problem.found) == ("a plain name", "'../evil'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("overwrite_image_reader_writer", "os.system"),
        ("labels", {"gland": 1}),
        ("labels", {"background": 0, "gland": 10**9}),
        ("labels", {"background": 0, **{str(number): number for number in range(1, 5000)}}),
        ("labels", "background"),
        ("channel_names", {}),
        ("regions_class_order", "eval"),
    ],
)
def test_f51_a_description_is_refused(key: str, value: Any) -> None:
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(PLANS, changed(DESCRIPTION, key, value), "model")
    assert any(problem.where.startswith(f"dataset.json of model: {key}") for problem in refusal.problems)


def test_f51_what_is_no_object_is_refused() -> None:
    unusable: list[Any] = [None, [], "plans", 5]
    for content in unusable:
        with refused(StateError, "model.untrusted"):
            require_trusted(content, DESCRIPTION, "model")
        with refused(StateError, "model.untrusted"):
            require_trusted(PLANS, content, "model")


def test_f51_everything_is_listed_at_once() -> None:
    plans = changed(changed(PLANS, "label_manager", "os"), f"{CONFIGURATION}.batch_size", 0)
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(plans, changed(DESCRIPTION, "overwrite_image_reader_writer", "os"), "model")
    assert [problem.where.split(": ")[1] for problem in refusal.problems] == [
        "label_manager", f"{CONFIGURATION}.batch_size", "overwrite_image_reader_writer",
    ]  # fmt: skip


def test_f51_the_network_as_a_whole_is_of_a_possible_size() -> None:
    plans = changed(PLANS, f"{NETWORK}.arch_kwargs.features_per_stage", [8192, 8192])
    plans = changed(plans, f"{NETWORK}.arch_kwargs.n_conv_per_stage", 64)
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(plans, DESCRIPTION, "model")
    assert refusal.problem.expected == "at most 2e+09 weights"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_reader_writer", "NibabelIOWithReorient"),
        (f"{CONFIGURATION}.next_stage", ["3d_fullres"]),
        (f"{CONFIGURATION}.data_identifier", "splits/L2_s0/labeled_3d_fullres"),
        (f"{CONFIGURATION}.use_mask_for_norm", [True]),
        (f"{CONFIGURATION}.pclauto", {"recipe": {}}),
        (f"{NETWORK}.arch_kwargs.nonlin", "torch.nn.modules.activation.GELU"),
        (f"{NETWORK}.arch_kwargs.nonlin_kwargs", None),
        (f"{NETWORK}.arch_kwargs.norm_op", "torch.nn.BatchNorm3d"),
        (f"{NETWORK}.arch_kwargs.dropout_op", "torch.nn.Dropout3d"),
        (f"{NETWORK}.arch_kwargs.dropout_op_kwargs", {"p": 0.1, "inplace": True}),
        (f"{NETWORK}.arch_kwargs.n_conv_per_stage_decoder", 1),
        (f"{NETWORK}.arch_kwargs.features_per_stage", [64, 1024]),
        ("configurations.3d_mine", {"inherits_from": "3d_fullres", "batch_size": 12}),
    ],
)
def test_f51_what_users_edit_is_accepted(key: str, value: Any) -> None:
    require_trusted(changed(PLANS, key, value), DESCRIPTION, "model")


def test_f51_regions_and_an_ignore_label_are_accepted() -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    require_trusted(PLANS, {**DESCRIPTION, "labels": labels, "regions_class_order": [1, 2]}, "model")


PLANNERS = [
    "default_experiment_planner.ExperimentPlanner",
    "residual_unets.residual_encoder_unet_planners.nnUNetPlannerResEncM",
    "residual_unets.residual_encoder_unet_planners.nnUNetPlannerResEncL",
    "residual_unets.residual_encoder_unet_planners.nnUNetPlannerResEncXL",
    "resampling.resample_with_torch.nnUNetPlannerResEncL_torchres",
    "resampling.resample_with_torch.nnUNetPlannerResEncL_torchres_sepz",
    "resampling.planners_no_resampling.nnUNetPlannerResEncL_noResampling",
]


@pytest.mark.filterwarnings("ignore:WARNING. You are running nnUNetPlanner")  # on less memory than it is named for
@pytest.mark.parametrize("name", PLANNERS)
def test_f51_what_nnunets_planners_write_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pcl_auto.nnunet.planning import planner

    module, kind = name.rsplit(".", 1)
    found = getattr(importlib.import_module(f"nnunetv2.experiment_planning.experiment_planners.{module}"), kind)
    monkeypatch.setitem(planner.PLANNERS, kind, found)
    description = {**DESCRIPTION, "channel_names": {"0": "CT", "1": "rescale_to_0_1", "2": "nonorm", "3": "T2"}}
    fingerprint = {
        **FINGERPRINT,
        "foreground_intensity_properties_per_channel": {
            str(channel): FINGERPRINT["foreground_intensity_properties_per_channel"]["0"] for channel in range(4)
        },
    }
    plans, _ = planner.plan_network(
        "Dataset005_Prostate", description, fingerprint, planner=kind, memory_gb=8, min_patches=2
    )
    for read in (plans, json.loads(json.dumps(plans))):
        require_trusted(read, description, "model")


def test_f51_every_name_of_nnunet_that_is_accepted_exists_and_none_is_missing() -> None:
    import nnunetv2.preprocessing.normalization.map_channel_name_to_normalization as schemes
    from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name

    known = {scheme.__name__ for scheme in schemes.channel_name_to_normalization_mapping.values()}
    assert known == trusted_plans.NORMALIZATIONS
    assert all(map(recursive_find_resampling_fn_by_name, trusted_plans.RESAMPLINGS))
    names = {*trusted_plans.NETWORKS, *(name for names in trusted_plans.LAYERS.values() for name in names)}
    for name in names:
        module, kind = name.rsplit(".", 1)
        if not module.endswith("residual_unet"):
            assert isinstance(getattr(importlib.import_module(module), kind), type)


@pytest.mark.parametrize(
    "key",
    [f"{NETWORK}.network_class_name", f"{NETWORK}.arch_kwargs.conv_op", f"{CONFIGURATION}.preprocessor_name"],
)
def test_f51_a_model_folder_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    import torch

    from pcl_auto.nnunet.inference.predictor import ModelPredictor

    canary = tmp_path / "canary"
    (tmp_path / "evil_f51.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Net: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = make_model(tmp_path / "model")
    (model / "plans.json").write_text(json.dumps(changed(PLANS, key, "evil_f51.Net")))
    with refused(StateError, "model.untrusted"):
        ModelPredictor(model, torch.device("cpu"))
    assert not canary.exists()
    assert "evil_f51" not in sys.modules
    # And the canary would have sung.
    importlib.import_module("evil_f51")
    assert canary.exists()
    del sys.modules["evil_f51"]


def test_f51_edited_plans_do_not_reach_training_or_preprocessing() -> None:
    import torch

    from pcl_auto.nnunet.data.store import Preprocessing
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

    bad = changed(PLANS, f"{CONFIGURATION}.resampling_fn_data", "os")
    with refused(StateError, "model.untrusted") as refusal:
        Preprocessing(bad, "3d_fullres", DESCRIPTION)
    assert refusal.problem.where.endswith("resampling_fn_data")
    with refused(StateError, "model.untrusted") as refusal:
        nnUNetTrainerPCLSupervised(
            {**bad, "continue_training": False}, "3d_fullres", "all", DESCRIPTION, torch.device("cpu")
        )
    assert refusal.problem.where.endswith("resampling_fn_data")
