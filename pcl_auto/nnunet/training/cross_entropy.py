"""Add up nnU-Net's cross-entropy in one order."""

from __future__ import annotations

from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from torch import Tensor


class OrderedCrossEntropy(RobustCrossEntropyLoss):  # type: ignore[misc]
    """nnU-Net's cross-entropy, for deterministic training: on a GPU torch adds up the mean in the order of the moment.

    Args:
        ignore_index: value of voxels that do not count; one that is not among the labels where all do.
    """

    def __init__(self, ignore_index: int) -> None:
        super().__init__(ignore_index=ignore_index, reduction="none")

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the voxels that count, of logits (B, K, *patch) and labels (B, *patch)."""
        losses = super().forward(logits, target)
        mean: Tensor = losses.sum() / (target != self.ignore_index).sum()
        return mean
