"""The contrastive head."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcl_auto.method.loss import ContrastHead
from pcl_auto.method.sampling import gather_features, sample_voxels


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
def test_equals_two_1x1_convolutions_before_gathering(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = ContrastHead(8)
    first, second = (layer for layer in head.layers if isinstance(layer, nn.Linear))
    features = torch.randn(2, 8, *shape)
    sample = sample_voxels(torch.randint(0, 3, (2, *shape)), 2, 7)

    convolve = functional.conv2d if len(shape) == 2 else functional.conv3d
    kernel = (1,) * len(shape)
    hidden = convolve(features, first.weight.view(8, 8, *kernel), first.bias)
    full = convolve(functional.leaky_relu(hidden, 0.01), second.weight.view(16, 8, *kernel), second.bias)

    torch.testing.assert_close(head(gather_features(features, sample)), gather_features(full, sample))


def test_has_as_many_channels_as_asked_for() -> None:
    assert ContrastHead(8)(torch.rand(3, 8)).shape == (3, 16)
    assert ContrastHead(8, 4)(torch.rand(3, 8)).shape == (3, 4)


def test_takes_no_voxels() -> None:
    head = ContrastHead(8)
    torch.autograd.backward(head(torch.rand(0, 8)).sum())
    assert all(p.grad is not None and torch.equal(p.grad, torch.zeros_like(p)) for p in head.parameters())
