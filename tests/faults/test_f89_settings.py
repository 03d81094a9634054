"""F89: every setting of a model's files is honored as stock nnU-Net honors it, or the model is refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nnunetv2
import numpy as np
import pytest
import SimpleITK
import torch
from refusal import refused
from stock import stock_mask
from tiny_model import DESCRIPTION, PLANS, RESAMPLING

from pcl_auto.cli.commands.predict import predict as command
from pcl_auto.errors import StateError
from pcl_auto.inference.mask_record import read_record
from pcl_auto.inference.predict import predict
from pcl_auto.nnunet import checkpoint_settings
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.nnunet.planning.planner import read_plans
from pcl_auto.nnunet.trusted_plans import require_trusted

FULL = PLANS["configurations"]["3d_fullres"]
CONV = "torch.nn.modules.conv.Conv2d"
TORCH = {
    f"resampling_fn_{kind}{part}": value
    for kind in ("data", "seg", "probabilities")
    for part, value in (("", "resample_torch_fornnunet"), ("_kwargs", {"is_seg": kind == "seg", "num_threads": 1}))
}
NONE: dict[str, Any] = {
    f"resampling_fn_{kind}{part}": value
    for kind in ("data", "seg", "probabilities")
    for part, value in (("", "no_resampling_hack"), ("_kwargs", {}))
}
CT = {"0": {"mean": 95.0, "std": 21.0, "percentile_00_5": 70.0, "percentile_99_5": 150.0}}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
FLAT = {
    "patch_size": [8, 8],
    "spacing": [1.5, 1.0],
    "median_image_size_in_voxels": [8.0, 8.0],
    "architecture": {
        **FULL["architecture"],
        "arch_kwargs": {
            **FULL["architecture"]["arch_kwargs"],
            "conv_op": CONV,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "kernel_sizes": [[3, 3], [3, 3]],
            "strides": [[1, 1], [2, 2]],
        },
    },
}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(base), **change}


def model_of(
    folder: Path,
    *,
    plans: dict[str, Any] | None = None,
    configuration: dict[str, Any] | None = None,
    description: dict[str, Any] | None = None,
    checkpoint: dict[str, Any] | None = None,
    folds: tuple[str, ...] = ("all",),
) -> Path:
    """A model of two classes, or of the description's, with changed settings, and a network for them for each fold."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    whole = merged(PLANS, plans or {})
    whole["configurations"]["3d_fullres"].update(copy.deepcopy(configuration or {}))
    described = {**merged(DESCRIPTION, description or {})}
    described = {key: value for key, value in described.items() if value is not None}
    state = {
        "init_args": {"configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
        **(checkpoint or {}),
    }
    manager = PlansManager(copy.deepcopy(whole))
    chosen = manager.get_configuration(state["init_args"]["configuration"])
    trainer = checkpoint_settings._trainer(state["trainer_name"], Path("a"))
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        network = trainer.build_network_architecture(
            manager,
            chosen,
            determine_num_input_channels(manager, chosen, described),
            manager.get_label_manager(described).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save({**state, "network_weights": network.state_dict()}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(whole))
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan with an empty border, not the same in any two directions, with voxels of 1, 1.5 and 2 mm."""
    voxels = np.random.default_rng(1).normal(100, 20, (12, 10, 9)).clip(1, 250).astype(np.float32)
    voxels[:5] += 5
    voxels[0], voxels[:, :2] = 0, 0
    file = tmp_path_factory.mktemp("f89") / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.5, 2.0, 1.0])), file)
    return file


HONORED: dict[str, dict[str, Any]] = {
    "transpose_forward, transpose_backward": {
        "plans": {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]},
        "configuration": {"spacing": [1.0, 2.0, 1.5]},
    },
    "spacing": {"configuration": {"spacing": [1.3, 1.1, 0.9]}},
    "patch_size": {"configuration": {"patch_size": [8, 6, 10]}},
    "2D": {"configuration": FLAT},
    "inherits_from": {
        "plans": {
            "configurations": {"3d_fullres": FULL, "mine": {"inherits_from": "3d_fullres", "spacing": [2, 2, 2]}}
        },
        "checkpoint": {"init_args": {"configuration": "mine"}},
    },
    "CTNormalization": {
        "plans": {"foreground_intensity_properties_per_channel": CT},
        "configuration": {"normalization_schemes": ["CTNormalization"]},
    },
    "the older name of the intensities": {
        "plans": {"foreground_intensity_properties_by_modality": CT},
        "configuration": {"normalization_schemes": ["CTNormalization"]},
    },
    "NoNormalization": {"configuration": {"normalization_schemes": ["NoNormalization"]}},
    "RescaleTo01Normalization": {"configuration": {"normalization_schemes": ["RescaleTo01Normalization"]}},
    "RGBTo01Normalization": {"configuration": {"normalization_schemes": ["RGBTo01Normalization"]}},
    "use_mask_for_norm": {"configuration": {"use_mask_for_norm": [True]}},
    "order, order_z": {
        "configuration": {
            "resampling_fn_data_kwargs": {**RESAMPLING, "order": 3},
            "resampling_fn_probabilities_kwargs": {**RESAMPLING, "force_separate_z": True, "order_z": 1},
        }
    },
    "resample_torch_fornnunet": {"configuration": TORCH},
    "no_resampling_hack": {"configuration": NONE},
    "labels of regions, ignored voxels": {"description": {"labels": REGIONS, "regions_class_order": [1, 2]}},
    "modality": {"description": {"channel_names": None, "modality": {"0": "T2"}}},
    "a list of one value": {"description": {"labels": {"background": 0, "gland": [1]}}},
    "inference_allowed_mirroring_axes": {"checkpoint": {"inference_allowed_mirroring_axes": (0, 2)}},
    "a trainer of nnU-Net": {"checkpoint": {"trainer_name": "nnUNetTrainerNoMirroring"}},
    "a trainer with another network": {"checkpoint": {"trainer_name": "nnUNetTrainerBN"}},
    "folds": {"folds": ("0", "1", "3")},
}


@pytest.mark.parametrize("name", HONORED)
def test_f89_masks_are_those_of_stock_nnunet(name: str, tmp_path: Path, scan: Path) -> None:
    change = HONORED[name]
    model = model_of(tmp_path / "model", **change)
    if name == "the older name of the intensities":
        plans = json.loads((model / "plans.json").read_text())
        del plans["foreground_intensity_properties_per_channel"]
        (model / "plans.json").write_text(json.dumps(plans))
    mirroring = "mirroring" in name
    (result,) = predict([scan], tmp_path / "out", model, device="cpu", mirroring=mirroring, listener=lambda *_: None)
    assert result.output is not None, result.error
    folds = change.get("folds", ("all",))
    expected = stock_mask(model, [scan], tmp_path / "stock" / "a", folds=folds, mirroring=mirroring)
    ours, theirs = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) for file in (result.output, expected))
    np.testing.assert_array_equal(ours, theirs)
    assert 0 < ours.mean() < ours.max()


def test_f89_a_model_of_all_cases_does_not_join_the_folds(tmp_path: Path, scan: Path) -> None:
    model = model_of(tmp_path / "model", folds=("all", "1", "10", "2", "backup"))
    predictor = ModelPredictor(model, torch.device("cpu"), mirroring=False)
    assert len(predictor._weights) == 3
    expected = stock_mask(model, [scan], tmp_path / "stock" / "a", folds=("1", "2", "10"))
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(expected)))
    np.testing.assert_array_equal(predictor.segment([scan]).mask, theirs)


CONFIGURATION = "configurations.3d_fullres"
REFUSED_PLANS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("transpose_backward", {"transpose_forward": [2, 0, 1], "transpose_backward": [2, 0, 1]}, {}),
    ("transpose_forward", {"transpose_forward": [0, 1], "transpose_backward": [0, 1]}, {}),
    ("transpose_backward[2]", {"transpose_backward": [0, 1, True]}, {}),
    ("foreground_intensity_properties_per_channel", {"foreground_intensity_properties_per_channel": []}, {}),
    ("foreground_intensity_properties_per_channel.0", {"foreground_intensity_properties_per_channel": {}}, {}),
    ("foreground_intensity_properties_per_channel.0", {}, {"normalization_schemes": ["CTNormalization"]}),
    (
        "foreground_intensity_properties_per_channel.0",
        {"foreground_intensity_properties_per_channel": {"0": {**CT["0"], "std": float("nan")}}},
        {"normalization_schemes": ["CTNormalization"]},
    ),
    (
        "foreground_intensity_properties_per_channel.0",
        {"foreground_intensity_properties_per_channel": {"0": {**CT["0"], "percentile_99_5": 10**400}}},
        {"normalization_schemes": ["CTNormalization"]},
    ),
    (f"{CONFIGURATION}.spacing", {}, {"spacing": [1.0, 1.0]}),
    (f"{CONFIGURATION}.patch_size", {}, {"patch_size": [8]}),
    (f"{CONFIGURATION}.median_image_size_in_voxels", {}, {"median_image_size_in_voxels": [8, 8, None]}),
    (f"{CONFIGURATION}.batch_dice", {}, {"batch_dice": None}),
    (f"{CONFIGURATION}.resampling_fn_data", {}, {"resampling_fn_data": "resample_torch_simple"}),
    (f"{CONFIGURATION}.resampling_fn_data_kwargs", {}, {"resampling_fn_data_kwargs": {"num_threads": 4}}),
    (f"{CONFIGURATION}.resampling_fn_data_kwargs", {}, {"resampling_fn_data_kwargs": None}),
    (f"{CONFIGURATION}.resampling_fn_data_kwargs.order", {}, {"resampling_fn_data_kwargs": {"order": 6}}),
    (f"{CONFIGURATION}.resampling_fn_data_kwargs.order", {}, {"resampling_fn_data_kwargs": {"order": True}}),
    (f"{CONFIGURATION}.resampling_fn_data_kwargs.is_seg", {}, {"resampling_fn_data_kwargs": {"is_seg": True}}),
    (f"{CONFIGURATION}.resampling_fn_seg_kwargs.is_seg", {}, {"resampling_fn_seg_kwargs": {}}),
    (
        f"{CONFIGURATION}.resampling_fn_data_kwargs.separate_z_anisotropy_threshold",
        {},
        {"resampling_fn_data_kwargs": {"separate_z_anisotropy_threshold": -1}},
    ),
    (
        f"{CONFIGURATION}.resampling_fn_data_kwargs.device",
        {},
        {**TORCH, "resampling_fn_data_kwargs": {"device": "cuda"}},
    ),
    (f"{CONFIGURATION}.resampling_fn_data_kwargs.mode", {}, {**TORCH, "resampling_fn_data_kwargs": {"mode": "cubic"}}),
    (f"{CONFIGURATION}.resampling_fn_seg_kwargs", {}, {**NONE, "resampling_fn_seg_kwargs": {"is_seg": True}}),
    (f"{CONFIGURATION}.architecture.arch_kwargs.conv_op", {}, {**FLAT, "patch_size": [8, 8, 8], "spacing": [1, 1, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "plans", "configuration"), REFUSED_PLANS)
def test_f89_what_plans_must_not_say(key: str, plans: dict[str, Any], configuration: dict[str, Any]) -> None:
    changed = merged(PLANS, plans)
    changed["configurations"]["3d_fullres"].update(configuration)
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(changed, DESCRIPTION, "model")
    assert f"the plans of model: {key}" in [problem.where for problem in refusal.problems]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"n_blocks_per_stage": [1, 1]}, "n_blocks_per_stage"),
        ({"n_conv_per_stage": None}, "n_conv_per_stage[0]"),
        ({"kernel_sizes": [[3, 3], [3, 3]]}, "kernel_sizes[0]"),
        ({"norm_op": "torch.nn.InstanceNorm2d"}, "norm_op"),
        ({"norm_op_kwargs": {"eps": "x"}}, "norm_op_kwargs.eps"),
        ({"norm_op_kwargs": {"eps": -5}}, "norm_op_kwargs.eps"),
        ({"norm_op_kwargs": {"affine": 1}}, "norm_op_kwargs.affine"),
        ({"nonlin_kwargs": {"negative_slope": "a"}}, "nonlin_kwargs.negative_slope"),
        ({"nonlin_kwargs": {"negative_slope": float("nan")}}, "nonlin_kwargs.negative_slope"),
    ],
)
def test_f89_what_a_network_must_not_be(change: dict[str, Any], expected: str) -> None:
    changed = copy.deepcopy(PLANS)
    changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(change)
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(changed, DESCRIPTION, "model")
    key = f"the plans of model: {CONFIGURATION}.architecture.arch_kwargs.{expected}"
    assert key in [problem.where for problem in refusal.problems]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("labels", {"labels": {"background": 0, "a": 2}}),
        ("labels", {"labels": {"background": 0, "a": 1, "b": 1}}),
        ("labels.ignore", {"labels": {"background": 0, "a": 1, "ignore": 3}}),
        ("labels.ignore", {"labels": {"background": 0, "a": 1, "ignore": [2]}}),
        ("regions_class_order", {"labels": REGIONS}),
        ("regions_class_order", {"labels": REGIONS, "regions_class_order": [1]}),
        ("regions_class_order", {"labels": REGIONS, "regions_class_order": [1, 300]}),
        ("labels.empty", {"labels": {**REGIONS, "empty": 0}, "regions_class_order": [1, 2]}),
        ("channel_names", {"channel_names": ["T2"]}),
        ("channel_names.0", {"channel_names": {"0": 2}}),
        ("modality", {"modality": {"0": "T2", "1": "ADC"}}),
    ],
)
def test_f89_what_a_description_must_not_say(key: str, change: dict[str, Any]) -> None:
    with refused(StateError, "model.untrusted") as refusal:
        require_trusted(PLANS, {**DESCRIPTION, **change}, "model")
    assert f"dataset.json of model: {key}" in [problem.where for problem in refusal.problems]


def edited(folder: Path, change: Callable[[dict[str, Any]], object], fold: str = "all") -> Path:
    file = folder / f"fold_{fold}" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)
    return folder


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"trainer_name": "nnUNetTrainerOfMine"}, "model.unknown-trainer"),
        ({"trainer_name": "../nnUNetTrainer"}, "model.unknown-trainer"),
        ({"trainer_name": "torch"}, "model.unknown-trainer"),
        ({"trainer_name": None}, "model.unknown-trainer"),
        ({"trainer_name": "nnUNet_Primus_M_Trainer"}, "model.own-network"),
        ({"trainer_name": "nnUNetTrainerBN"}, "checkpoint.other-network"),
        ({"inference_allowed_mirroring_axes": (0, 3)}, "checkpoint.mirroring"),
        ({"inference_allowed_mirroring_axes": (0, 0)}, "checkpoint.mirroring"),
        ({"inference_allowed_mirroring_axes": "012"}, "checkpoint.mirroring"),
        ({"init_args": {"configuration": "4d"}}, "checkpoint.other-configuration"),
        ({"init_args": None}, "checkpoint.other-configuration"),
        ({"network_weights": []}, "checkpoint.other-network"),
        ({"network_weights": {"a": 1}}, "checkpoint.other-network"),
    ],
)
def test_f89_what_a_checkpoint_must_not_say(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    model = edited(model_of(tmp_path / "model"), lambda content: content.update(change))
    with refused(StateError, code):
        ModelPredictor(model, torch.device("cpu"))


def test_f89_a_checkpoint_without_mirroring_is_of_a_model_that_mirrors_nothing(tmp_path: Path) -> None:
    model = edited(model_of(tmp_path / "model"), lambda content: content.pop("inference_allowed_mirroring_axes"))
    assert ModelPredictor(model, torch.device("cpu"))._window._nnunet.allowed_mirroring_axes is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"inference_allowed_mirroring_axes": (0, 1)}, "checkpoint.folds-differ"),
        ({"trainer_name": "nnUNetTrainerNoMirroring"}, "checkpoint.folds-differ"),
        ({"network_weights": {}}, "checkpoint.other-network"),
    ],
)
def test_f89_folds_that_are_no_folds_of_one_model(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    model = edited(model_of(tmp_path / "model", folds=("0", "1")), lambda content: content.update(change), fold="1")
    with refused(StateError, code) as refusal:
        ModelPredictor(model, torch.device("cpu"))
    assert refusal.problem.where.endswith("fold_1/checkpoint_final.pth")


def test_f89_a_fold_that_is_named_segments_alone(tmp_path: Path, scan: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = model_of(tmp_path / "model", folds=("0", "1", "2"))
    given: dict[str, Any] = {"output": tmp_path / "out", "device": "cpu", "no_quality": True}
    command([scan], model=str(model / "fold_1"), **given)
    record = read_record(tmp_path / "out")
    assert record is not None
    assert (record.made_by.model, list(record.made_by.checkpoints)) == (str(model), ["fold_1/checkpoint_final.pth"])
    expected = stock_mask(model, [scan], tmp_path / "stock" / "a", folds=("1",))
    mask = SimpleITK.ReadImage(str(tmp_path / "out" / next(iter(record.scans.values())).mask))
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(expected)))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask), theirs)
    for other in (model, model / "fold_0"):
        with refused(StateError, "predict.masks-of-other-folds"):
            command([scan], model=str(other), **given)
    # An unfinished one does not segment; of the others that is said.
    (model / "fold_1" / "checkpoint_final.pth").rename(model / "fold_1" / "checkpoint_latest.pth")
    with refused(StateError, "model.missing"):
        command([scan], model=str(model / "fold_1"), output=tmp_path / "new", device="cpu")
    command([scan], model=str(model), output=tmp_path / "new", device="cpu", no_quality=True)
    assert "2 of 3 folds" in capfd.readouterr().err


def test_f89_folds_of_other_settings_segment_by_name(tmp_path: Path) -> None:
    change = {"inference_allowed_mirroring_axes": (0, 1)}
    model = edited(model_of(tmp_path / "model", folds=("0", "1")), lambda content: content.update(change), fold="1")
    assert len(ModelPredictor(model / "fold_1", torch.device("cpu"))._weights) == 1


def test_f89_the_second_stage_of_a_cascade(tmp_path: Path) -> None:
    plans = {"configurations": {"3d_fullres": {**FULL, "previous_stage": "3d_lowres"}, "3d_lowres": FULL}}
    with refused(StateError, "model.cascade"):
        ModelPredictor(model_of(tmp_path / "model", plans=plans), torch.device("cpu"))


def test_f89_plans_of_other_channels(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", description={"channel_names": {"0": "T2", "1": "ADC"}})
    with refused(StateError, "model.channels"):
        ModelPredictor(model, torch.device("cpu"))


def test_f89_plans_of_no_network(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    plans = json.loads((model / "plans.json").read_text())
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs["norm_op_kwargs"] = {"inplace": True}
    (model / "plans.json").write_text(json.dumps(plans))
    with refused(StateError, "model.no-network"):
        ModelPredictor(model, torch.device("cpu"))


UNRUNNABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"patch_size": [9, 9, 9]}, {}),
    ({"patch_size": [2, 2, 2]}, {}),
    ({}, {"strides": [[2, 2, 2], [2, 2, 2]]}),
    ({}, {"strides": [[1, 1, 1], [9, 9, 9]]}),
    ({}, {"kernel_sizes": [[2, 2, 2], [2, 2, 2]]}),
    ({}, {"n_stages": 1, "features_per_stage": [4], "kernel_sizes": [[3] * 3], "strides": [[1] * 3],
          "n_conv_per_stage": [1], "n_conv_per_stage_decoder": []}),
]  # fmt: skip


@pytest.mark.parametrize(("configuration", "network"), UNRUNNABLE)
def test_f89_plans_of_a_network_that_does_not_run(
    tmp_path: Path, configuration: dict[str, Any], network: dict[str, Any]
) -> None:
    plans = copy.deepcopy(PLANS)
    plans["configurations"]["3d_fullres"].update(configuration)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(network)
    model = model_of(tmp_path / "model")
    (model / "plans.json").write_text(json.dumps(plans))
    with refused(StateError, "model.no-network"):
        ModelPredictor(model, torch.device("cpu"))
    with refused(StateError, "model.no-network"):
        read_plans(model / "plans.json", "Dataset005_Prostate", DESCRIPTION)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda weight: weight.to_sparse(), "checkpoint.other-network"),
        (lambda weight: weight.to(torch.int64), "checkpoint.other-network"),
        (lambda weight: weight.to(torch.complex64), "checkpoint.other-network"),
        (lambda weight: weight * torch.nan, "checkpoint.not-finite"),
        (lambda weight: weight / 0, "checkpoint.not-finite"),
    ],
)
def test_f89_weights_that_are_no_numbers(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], code: str
) -> None:
    def spoil(content: dict[str, Any]) -> None:
        name = min(content["network_weights"])
        content["network_weights"][name] = change(content["network_weights"][name])

    with refused(StateError, code):
        ModelPredictor(edited(model_of(tmp_path / "model"), spoil), torch.device("cpu"))


def test_f89_values_of_regions_that_need_two_bytes(tmp_path: Path, scan: Path) -> None:
    labels = {"background": 0, "whole": [1, 300]}
    model = model_of(tmp_path / "model", description={"labels": labels, "regions_class_order": [300]})
    with_output = edited(model, lambda content: content["network_weights"]["decoder.seg_layers.0.bias"].fill_(5))
    (done,) = predict([scan], tmp_path / "out", with_output, device="cpu", listener=lambda _event, _values: None)
    assert done.status == "done"
    assert 300 in np.unique(np.asarray(nibabel.load(tmp_path / "out" / scan.name).dataobj))


# --- the list of settings ---------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "nnunet-files.md"
NAMES = {
    "plans.json": r"plans(?:_manager)?(?:\.plans)?",
    "a configuration": r"configuration(?:_dict)?",
    "dataset.json": r"dataset_json(?:_content)?",
    "a checkpoint": r"checkpoint",
}
FOLDERS = ("experiment_planning", "imageio", "inference", "preprocessing", "run", "training", "utilities")


def keys_in_nnunet() -> set[str]:
    """Every key that nnU-Net looks up in these files, by their names in its source."""
    source = "\n".join(
        file.read_text(encoding="utf-8")
        for folder in FOLDERS
        for file in sorted((Path(nnunetv2.__path__[0]) / folder).rglob("*.py"))
    )
    looked_up = "|".join(f"(?:{name})" for name in NAMES.values())
    found = re.findall(rf"\b(?:{looked_up})(?:\.get\(|\[)['\"](\w+)['\"]", source)
    return set(found) - {"key"}  # of a docstring


def test_f89_the_list_of_settings_names_every_key_that_nnunet_looks_up() -> None:
    listed = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    found = keys_in_nnunet()
    assert {"transpose_forward", "spacing", "labels", "trainer_name"} <= found
    assert sorted(found - listed) == []


def test_f89_every_trainer_of_nnunet_is_honored_or_refused() -> None:
    sources = (Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer").rglob("*.py")
    names = {name for file in sources for name in re.findall(r"^class (\w+)\(nnUNet", file.read_text(), re.MULTILINE)}
    assert len(names) > 30
    refused_codes = {name: _refusal_of(name) for name in names}
    assert all(code in (None, "model.own-network") for code in refused_codes.values())
    assert all("Primus" in name for name, code in refused_codes.items() if code is not None)


def _refusal_of(trainer: str) -> str | None:
    try:
        checkpoint_settings._trainer(trainer, Path("a"))
    except StateError as error:
        return error.problems[0].code
    return None
