"""F48: a batch in which nothing can be contrasted costs exactly nothing, and no batch makes a gradient infinite."""

from __future__ import annotations

import pytest
import torch

from pcl_auto.method.contrastive_loss import Matching, local_contrastive_loss
from pcl_auto.method.sampling import sample_voxels

both_matchings = pytest.mark.parametrize("matching", ["intra", "inter"])


def loss_and_gradient(
    labels: torch.Tensor, values: torch.Tensor, matching: Matching
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of embeddings that are ``values`` everywhere in ``labels`` (B, *spatial), and their gradient."""
    sample = sample_voxels(labels, 2, 8)
    embeddings = values[torch.arange(len(sample)) % len(values)].clone().requires_grad_()
    loss = local_contrastive_loss(
        embeddings,
        sample,
        sample.anchors(4),
        n_images=len(labels),
        n_classes=2,
        temperature=0.1,
        matching=matching,
    )
    torch.autograd.backward(loss)
    assert embeddings.grad is not None
    return loss.detach(), embeddings.grad


RANDOM = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))


@both_matchings
def test_f48_no_foreground(matching: Matching) -> None:
    loss, gradient = loss_and_gradient(torch.zeros(2, 4, 4, dtype=torch.long), RANDOM, matching)
    assert loss == 0
    assert gradient.shape == (0, 5)


def test_f48_one_class_only() -> None:
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    loss, gradient = loss_and_gradient(labels, RANDOM, "intra")
    assert loss == 0
    assert (gradient == 0).all()


def test_f48_no_other_image_to_compare_with() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, 0], labels[0, 1] = 1, 2
    loss, gradient = loss_and_gradient(labels, RANDOM, "inter")
    assert loss == 0
    assert (gradient == 0).all()


def test_f48_no_positive_in_the_other_image() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0], labels[1] = 1, 2
    loss, gradient = loss_and_gradient(labels, RANDOM, "inter")
    assert loss > 0
    assert gradient.isfinite().all()


@both_matchings
def test_f48_one_voxel(matching: Matching) -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0, 0] = 1
    loss, gradient = loss_and_gradient(labels, RANDOM, matching)
    assert loss == 0
    assert (gradient == 0).all()


@both_matchings
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 6e-8, 1e-3, 6e4])
def test_f48_features_without_direction_and_at_the_end_of_half_precision(
    matching: Matching, dtype: torch.dtype, value: float
) -> None:
    labels = torch.tensor([1, 2], dtype=torch.long).repeat(2, 8).view(2, 4, 4)
    loss, gradient = loss_and_gradient(labels, torch.full((3, 5), value, dtype=dtype), matching)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if value == 0:
        assert (gradient == 0).all()
