"""Build the network of a plan for pre-training: nnU-Net's own, whose last layer gives as many channels as the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from pcl_auto.nnunet.network import segmentation_head

# Layers of it are no part of what was learned: they make images, and will have to make classes.
LAST_LAYERS = ".seg_layers."


def build_network(configuration: Mapping[str, Any], channels: int, seed: int) -> nn.Module:
    """Build the network of a planned ``configuration`` with first weights by nnU-Net's rule, drawn with ``seed``.

    Raises:
        StateError: it has no decoder of stages.
    """
    architecture = configuration["architecture"]
    torch.manual_seed(seed)
    network: nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels,
        channels,
        deep_supervision=False,
    )
    segmentation_head(network, 0)
    return network


def decoder_features(network: nn.Module, skips: list[Tensor], stages: int) -> Tensor:
    """Return the features after the first ``stages`` stages of the decoder, counted from the deepest, (B, F, *size).

    Args:
        network: nnU-Net's.
        skips: features of every stage of the encoder, the deepest last.
        stages: how many, l.
    """
    decoder: Any = network.decoder
    features = skips[-1]
    for number in range(stages):
        features = decoder.transpconvs[number](features)
        features = decoder.stages[number](torch.cat([features, skips[-2 - number]], 1))
    return features


def without_last_layers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's state without the layers behind the decoder; names that stand for one tensor all stay."""
    return {name: value for name, value in weights.items() if LAST_LAYERS not in f".{name}"}
