"""Pretrained checkpoints in the formats that nnssl and nnU-Net publish, of networks as small as a test needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from pcl_auto.nnunet.pretrained.architecture import Architecture

FEATURES = (4, 6, 8, 8)


def architecture(
    kind: str = "ResidualEncoderUNet",
    *,
    features: Sequence[int] = FEATURES,
    dimensions: int = 3,
    blocks: int = 1,
    decoder: int = 1,
) -> Architecture:
    """Return a U-Net of nnU-Net in small; ``blocks`` and ``decoder`` count the blocks or convolutions of each stage."""
    stages = len(features)
    each = {"n_blocks_per_stage": [blocks] * stages} if "Residual" in kind else {"n_conv_per_stage": [blocks] * stages}
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(features),
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * stages,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        **each,
        "n_conv_per_stage_decoder": [decoder] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    class_name = f"dynamic_network_architectures.architectures.unet.{kind}"
    return Architecture(class_name, arguments, ("conv_op", "norm_op", "dropout_op", "nonlin"))


def network(of: Architecture, channels: int = 1, heads: int = 2, seed: int = 0) -> nn.Module:
    """Draw a network as nnU-Net builds it."""
    torch.manual_seed(seed)
    made: nn.Module = get_network_from_plans(
        of.class_name, dict(of.arguments), list(of.imported), channels, heads, deep_supervision=True
    )
    return made


def adaptation_plan(of: Architecture | None, **changes: Any) -> dict[str, Any]:
    """Return an adaptation plan as nnssl writes it; None is its one network that has a name."""
    described: dict[str, Any] = {"arch_class_name": "ResEncL"}
    stem = "encoder.stem"
    if of is not None:
        described = {
            "arch_class_name": of.class_name.rpartition(".")[2],
            "arch_kwargs": dict(of.arguments),
            "arch_kwargs_requiring_import": list(of.imported),
        }
        stem = stem if of.is_residual else "encoder.stages.0"
    return {
        "architecture_plans": described,
        "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1, 1, 1]}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem,
        "keys_to_in_proj": [f"{stem}.convs.0.conv", f"{stem}.convs.0.all_modules.0"],
        "key_to_lpe": None,
        "citations": [{"type": "Pretraining", "name": "A study", "bibtex_citations": ["@article{a}", "@article{b}"]}],
        **changes,
    }


def write_nnssl(
    folder: Path,
    weights: Mapping[str, Tensor],
    plan: Mapping[str, Any] | None,
    *,
    inside: bool = True,
    beside: bool = True,
) -> Path:
    """Write a model repository of nnssl; its adaptation plan goes into the checkpoint, beside it, or both."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "network_weights": dict(weights),
        "trainer_name": "BaseMAETrainer",
        "current_epoch": 1000,
    }
    if plan is not None and inside:
        content["nnssl_adaptation_plan"] = dict(plan)
    if plan is not None and beside:
        (folder / "adaptation_plan.json").write_text(json.dumps(plan))
    torch.save(content, folder / "checkpoint_final.pth")
    return folder / "checkpoint_final.pth"


def nnunet_plans(of: Architecture, *, spacing_mm: Sequence[float] = (2.0, 1.0, 1.0)) -> dict[str, Any]:
    """Return nnU-Net's plans with one configuration of this network."""
    axes = of.dimensions
    resampling = {"order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "batch_dice": False,
        "patch_size": [32] * axes,
        "median_image_size_in_voxels": [40] * axes,
        "spacing": list(spacing_mm)[-axes:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": of.as_plans(),
    }
    for purpose in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{purpose}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{purpose}_kwargs"] = {"is_seg": purpose == "seg", **resampling}
    return {
        "dataset_name": "Dataset300_Many",
        "plans_name": "nnUNetResEncUNetLPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres" if axes == 3 else "2d": configuration},
    }


DATASET_JSON = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "organ": 1},
    "numTraining": 9,
    "file_ending": ".nii.gz",
    "licence": "CC-BY 4.0",
    "reference": "Many et al., 2024",
}


def write_nnunet(
    model: Path, weights: Mapping[str, Tensor], plans: Mapping[str, Any], *, trainer: str = "nnUNetTrainer"
) -> Path:
    """Write a model folder of nnU-Net with one fold; return its checkpoint."""
    fold = model / "fold_all"
    fold.mkdir(parents=True)
    (configuration,) = plans["configurations"]
    arguments = {"plans": dict(plans), "configuration": configuration, "fold": "all", "dataset_json": DATASET_JSON}
    torch.save(
        {"network_weights": dict(weights), "trainer_name": trainer, "init_args": arguments},
        fold / "checkpoint_final.pth",
    )
    for name, value in (("plans.json", plans), ("dataset.json", DATASET_JSON)):
        (model / name).write_text(json.dumps(value))
    return fold / "checkpoint_final.pth"
