"""Reach into networks: features of a forward pass, the last layers drawn anew, the number format."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from refusal import refused
from torch import nn

from pcl_auto.errors import StateError
from pcl_auto.method.sampling import gather_features, sample_voxels
from pcl_auto.nnunet import network as precision
from pcl_auto.nnunet.network import DecoderFeatures, restart_segmentation_head, unwrapped


def network(dimensions: int) -> PlainConvUNet:
    torch.manual_seed(0)
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimensions]
    return PlainConvUNet(
        2, 2, [6, 8], conv, 3, [1, 2], 1, 3, 1, True, norm, {"affine": True}, None, None, nn.LeakyReLU,
        {"inplace": True}, deep_supervision=False,
    )  # fmt: skip


def compiled_by(backend: str, model: nn.Module) -> nn.Module:
    """Compile ``model`` with ``backend``."""
    run = torch.compile(model, backend=backend)
    assert isinstance(run, nn.Module)
    return run


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_what_the_segmentation_layer_sees(dimensions: int) -> None:
    model = network(dimensions)
    features = DecoderFeatures(model)
    output = model(torch.randn(2, 2, *[8] * dimensions))
    taken = features.take()
    assert features.width == taken.shape[1] == 6
    assert taken.shape[2:] == output.shape[2:]
    torch.testing.assert_close(model.decoder.seg_layers[-1](taken), output)


@pytest.mark.slow
def test_compiled_network_gives_the_same_features_and_gradients() -> None:
    x = torch.randn(2, 2, 8, 8, 8)
    gradients, values = [], []
    for compiled in (False, True):
        model = network(3)
        run = compiled_by("aot_eager", model) if compiled else model
        features = DecoderFeatures(run)
        passes = []
        for _ in range(2):  # the second pass runs what the first has compiled
            model.zero_grad()
            output = run(x)
            taken = features.take()
            torch.autograd.backward(output.mean() + taken.square().mean())
            passes.append(taken.detach())
        values.append(passes[-1])
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("compiled", [False, True])
def test_vectors_of_a_second_pass_have_the_gradients_of_one_pass_over_all(compiled: bool) -> None:
    """Reference: both batches in one forward pass that keeps everything."""
    labels = torch.randint(0, 3, (4, 8, 8, 8))
    sample = sample_voxels(labels, 2, 5)
    first, second = sample.split(2)
    images, views = torch.randn(2, 2, 8, 8, 8), torch.randn(2, 2, 8, 8, 8)
    weights = torch.randn(len(sample), 6)
    values, gradients = [], []
    for way in ("whole", "vectors", "recomputed_vectors"):
        model = network(3)
        run = compiled_by("aot_eager", model) if compiled else model
        features = DecoderFeatures(run)
        if way == "whole":
            output = run(torch.cat([images, views]))[:2]
            vectors = gather_features(features.take(), sample)
        else:
            of_views = getattr(features, way)(run, views, second)
            output = run(images)
            vectors = torch.cat([gather_features(features.take(), first), of_views])
        torch.autograd.backward((vectors.tanh() * weights).sum() + output.square().mean())
        values.append(vectors.detach())
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        with pytest.raises(RuntimeError, match="no forward pass"):
            features.take()
    for other in (1, 2):
        torch.testing.assert_close(values[other], values[0])
        torch.testing.assert_close(gradients[other], gradients[0], rtol=1e-4, atol=1e-5)


@dataclass(eq=False)
class Saved:
    """A tensor saved for the backward pass."""

    value: torch.Tensor


class Held:
    """Bytes that are saved for the backward pass and not yet let go of."""

    def __init__(self) -> None:
        self.tensors: list[weakref.ref[Saved]] = []

    def pack(self, value: torch.Tensor) -> Saved:
        kept = Saved(value)
        self.tensors.append(weakref.ref(kept))
        return kept

    def bytes(self) -> int:
        alive = [kept.value.untyped_storage() for kept in (reference() for reference in self.tensors) if kept]
        return sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values())


def test_recomputed_vectors_hold_the_activations_of_one_pass_at_a_time() -> None:
    model, held, before_passes = network(3), Held(), []
    features = DecoderFeatures(model)
    sample = sample_voxels(torch.ones(1, 16, 16, 16, dtype=torch.long), 1, 5)
    images = torch.randn(1, 2, 16, 16, 16)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        before_passes.append(held.bytes())
        logits: torch.Tensor = model(batch)
        return logits

    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda kept: kept.value):
        vectors = features.recomputed_vectors(forward, images, sample)
        output = forward(images)
        after_passes = held.bytes()
        loss = output.square().mean() + gather_features(features.take(), sample).sum() + vectors.square().sum()
        del vectors, output
        torch.autograd.backward(loss)
    small = images.nbytes + sum(parameter.nbytes for parameter in model.parameters())
    assert len(before_passes) == 3
    assert max(before_passes) <= small
    assert after_passes > 10 * small


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
    assert unwrapped(compiled_by("eager", model)) is model


def test_network_without_a_decoder_is_refused_by_name() -> None:
    with refused(StateError, "model.features-unreachable") as refusal:
        DecoderFeatures(nn.Sequential(nn.Linear(2, 2)))
    assert refusal.problem.where == "Sequential"


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


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_in_what_it_is_fast_in(monkeypatch: pytest.MonkeyPatch, fast: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(precision, "fast_in_bfloat16", lambda: fast)
    layer = torch.nn.Conv2d(1, 1, 1)
    with precision.half_precision(torch.device("cpu")):
        assert layer(torch.zeros(1, 1, 2, 2)).dtype == expected


def test_other_devices_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_in_bfloat16", lambda: True)
    with precision.half_precision(torch.device("meta")):
        assert not torch.is_autocast_enabled()
