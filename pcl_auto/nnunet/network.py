"""Reach into nnU-Net's networks: what wraps them, their number format, the decoder's features, the last layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from pcl_auto.errors import Problem, StateError
from pcl_auto.method.sampling import VoxelSample, gather_features

# With batch normalization one value per channel has no spread.
MIN_BATCH = 2


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside what torch.compile or distributed training wrap around it."""
    if hasattr(network, "module"):
        network = network.module  # type: ignore[assignment]
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    return network


def weight_count(configuration: Mapping[str, Any], channels: int, heads: int) -> int:
    """Count the weights of the network of a planned ``configuration``, which are not made for it."""
    network = configuration["architecture"]
    with torch.device("meta"):
        made = get_network_from_plans(
            network["network_class_name"],
            network["arch_kwargs"],
            network["_kw_requires_import"],
            channels,
            heads,
            deep_supervision=True,
        )
    return sum(parameter.numel() for parameter in made.parameters())


def refuse_unrunnable(
    build: Callable[[], nn.Module], channels: int, heads: int, patch_voxels: Sequence[int], where: object, fix: str
) -> None:
    """Make sure that a network can be built, and that it maps a patch to a patch; it takes no memory for that.

    Args:
        build: makes the network.
        channels: of the patch.
        heads: channels of the network's output.
        patch_voxels: shape of the patch.
        where: for the message.
        fix: for the message.

    Raises:
        StateError: it cannot.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            output = build()(torch.empty(MIN_BATCH, channels, *patch_voxels))
        shape = tuple((output[0] if isinstance(output, (list, tuple)) else output).shape)
        found = "" if shape == (MIN_BATCH, heads, *patch_voxels) else f"an output of shape {shape}"
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if found:
        what, expected = "the plans describe no network that works", f"one for patches of {[*patch_voxels]} voxels"
        raise StateError(Problem("model.no-network", what, str(where), fix, expected, found))


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast as nnU-Net does: on CUDA alone.

    Some CPUs multiply bfloat16 numbers twice as fast, but oneDNN's 3D convolutions for them (torch 2.14) write beyond
    their memory in patches of few slices, and are wrong at other sizes (pytorch/pytorch#169688).
    """
    return torch.autocast("cuda") if device.type == "cuda" else nullcontext()


@contextmanager
def full_resolution_only(trainer: Any) -> Iterator[None]:
    """Let the network of an nnU-Net ``trainer`` give one output instead of deep supervision's several."""
    trainer.set_deep_supervision_enabled(False)
    try:
        yield
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)


def segmentation_head(network: nn.Module, convolutions: int) -> list[nn.Module]:
    """Return the segmentation head g_ξ of ``network``, in the order it computes: convolutions, then the last layer.

    Args:
        network: an nnU-Net, whatever is wrapped around it.
        convolutions: 3×3 convolutions of the last decoder stage, with what nnU-Net puts behind each, that belong to the
            head; all before them is the shared c_θ.

    Raises:
        StateError: the network has no decoder of stages with segmentation layers, or too few convolutions.
    """
    decoder: Any = getattr(unwrapped(network), "decoder", None)
    expected = "a U-Net with decoder.stages and decoder.seg_layers"
    if hasattr(decoder, "stages") and hasattr(decoder, "seg_layers"):
        stage = decoder.stages[-1]
        if not convolutions:
            return [decoder.seg_layers[-1]]
        expected = f"more than {convolutions} convolutions in the last decoder stage"
        if len(getattr(stage, "convs", ())) > convolutions:
            return [*stage.convs[-convolutions:], decoder.seg_layers[-1]]
    raise StateError(
        Problem(
            code="model.features-unreachable",
            what="the network's features cannot be reached",
            where=type(unwrapped(network)).__name__,
            expected=expected,
            fix="plan with --planner default, resenc-m or resenc-l",
        )
    )


class DecoderFeatures:
    """Features that the decoder hands to the segmentation head: c_θ(x) of the paper, shape (B, F, *patch).

    They are taken from a forward pass that is made anyway.
    """

    def __init__(self, network: nn.Module, head_convolutions: int = 0) -> None:
        """Register a hook in ``network``, before the head of so many convolutions and the last layer.

        Raises:
            StateError: see :func:`segmentation_head`.
        """
        head = segmentation_head(network, head_convolutions)
        self.width: int = head[-1].in_channels  # type: ignore[assignment]
        self._value: Tensor | None = None
        stage: Any = unwrapped(network).decoder.stages[-1]  # type: ignore[union-attr,index]
        branch = stage.convs[-1 - head_convolutions] if head_convolutions else stage
        branch.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        # Inference needs no features: keeping them would hold a patch's memory for nothing.
        self._value = output if torch.is_grad_enabled() else None

    def take(self) -> Tensor:
        """Return the features of the last forward pass, and let go of them."""
        if self._value is None:
            raise RuntimeError("no forward pass with gradients has been made")
        value, self._value = self._value, None
        return value

    def vectors(self, forward: Callable[[Tensor], object], images: Tensor, sample: VoxelSample) -> Tensor:
        """Return the features of ``images`` at the drawn voxels, shape (N, F), from a forward pass of their own."""
        forward(images)
        return gather_features(self.take(), sample)

    def recomputed_vectors(self, forward: Callable[[Tensor], object], images: Tensor, sample: VoxelSample) -> Tensor:
        """Return :meth:`vectors` that keep nothing for the backward pass, which repeats the forward pass.

        So the activations of two forward passes are never held at the same time.
        """
        # To the end, so that the features are taken again.
        with set_checkpoint_early_stop(False):
            vectors: Tensor = checkpoint(self.vectors, forward, images, sample, use_reentrant=False)
        return vectors


def restart_segmentation_head(
    network: nn.Module, optimizer: torch.optim.Optimizer, seed: int, convolutions: int = 0
) -> None:
    """Draw the segmentation head g_ξ of ``network`` anew by nnU-Net's rule; the optimizer forgets its state.

    As at the start of round one in the published experiments (Chaitanya et al., MedIA 2023). The head has so many
    ``convolutions`` as in :func:`segmentation_head`, and a last layer at every resolution. The same ``seed`` draws the
    same weights, on every device and whatever was drawn before.
    """
    inner: Any = unwrapped(network)
    parts = [inner.decoder.seg_layers, *segmentation_head(network, convolutions)[:-1]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts:
            fresh = copy.deepcopy(part).cpu().apply(_restart_norm).apply(type(inner).initialize)
            part.load_state_dict(fresh.state_dict())
    for parameter in (parameter for part in parts for parameter in part.parameters()):
        optimizer.state.pop(parameter, None)


def _restart_norm(module: nn.Module) -> None:
    """Reset a normalization, which nnU-Net's rule leaves alone; nothing is drawn."""
    if isinstance(module, _NormBase):
        module.reset_parameters()


def draw_anew(network: nn.Module, seed: int) -> None:
    """Give ``network`` first weights by nnU-Net's rule; the same ``seed`` draws the same ones on every device."""
    inner: Any = unwrapped(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = copy.deepcopy(inner).cpu().apply(_restart_norm).apply(type(inner).initialize)
    inner.load_state_dict(fresh.state_dict())


class FeatureDropout:
    """Channel dropout on the encoder's features of chosen images; nnU-Net's networks have none of their own.

    It is switched on for single forward passes, and is no part of the model.
    """

    def __init__(self, network: nn.Module, share: float, *, deepest_only: bool = False) -> None:
        """Register a hook in ``network`` that drops each channel with probability ``share``."""
        self._share, self._deepest_only = share, deepest_only
        self._first: int | None = None
        encoder: Any = unwrapped(network).encoder
        encoder.register_forward_hook(self._drop)

    @contextmanager
    def from_image(self, first: int) -> Iterator[None]:
        """Drop channels of the images of a batch from number ``first`` on."""
        self._first = first
        try:
            yield
        finally:
            self._first = None

    def _drop(self, _module: nn.Module, _inputs: Any, skips: list[Tensor]) -> list[Tensor] | None:
        if self._first is None:
            return None
        kept = len(skips) - 1 if self._deepest_only else 0
        return [*skips[:kept], *(self._dropped(features, self._first) for features in skips[kept:])]

    def _dropped(self, features: Tensor, first: int) -> Tensor:
        """Drop channels of ``features`` (B, F, *patch), scaled so that their mean stays."""
        keep = torch.rand(len(features) - first, features.shape[1], device=features.device) >= self._share
        factors = (keep / (1 - self._share)).to(features.dtype).view(*keep.shape, *[1] * (features.ndim - 2))
        return torch.cat([features[:first], features[first:] * factors])
