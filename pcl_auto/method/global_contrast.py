"""Global contrast: images of the same part of a volume are alike, whichever volume it is.

Chaitanya, Erdil, Karani, Konukoglu: *Contrastive learning of global and local features for medical image segmentation
with limited annotations*, NeurIPS 2020, arXiv 2006.10511, Section 3.1, Eq. 1 and 2, variant G^D.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def global_contrastive_loss(embeddings: Tensor, partitions: Tensor, temperature: float) -> Tensor:
    """Pull embeddings of one partition together and push those of other partitions away.

    Eq. 1 for every ordered pair of different embeddings of one partition, whether of one image or of different volumes:
    −log( e^{sim(z, z')/τ} / (e^{sim(z, z')/τ} + Σ e^{sim(z, z̄)/τ}) ), the sum over all embeddings z̄ of other
    partitions; sim is the cosine. Eq. 2 is their mean.

    Args:
        embeddings: of two views of each image, z, shape (N, D).
        partitions: that each embedding's image is of, shape (N,).
        temperature: τ.

    Returns:
        Scalar, float32; 0, with zero gradient, where no two embeddings are of one partition.
    """
    # Autocast would round the cosines to half precision, and the division by τ magnifies that error.
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = functional.normalize(embeddings.float(), dim=1)
        logits = directions @ directions.T / temperature  # (N, N)
    same = partitions.unsqueeze(1) == partitions  # (N, N)
    negatives = logits.masked_fill(same, float("-inf")).logsumexp(1, keepdim=True)  # (N, 1); -inf without negatives
    losses = torch.logaddexp(logits, negatives) - logits
    positives = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    return torch.where(positives, losses, 0.0).sum() / positives.sum().clamp(min=1)
