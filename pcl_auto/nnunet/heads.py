"""The segmentation head g_ξ, drawn anew for step two."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pcl_auto.nnunet.features import unwrapped


def restart_segmentation_head(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Draw the segmentation layers of ``network`` by nnU-Net's own rule; the optimiser forgets what it knew of them.

    As at the start of round one in the published experiments (Chaitanya et al., MedIA 2023). The same ``seed`` draws
    the same weights, on every device and whatever was drawn before.
    """
    inner: Any = unwrapped(network)
    layers: nn.ModuleList = inner.decoder.seg_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = copy.deepcopy(layers).cpu().apply(type(inner).initialize)
    layers.load_state_dict(fresh.state_dict())
    for parameter in layers.parameters():
        optimizer.state.pop(parameter, None)
