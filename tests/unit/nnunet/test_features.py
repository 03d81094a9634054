"""The features of the last decoder stage, with and without compilation."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from pcl_auto.errors import StateError
from pcl_auto.nnunet.features import DecoderFeatures, unwrapped


def network(dimensions: int) -> PlainConvUNet:
    torch.manual_seed(0)
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimensions]
    return PlainConvUNet(
        2, 2, [6, 8], conv, 3, [1, 2], 1, 3, 1, True, norm, {"affine": True}, None, None, nn.LeakyReLU,
        {"inplace": True}, deep_supervision=False,
    )  # fmt: skip


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_what_the_segmentation_layer_sees(dimensions: int) -> None:
    model = network(dimensions)
    features = DecoderFeatures(model)
    output = model(torch.randn(2, 2, *[8] * dimensions))
    taken = features.take()
    assert features.width == taken.shape[1] == 6
    assert taken.shape[2:] == output.shape[2:]
    torch.testing.assert_close(model.decoder.seg_layers[-1](taken), output)


def test_compiled_network_gives_the_same_features_and_gradients() -> None:
    x = torch.randn(2, 2, 8, 8, 8)
    gradients, values = [], []
    for compiled in (False, True):
        model = network(3)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        features = DecoderFeatures(run)
        for _ in range(2):  # the second pass runs what the first has compiled
            model.zero_grad()
            output = run(x)
            taken = features.take()
            (output.mean() + taken.square().mean()).backward()
        values.append(taken.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_features_are_handed_out_once_and_not_kept_in_inference() -> None:
    model = network(2)
    features = DecoderFeatures(model)
    model(torch.randn(1, 2, 8, 8))
    features.take()
    with pytest.raises(RuntimeError, match="no forward pass"):
        features.take()
    with torch.no_grad():
        model(torch.randn(1, 2, 8, 8))
    with pytest.raises(RuntimeError, match="no forward pass"):
        features.take()


def test_hook_changes_no_name_of_the_network() -> None:
    model = network(2)
    names = list(model.state_dict())
    DecoderFeatures(model)
    assert list(model.state_dict()) == names
    assert unwrapped(torch.compile(model, backend="eager")) is model


def test_network_without_a_decoder_is_refused_by_name() -> None:
    with pytest.raises(StateError, match="Sequential"):
        DecoderFeatures(nn.Sequential(nn.Linear(2, 2)))
