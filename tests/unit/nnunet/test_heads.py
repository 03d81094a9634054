"""The segmentation head, drawn anew."""

from __future__ import annotations

import copy

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from pcl_auto.nnunet.network import restart_segmentation_head


def trained() -> tuple[PlainConvUNet, torch.optim.Optimizer]:
    """A small network after one step."""
    torch.manual_seed(0)
    network = PlainConvUNet(
        1, 3, (8, 16, 32), nn.Conv2d, 3, (1, 2, 2), 1, 3, 1,
        conv_bias=True, norm_op=nn.InstanceNorm2d, nonlin=nn.LeakyReLU, deep_supervision=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    torch.autograd.backward(sum(output.square().mean() for output in network(torch.randn(2, 1, 16, 16))))
    optimizer.step()
    return network, optimizer


def test_only_the_head_is_new_and_so_is_what_the_optimizer_knows_of_it() -> None:
    network, optimizer = trained()
    before = copy.deepcopy(network.state_dict())
    restart_segmentation_head(network, optimizer, seed=3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == ("seg_layers" not in name), name
    head = set(network.decoder.seg_layers.parameters())
    assert all((parameter in optimizer.state) != (parameter in head) for parameter in network.parameters())
    # nnU-Net's rule: normal weights by the fan-in, no bias.
    for layer in network.decoder.seg_layers:
        assert not layer.bias.any()
        assert 0 < layer.weight.std() < 3 * (2 / layer.in_channels) ** 0.5


def test_a_seed_draws_the_same_head_and_leaves_the_generator_alone() -> None:
    def restarted(seed: int, waste: int = 0) -> dict[str, torch.Tensor]:
        network, optimizer = trained()
        torch.randn(waste)
        state = torch.get_rng_state()
        restart_segmentation_head(network, optimizer, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        head: dict[str, torch.Tensor] = network.decoder.seg_layers.state_dict()
        return head

    first, second = restarted(3), restarted(3, waste=5)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(restarted(4)["1.weight"], first["1.weight"])
