"""Losses on unlabeled patches that a network of the moment teaches: what reviewers ask a method to be compared with.

Each is a function of logits (B, K, *patch) and of probabilities that sum to one over the K classes, background first.
Targets carry no gradient. The papers:

- Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (arXiv 1703.01780)
- Laine and Aila, Temporal ensembling, ICLR 2017 (arXiv 1610.02242)
- Yu et al., Uncertainty-aware self-ensembling model (UA-MT), MICCAI 2019 (arXiv 1907.07034)
- Sohn et al., FixMatch, NeurIPS 2020 (arXiv 2001.07685)
- Yang et al., Revisiting weak-to-strong consistency (UniMatch), CVPR 2023 (arXiv 2208.09910)
- Chen et al., Cross pseudo supervision (CPS), CVPR 2021 (arXiv 2106.01226)
- Zhang et al., mixup, ICLR 2018 (arXiv 1710.09412)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# UniMatch's overall loss: λ of the stream with perturbed features, and μ / 2 of each of the two strong streams.
FEATURE_STREAM, STRONG_STREAM = 0.5, 0.25
# UA-MT: the entropy up to which a voxel counts, as a share of the highest there is, at the start.
FIRST_ENTROPY_LIMIT = 0.75


def ramp_up(progress: float) -> float:
    """Return the Gaussian ramp exp(−5 (1 − t)²) of a weight, with t = ``progress``, held in [0, 1] (Laine and Aila)."""
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)


def squared_distance(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the squared distance between softmax and target at each voxel, ‖f − f′‖², shape (B, *patch)."""
    return (logits.softmax(1) - probabilities).square().sum(1)


def mean_teacher_loss(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the mean over voxels of ‖f(x, θ) − f(x, θ′)‖² (Tarvainen and Valpola, Section 2)."""
    return squared_distance(logits, probabilities).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy −Σ_c p_c ln p_c at each voxel, shape (B, *patch) (UA-MT, Section 2.2)."""
    return -torch.xlogy(probabilities, probabilities).sum(1)


def entropy_limit(progress: float, classes: int) -> float:
    """Return UA-MT's threshold H: a ramp from 3/4 of the highest entropy, ln K, up to it (Section 2.2)."""
    return (FIRST_ENTROPY_LIMIT + (1 - FIRST_ENTROPY_LIMIT) * ramp_up(progress)) * math.log(classes)


def uncertainty_aware_loss(logits: Tensor, probabilities: Tensor, uncertainty: Tensor, limit: float) -> Tensor:
    """Return the mean of ‖f′ − f‖² over the voxels whose uncertainty is below ``limit``; 0 without any.

    UA-MT, Section 2.2: Σ_v 1(u_v < H) ‖f′_v − f_v‖² / Σ_v 1(u_v < H).

    Args:
        logits: of the student.
        probabilities: of the teacher.
        uncertainty: entropy of the mean over the teacher's noisy passes, shape (B, *patch).
        limit: H.
    """
    certain = uncertainty < limit
    return (squared_distance(logits, probabilities) * certain).sum() / certain.sum().clamp_min(1)


def confident_cross_entropy(logits: Tensor, probabilities: Tensor, min_confidence: float) -> Tensor:
    """Return the cross-entropy with the likeliest class where it is likely enough, averaged over all voxels.

    FixMatch, Eq. 4: 1(max q ≥ τ) H(q̂, p(y | A(u))).

    Args:
        logits: of the strongly augmented patches.
        probabilities: q, of the same patches weakly augmented.
        min_confidence: τ.
    """
    confidence, labels = probabilities.max(1)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return (losses * (confidence >= min_confidence)).mean()


def cross_supervision_loss(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Return the cross-entropy of one network with the other's hard labels (CPS: one term of two)."""
    return functional.cross_entropy(logits, other_logits.detach().argmax(1))


def mixup_loss(loss_on: Callable[[int], Tensor], share: float) -> Tensor:
    """Return λ L(x̃, y₁) + (1 − λ) L(x̃, y₂) of images mixed as λ x₁ + (1 − λ) x₂ (Zhang et al., Eq. 1 and its code).

    Args:
        loss_on: the loss with the labels of the first images (0) or of the second (1).
        share: λ.
    """
    return share * loss_on(0) + (1 - share) * loss_on(1)
