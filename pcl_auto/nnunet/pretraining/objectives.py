"""Connect what is learned in a stage of pre-training: which patches, which part of the network, which loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pcl_auto.method.augmentation import intensity_view
from pcl_auto.method.global_contrast import global_contrastive_loss
from pcl_auto.method.local_contrast import (
    cut_regions,
    draw_regions,
    fit_regions,
    local_contrastive_loss,
    take_regions,
)
from pcl_auto.method.masked_autoencoding import draw_block_mask, fit_blocks, hide, reconstruction_loss
from pcl_auto.nnunet.network import half_precision
from pcl_auto.nnunet.pretrained.architecture import from_plans, whole_stride
from pcl_auto.nnunet.pretraining.network import decoder_features
from pcl_auto.nnunet.pretraining.patches import PartitionViews, Patches, PatchSource, RandomPatches
from pcl_auto.nnunet.pretraining.stored_images import StoredImages
from pcl_auto.recipe.settings import Pretraining


class Objective(Protocol):
    """Objective of a stage of pre-training."""

    @property
    def source(self) -> PatchSource:
        """Draws the patches of its steps."""

    @property
    def trained(self) -> nn.Module:
        """The modules that it changes."""

    @property
    def head(self) -> nn.Module:
        """The modules that are its own and no part of the network."""

    def loss(self, step: Patches, generator: torch.Generator) -> Tensor:
        """Return the loss of a step."""


@dataclass(frozen=True)
class Stage:
    """Some epochs, counted from 0, with one objective, by its name; the last one is ``end`` - 1."""

    name: str
    start: int
    end: int


def stages_of(settings: Pretraining) -> list[Stage]:
    """Return the stages of a method: contrast of a single epoch is global contrast alone."""
    if settings.method == "masked":
        return [Stage("masked", 0, settings.epochs)]
    half = math.ceil(settings.epochs / 2)
    return [Stage("global", 0, half), *([Stage("local", half, settings.epochs)] if settings.epochs > half else [])]


def trained_decoder_stages(settings: Pretraining, of_network: int) -> int:
    """Return how many stages of the decoder, from the deepest one on, have learned at the end of a method.

    At full resolution a region is too small to be told from others: local contrast leaves the last stage alone where
    there is another.
    """
    if settings.method == "masked":
        return of_network
    return max(1, min(settings.decoder_stages, of_network - 1)) if len(stages_of(settings)) > 1 else 0


def make_objective(
    stage: str,
    network: nn.Module,
    images: StoredImages,
    configuration: dict[str, Any],
    settings: Pretraining,
    device: torch.device,
) -> Objective:
    """Make the objective of a stage; heads are drawn with torch's own numbers.

    Raises:
        StateError: the images do not allow it.
    """
    patch_voxels = tuple(int(size) for size in configuration["patch_size"])
    patches = settings.patches or int(configuration["batch_size"])
    if stage == "global":
        stride = whole_stride(from_plans(configuration["architecture"]))[0]
        views = PartitionViews(images, patch_voxels, 2 * patches, settings.partitions, stride)
        return GlobalContrast(network, views, settings, device)
    if stage == "local":
        # Two views of each make a step as large as planned.
        source = RandomPatches(images, patch_voxels, max(1, patches // 2))
        return LocalContrast(network, source, settings, device)
    return MaskedAutoencoding(network, RandomPatches(images, patch_voxels, patches), patch_voxels, settings, device)


class MaskedAutoencoding:
    """Fill in hidden blocks; the whole network learns."""

    def __init__(
        self,
        network: nn.Module,
        source: PatchSource,
        patch_voxels: Sequence[int],
        settings: Pretraining,
        device: torch.device,
    ) -> None:
        """Take the network, whose last layer gives the channels of the image."""
        self.source, self.trained, self.head = source, network, nn.Module()
        self._patch_voxels, self._settings, self._device = patch_voxels, settings, device
        self._block_voxels = fit_blocks(patch_voxels, settings.block_voxels)

    def loss(self, step: Patches, generator: torch.Generator) -> Tensor:
        """Return the mean squared error on the hidden voxels."""
        images = step.images.to(self._device)
        mask = draw_block_mask(
            len(images), self._patch_voxels, self._block_voxels, self._settings.masked_share, generator
        ).to(self._device)
        with half_precision(self._device):
            predicted = self.trained(hide(images, mask))
        return reconstruction_loss(predicted, images, mask)


class GlobalContrast:
    """Contrast images of partitions; the encoder learns, with two dense layers behind its pooled deepest features."""

    def __init__(self, network: Any, source: PatchSource, settings: Pretraining, device: torch.device) -> None:
        """Draw the dense layers, g_1 of the paper."""
        self.source, self._settings, self._device = source, settings, device
        self._encoder: nn.Module = network.encoder
        width = int(network.encoder.output_channels[-1])
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.dimensions)).to(device)
        self.trained = nn.ModuleList([self._encoder, self.head])

    def loss(self, step: Patches, generator: torch.Generator) -> Tensor:
        """Return Eq. 2 over views of random brightness and contrast."""
        del generator
        views = intensity_view(step.images.to(self._device))
        with half_precision(self._device):
            deepest = self._encoder(views)[-1]
            embeddings = self.head(deepest.flatten(2).mean(2))
        return global_contrastive_loss(embeddings, step.partitions.to(self._device), self._settings.temperature)


class LocalContrast:
    """Contrast regions of an image; the first stages of the decoder learn, the encoder stays as it is."""

    def __init__(self, network: Any, source: PatchSource, settings: Pretraining, device: torch.device) -> None:
        """Draw the 1×1 convolutions behind the decoder's features, g_2 of the paper."""
        self.source, self._network, self._settings, self._device = source, network, settings, device
        self._stages = trained_decoder_stages(settings, len(network.decoder.stages))
        width = int(network.encoder.output_channels[-1 - self._stages])
        # On the voxels of drawn regions a 1×1 convolution is a dense layer; all others have no part in the loss.
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.dimensions)).to(device)
        decoder = network.decoder
        # The decoder holds the encoder too: its own modules one by one.
        self.trained = nn.ModuleList([*decoder.transpconvs[: self._stages], *decoder.stages[: self._stages], self.head])

    def loss(self, step: Patches, generator: torch.Generator) -> Tensor:
        """Return Eq. 4 over two views of random brightness and contrast of each image."""
        images = step.images.to(self._device)
        views = torch.cat([intensity_view(images), intensity_view(images)])
        self._network.encoder.eval()
        with half_precision(self._device):
            with torch.no_grad():
                skips = self._network.encoder(views)
            features = decoder_features(self._network, skips, self._stages)
            regions = cut_regions(features, fit_regions(features.shape[2:], self._settings.region_voxels))
            drawn = draw_regions(len(images), regions.shape[1], self._settings.regions, generator).to(self._device)
            vectors = self.head(take_regions(regions, drawn.repeat(2, 1))).flatten(2)
        first, second = vectors.chunk(2)
        return local_contrastive_loss(first, second, self._settings.temperature)
