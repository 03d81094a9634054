"""The decoder's last features, taken from a forward pass that is made anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from pcl_auto.errors import Problem, StateError
from pcl_auto.method.sampling import VoxelSample, gather_features


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside what torch.compile or distributed training wrap around it."""
    if hasattr(network, "module"):
        network = network.module  # type: ignore[assignment]
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    return network


class DecoderFeatures:
    """Keeps what the decoder hands to the last segmentation layer: c_θ(x) of the paper, shape (B, F, *patch)."""

    def __init__(self, network: nn.Module) -> None:
        """Hook into ``network``.

        Raises:
            StateError: the network has no decoder of stages with segmentation layers.
        """
        decoder: Any = getattr(unwrapped(network), "decoder", None)
        if not (hasattr(decoder, "stages") and hasattr(decoder, "seg_layers")):
            raise StateError(
                Problem(
                    code="model.features-unreachable",
                    what="the network's features cannot be reached",
                    where=type(unwrapped(network)).__name__,
                    expected="a U-Net with decoder.stages and decoder.seg_layers",
                    fix="plan with --planner default, resenc-m or resenc-l",
                )
            )
        self.width: int = decoder.seg_layers[-1].in_channels
        self._value: Tensor | None = None
        decoder.stages[-1].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        # Inference needs no features: keeping them would hold a patch's memory for nothing.
        self._value = output if torch.is_grad_enabled() else None

    def take(self) -> Tensor:
        """The features of the last forward pass; they are let go of here."""
        if self._value is None:
            raise RuntimeError("no forward pass with gradients has been made")
        value, self._value = self._value, None
        return value

    def vectors(self, forward: Callable[[Tensor], object], images: Tensor, sample: VoxelSample) -> Tensor:
        """The feature vectors of ``images`` at the drawn voxels, shape (N, F), from a forward pass of their own."""
        forward(images)
        return gather_features(self.take(), sample)

    def recomputed_vectors(self, forward: Callable[[Tensor], object], images: Tensor, sample: VoxelSample) -> Tensor:
        """:meth:`vectors` that keep nothing for the backward pass, which makes the forward pass once more.

        What is made before another forward pass is needed after it: at no time are the activations of both held.
        """
        # To the end, so that the features are taken again.
        with set_checkpoint_early_stop(False):
            vectors: Tensor = checkpoint(self.vectors, forward, images, sample, use_reentrant=False)
        return vectors
