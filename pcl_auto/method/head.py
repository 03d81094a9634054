"""The contrastive head h_φ: it serves training only and is no part of the segmentation network."""

from __future__ import annotations

from torch import Tensor, nn


class ContrastHead(nn.Module):
    """Project features to the space of the contrastive loss: h_φ of Chaitanya et al. (arXiv 2112.09645).

    The paper applies two 1×1 convolutions to the full feature map. A 1×1 convolution is the same linear map
    at every voxel and never looks at a neighbour, so gathering voxels first and applying linear layers to
    them gives the same numbers, in 2D and 3D, at the cost of the gathered voxels alone.

    Args:
        in_channels: Feature channels of the network, F.
        out_channels: Channels of the embedding, D; 16 in the paper.
    """

    def __init__(self, in_channels: int, out_channels: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, in_channels),
            nn.LeakyReLU(0.01),  # nnU-Net's own activation and slope
            nn.Linear(in_channels, out_channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map gathered features of shape (N, F) to embeddings of shape (N, D); N may be 0."""
        embeddings: Tensor = self.layers(features)
        return embeddings
