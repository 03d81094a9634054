"""Describe the network of a pretrained checkpoint as nnU-Net's plans do, and group its tensors by name and stage."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

_UNET = "dynamic_network_architectures.architectures.unet"
# Of any number: the segmentation layers are never taken.
_HEADS = 2
_STAGE = re.compile(r"encoder\.(?:(stem)|stages\.(\d+))\.|decoder\.(?:stages|transpconvs)\.(\d+)\.", re.ASCII)
# A second name of the whole encoder in every decoder of nnU-Net.
_ENCODER_AGAIN = "decoder.encoder."


@dataclass(frozen=True)
class Architecture:
    """A U-Net as nnU-Net's plans describe it: class, arguments, and those arguments that are imported by name."""

    class_name: str
    arguments: Mapping[str, Any]
    imported: tuple[str, ...]

    @property
    def is_residual(self) -> bool:
        """True if the encoder has residual blocks."""
        return not self.class_name.endswith("PlainConvUNet")

    @property
    def dimensions(self) -> int:
        """Number of axes of a patch."""
        return int(str(self.arguments["conv_op"])[-2])

    def as_plans(self) -> dict[str, Any]:
        """Return the architecture as it stands in a configuration of nnU-Net's plans."""
        return {
            "network_class_name": self.class_name,
            "arch_kwargs": dict(self.arguments),
            "_kw_requires_import": list(self.imported),
        }

    def build(self, channels: int) -> nn.Module:
        """Build the network for images of so many channels; its weights are never drawn, and take no memory."""
        with torch.device("meta"):
            made: nn.Module = get_network_from_plans(
                self.class_name,
                dict(self.arguments),
                list(self.imported),
                channels,
                _HEADS,
                allow_init=False,
                deep_supervision=True,
            )
        return made


def from_plans(entry: Mapping[str, Any]) -> Architecture:
    """Read the architecture of a configuration of nnU-Net's plans, which :mod:`trusted_plans` has accepted."""
    return Architecture(entry["network_class_name"], dict(entry["arch_kwargs"]), tuple(entry["_kw_requires_import"]))


def whole_stride(network: Architecture) -> tuple[int, ...]:
    """Return by how much the deepest features are smaller than the patch, along each axis."""
    stages = [[each] * network.dimensions if isinstance(each, int) else each for each in network.arguments["strides"]]
    return tuple(math.prod(stage[axis] for stage in stages) for axis in range(network.dimensions))


def resenc_l() -> Architecture:
    """Return the residual U-Net that nnssl calls ``ResEncL``; the figures are published with the OpenMind weights."""
    arguments = {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3] * 3] * 6,
        "strides": [[1] * 3] + [[2] * 3] * 5,
        "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return Architecture(f"{_UNET}.ResidualEncoderUNet", arguments, ("conv_op", "norm_op", "dropout_op", "nonlin"))


def full_class_name(name: str) -> str:
    """Return the class of nnU-Net's networks that ``name`` means, with or without the module that it lies in."""
    return name if "." in name else f"{_UNET}.{name}"


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of a network under all names that it has there; the first is the one to show."""

    names: tuple[str, ...]
    tensor: Tensor

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]


def named_tensors(network: nn.Module) -> list[NamedTensor]:
    """List the tensors of ``network``, each once: nnU-Net's convolutions stand under two names, encoders under more."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        plain = name.replace(_ENCODER_AGAIN, "encoder.", 1) if name.startswith(_ENCODER_AGAIN) else name
        names, _ = found.setdefault(id(tensor), ([], tensor))
        if plain not in names:
            names.append(plain)
    return [NamedTensor(tuple(names), tensor) for names, tensor in found.values()]


@dataclass(frozen=True, order=True)
class Stage:
    """A stage of a U-Net: the ``stem`` of the ``encoder``, or a stage of ``encoder`` or ``decoder`` by its number."""

    part: str
    number: int

    @property
    def is_stem(self) -> bool:
        """True for the convolution before the first stage, which residual encoders have."""
        return self.number < 0

    def __str__(self) -> str:
        """Return its name for a table."""
        return f"{self.part} stem" if self.is_stem else f"{self.part} stage {self.number + 1}"


def stage_of(name: str) -> Stage | None:
    """Return the stage that a tensor belongs to; None for segmentation layers and whatever is no part of a U-Net."""
    found = _STAGE.match(name)
    if found is None:
        return None
    stem, encoder, decoder = found.groups()
    if decoder is not None:
        return Stage("decoder", int(decoder))
    return Stage("encoder", -1 if stem else int(encoder))
