"""The local contrastive loss, Eq. 3 and 4 of Chaitanya et al. (MedIA 2023, arXiv 2112.09645).

Axes are named in one way throughout: N drawn voxels, A anchors among them, D embedding channels, C foreground
classes, and K images that offer class means (the B images of the step). The loss is built in four steps:
class means, cosine logits of every anchor with every mean, a matching that turns an anchor's logits into its
loss, and the weights of the average in Eq. 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pcl_auto.method.sampling import VoxelSample


class ContrastHead(nn.Module):
    """Project features to the space of the contrastive loss: h_φ of Chaitanya et al. (arXiv 2112.09645).

    The paper applies two 1×1 convolutions to the full feature map. A 1×1 convolution is the same linear map
    at every voxel and never looks at a neighbor, so gathering voxels first and applying linear layers to
    them gives the same numbers, in 2D and 3D, at the cost of the gathered voxels alone.

    Args:
        in_channels: Feature channels of the network, F.
        out_channels: Channels of the embedding, D; 16 in the paper.
        batch_norm: Normalize each channel over the gathered voxels of a step, between the two layers.
    """

    def __init__(self, in_channels: int, out_channels: int = 16, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, in_channels),
            *([_VoxelNorm(in_channels, track_running_stats=False)] if batch_norm else []),
            nn.LeakyReLU(0.01),  # nnU-Net's own activation and slope
            nn.Linear(in_channels, out_channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map gathered features of shape (N, F) to embeddings of shape (N, D); N may be 0."""
        embeddings: Tensor = self.layers(features)
        return embeddings


class _VoxelNorm(nn.BatchNorm1d):
    """Batch normalization of vectors (N, F), of which there may be one or none: then it only scales and shifts."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Normalize each channel to mean 0 and variance 1 over the vectors, then scale and shift it."""
        if len(vectors) > 1:
            return super().forward(vectors)
        return vectors * self.weight + self.bias


Matching = Literal["intra", "inter"]

# Stands in for -inf at absent classes: exp() of it is 0 too, but a row of it keeps the gradient finite.
_ABSENT = torch.finfo(torch.float32).min
# Squared norm up to which an embedding counts as zero: its direction would be noise, its gradient unbounded.
_ZERO_SQUARED_NORM = 1e-12


def local_contrastive_loss(
    embeddings: Tensor,
    sample: VoxelSample,
    anchors: Tensor,
    *,
    n_images: int,
    n_classes: int,
    temperature: float,
    matching: Matching,
) -> Tensor:
    """Pull anchors to the mean of their class and away from the means of other classes.

    Eq. 3 is averaged as written: over the anchors of a class, over the classes that the image has, over pairs
    of images, each pair with equal weight. A class that an image lacks is no anchor, positive or negative
    there. The gradient flows through the class means.

    Args:
        embeddings: h_φ of the drawn voxels, z, shape (N, D), any floating dtype; computed on in float32.
        sample: The N drawn voxels, as `sample_voxels` returns them.
        anchors: Positions of the anchors S̃_c among them, shape (A,), as ``sample.anchors`` returns them.
        n_images: Images in the batch, B.
        n_classes: Foreground classes, C.
        temperature: τ of Eq. 4.
        matching: "intra" pairs an image with itself; "inter" pairs every two different images of the batch.

    Returns:
        Scalar, float32. 0, with zero gradient, where nothing can be contrasted: no foreground at all, a
        single class (intra), or fewer than two images with foreground (inter).

    Raises:
        ValueError: If the shapes do not fit or a setting is out of range.
    """
    _check_arguments(embeddings, sample, n_images, n_classes, temperature, matching)
    # Once, so that the two gradients of an anchor (direct, and through its class mean) add up in float32.
    embeddings = embeddings.float()
    means, present = class_means(embeddings, sample, n_images, n_classes)
    image, cls = sample.image[anchors], sample.cls[anchors]
    logits = cosine_logits(embeddings.index_select(0, anchors), means, temperature)
    losses = _MATCHINGS[matching](logits, present, image, cls)
    return (anchor_weights(image, cls, n_images, n_classes) * losses).sum()


def class_means(embeddings: Tensor, sample: VoxelSample, n_images: int, n_classes: int) -> tuple[Tensor, Tensor]:
    """Average the embeddings of each class in each image, z̄_c(x) of Eq. 3.

    Args:
        embeddings: Embeddings of the drawn voxels, shape (N, D).
        sample: The N drawn voxels.
        n_images: Images in the batch, B.
        n_classes: Foreground classes, C.

    Returns:
        The means in float32, shape (B, C, D), 0 where the class is absent; and whether it is present, shape
        (B, C).
    """
    group = sample.image * n_classes + sample.cls  # (N,)
    embeddings = embeddings.float()
    sums = embeddings.new_zeros(n_images * n_classes, embeddings.shape[1]).index_add(0, group, embeddings)
    sums = sums.view(n_images, n_classes, -1)  # (B, C, D)
    counts = _group_counts(sample.image, sample.cls, n_images, n_classes)  # (B, C)
    return sums / counts.clamp(min=1).unsqueeze(-1), counts > 0


def cosine_logits(anchors: Tensor, means: Tensor, temperature: float) -> Tensor:
    """Compare every anchor with every class mean: sim(z_i, z̄_c) / τ of Eq. 4.

    Args:
        anchors: Embeddings of the anchors, shape (A, D).
        means: Class means, shape (K, C, D).
        temperature: τ.

    Returns:
        Logits in float32, shape (A, K, C); 0 where an embedding or a mean is zero.
    """
    # Autocast would round the cosines to half precision, and the division by τ magnifies that error.
    with torch.autocast(anchors.device.type, enabled=False):
        # Letters: a anchors, k images, c classes, d channels.
        cosine = torch.einsum("ad,kcd->akc", _directions(anchors.float()), _directions(means.float()))
    return cosine / temperature


def intra_matching(logits: Tensor, present: Tensor, image: Tensor, cls: Tensor) -> Tensor:
    """Eq. 4 with x' = x: the anchor's class mean against all class means of its own image.

    Args:
        logits: Logits of the anchors with all means, shape (A, K, C).
        present: Whether image k holds class c, shape (K, C).
        image: Image of each anchor, shape (A,).
        cls: Class of each anchor, shape (A,), present in its image.

    Returns:
        Loss of each anchor, shape (A,); 0 where its image holds no other class.
    """
    own = _of_each(logits, image).masked_fill(~present[image], _ABSENT)  # (A, C)
    losses: Tensor = own.logsumexp(1) - _of_each(own, cls)
    return losses


def inter_matching(logits: Tensor, present: Tensor, image: Tensor, cls: Tensor) -> Tensor:
    """Eq. 4 with x' ≠ x, averaged over all other images x' that hold any class.

    The denominator of a pair sums the class means of both images. Positives are the mean of the anchor's
    class in x and, where x' has that class, in x'; the loss is averaged over them.

    Args:
        logits: Logits of the anchors with all means, shape (A, K, C).
        present: Whether image k holds class c, shape (K, C).
        image: Image of each anchor, shape (A,).
        cls: Class of each anchor, shape (A,), present in its image.

    Returns:
        Loss of each anchor, shape (A,); 0 where no other image holds any class.
    """
    logits = logits.masked_fill(~present, _ABSENT)
    sums = logits.logsumexp(2)  # (A, K): log of the sum over the class means of one image
    denominators = torch.logaddexp(_of_each(sums, image).unsqueeze(1), sums)  # (A, K): of both images of the pair
    same_class = _of_each(logits.transpose(1, 2), cls)  # (A, K)
    own = _of_each(same_class, image).unsqueeze(1)  # (A, 1)
    positives = torch.where(present[:, cls].T, (own + same_class) / 2, own)  # (A, K)
    images = torch.arange(len(present), device=image.device)
    partners = present.any(1) & (images != image.unsqueeze(1))  # (A, K)
    losses = torch.where(partners, denominators - positives, 0.0)
    return losses.sum(1) / partners.sum(1).clamp(min=1)


def anchor_weights(image: Tensor, cls: Tensor, n_images: int, n_classes: int) -> Tensor:
    """Turn the nested means of Eq. 3 into one weight per anchor.

    It is 1 / (anchors of its class in its image · classes of its image · images with any class). Every image
    has the same number of partners, so the mean over images of the mean over partners is the mean over pairs.

    Args:
        image: Image of each anchor, shape (A,).
        cls: Class of each anchor, shape (A,).
        n_images: Images in the batch, B.
        n_classes: Foreground classes, C.

    Returns:
        Weights in float32, shape (A,), with sum 1 if there are any.
    """
    anchors = _group_counts(image, cls, n_images, n_classes)  # (B, C)
    classes = (anchors > 0).sum(1)  # (B,)
    images = (classes > 0).sum()
    return 1 / (anchors[image, cls] * classes[image] * images)


_MATCHINGS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "intra": intra_matching,
    "inter": inter_matching,
}


def _of_each(values: Tensor, index: Tensor) -> Tensor:
    """Take from each anchor's ``values`` (A, M, ...) the one with its ``index`` (A,), shape (A, ...).

    On a GPU the backward pass of ``values[each, index]`` would sort, in many small steps.
    """
    place = index.view(-1, *[1] * (values.ndim - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, place).squeeze(1)


def _group_counts(image: Tensor, cls: Tensor, n_images: int, n_classes: int) -> Tensor:
    """Count per image and class, shape (B, C), float32; ``bincount`` would wait for the device."""
    counts = torch.zeros(n_images * n_classes, dtype=torch.float32, device=image.device)
    counts = counts.index_add(0, image * n_classes + cls, counts.new_ones(len(image)))
    return counts.view(n_images, n_classes)


def _directions(vectors: Tensor) -> Tensor:
    """Scale vectors of shape (..., D) to norm 1; a zero vector stays zero and has zero gradient."""
    squared = vectors.square().sum(-1, keepdim=True)
    # The clamp keeps rsqrt finite where `where` discards it: 0 · inf in the backward pass would be NaN.
    inverse = squared.clamp(min=_ZERO_SQUARED_NORM).rsqrt()
    return vectors * torch.where(squared > _ZERO_SQUARED_NORM, inverse, 0.0)


def _check_arguments(
    embeddings: Tensor,
    sample: VoxelSample,
    n_images: int,
    n_classes: int,
    temperature: float,
    matching: str,
) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(sample):
        raise ValueError(f"embeddings must have shape ({len(sample)}, D), got {tuple(embeddings.shape)}")
    for name, value in (("n_images", n_images), ("n_classes", n_classes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not temperature > 0:  # written so that NaN is refused too
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if matching not in _MATCHINGS:
        raise ValueError(f"matching must be one of {sorted(_MATCHINGS)}, got {matching!r}")
