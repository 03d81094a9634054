"""Reach into networks: features of a forward pass, the last layers drawn anew, the number format."""

from __future__ import annotations

import contextlib
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
from pcl_auto.nnunet.network import (
    DecoderFeatures,
    FeatureDropout,
    draw_anew,
    restart_segmentation_head,
    segmentation_head,
    unwrapped,
    weight_count,
)

# The paper's head: three convolutions before the last layer.
HEADS = [0, 3]


def network(dimensions: int, head: int = 0) -> PlainConvUNet:
    """A network of one convolution a stage, and ``head`` more in the last stage of its decoder."""
    torch.manual_seed(0)
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimensions]
    return PlainConvUNet(
        2, 2, [6, 8], conv, 3, [1, 2], 1, 3, [1 + head], True, norm, {"affine": True}, None, None, nn.LeakyReLU,
        {"inplace": True}, deep_supervision=False,
    )  # fmt: skip


def compiled_by(backend: str, model: nn.Module) -> nn.Module:
    """Compile ``model`` with ``backend``."""
    run = torch.compile(model, backend=backend)
    assert isinstance(run, nn.Module)
    return run


def test_weights_are_counted_without_a_network() -> None:
    planned = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [6, 8],
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": {"affine": True},
            "nonlin": "torch.nn.LeakyReLU",
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    made = network(3)
    assert weight_count({"architecture": planned}, 2, 3) == sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_what_the_segmentation_layer_sees(dimensions: int) -> None:
    model = network(dimensions)
    features = DecoderFeatures(model)
    output = model(torch.randn(2, 2, *[8] * dimensions))
    taken = features.take()
    assert features.width == taken.shape[1] == 6
    assert taken.shape[2:] == output.shape[2:]
    torch.testing.assert_close(model.decoder.seg_layers[-1](taken), output)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_what_the_first_convolution_of_the_head_sees(dimensions: int) -> None:
    """Reference: the encoder, what is below the head of the one decoder stage, and the head, step by step."""
    model = network(dimensions, head=3)
    features = DecoderFeatures(model, 3)
    images = torch.randn(2, 2, *[8] * dimensions)
    output = model(images)
    taken = features.take()
    assert features.width == taken.shape[1] == 6
    skip, lowest = model.encoder(images)
    shared, first, second, third = model.decoder.stages[-1].convs
    torch.testing.assert_close(taken, shared(torch.cat([model.decoder.transpconvs[-1](lowest), skip], 1)))
    torch.testing.assert_close(model.decoder.seg_layers[-1](third(second(first(taken)))), output)
    torch.testing.assert_close(nn.Sequential(*segmentation_head(model, 3))(taken), output)


def test_a_head_that_would_leave_nothing_before_it_is_refused() -> None:
    with refused(StateError, "model.features-unreachable") as refusal:
        DecoderFeatures(network(2, head=2), 3)
    assert refusal.problem.expected == "more than 3 convolutions in the last decoder stage"


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_compiled_network_gives_the_same_features_and_gradients(head: int) -> None:
    x = torch.randn(2, 2, 8, 8, 8)
    gradients, values = [], []
    for compiled in (False, True):
        model = network(3, head)
        run = compiled_by("aot_eager", model) if compiled else model
        features = DecoderFeatures(run, head)
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


@pytest.mark.parametrize(("compiled", "head"), [(False, 0), (True, 0), (False, 3), (True, 3)])
def test_vectors_of_a_second_pass_have_the_gradients_of_one_pass_over_all(compiled: bool, head: int) -> None:
    """Reference: both batches in one forward pass that keeps everything."""
    labels = torch.randint(0, 3, (4, 8, 8, 8))
    sample = sample_voxels(labels, 2, 5)
    first, second = sample.split(2)
    images, views = torch.randn(2, 2, 8, 8, 8), torch.randn(2, 2, 8, 8, 8)
    weights = torch.randn(len(sample), 6)
    values, gradients = [], []
    for way in ("whole", "vectors", "recomputed_vectors"):
        model = network(3, head)
        run = compiled_by("aot_eager", model) if compiled else model
        features = DecoderFeatures(run, head)
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


def trained(head: int = 0) -> tuple[PlainConvUNet, torch.optim.Optimizer]:
    """A small network after one step."""
    torch.manual_seed(0)
    network = PlainConvUNet(
        1, 3, (8, 16, 32), nn.Conv2d, 3, (1, 2, 2), 1, 3, (1, 1 + head), conv_bias=True, norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, deep_supervision=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    torch.autograd.backward(sum(output.square().mean() for output in network(torch.randn(2, 1, 16, 16))))
    optimizer.step()
    return network, optimizer


@pytest.mark.parametrize("convolutions", HEADS)
def test_only_the_head_is_new_and_so_is_what_the_optimizer_knows_of_it(convolutions: int) -> None:
    network, optimizer = trained(convolutions)
    before = copy.deepcopy(network.state_dict())
    restart_segmentation_head(network, optimizer, 3, convolutions)
    last_stage = network.decoder.stages[-1].convs
    parts = [network.decoder.seg_layers, *(last_stage[number] for number in range(1, 1 + convolutions))]
    head = {id(parameter) for part in parts for parameter in part.parameters()}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        assert torch.equal(parameter, before[name]) == (id(parameter) not in head), name
    assert all((parameter in optimizer.state) != (id(parameter) in head) for parameter in network.parameters())
    # nnU-Net's rule: normal weights by the fan-in, no bias; a normalization that changes nothing.
    for layer in (layer for part in parts for layer in part.modules()):
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            assert not layer.bias.any()
            assert 0 < layer.weight.std() < 3 * (2 / layer.weight[0].numel()) ** 0.5
        if isinstance(layer, nn.InstanceNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


@pytest.mark.parametrize("convolutions", HEADS)
def test_a_seed_draws_the_same_head_and_leaves_the_generator_alone(convolutions: int) -> None:
    def restarted(seed: int, waste: int = 0) -> dict[str, torch.Tensor]:
        network, optimizer = trained(convolutions)
        torch.randn(waste)
        state = torch.get_rng_state()
        restart_segmentation_head(network, optimizer, seed, convolutions)
        assert torch.equal(torch.get_rng_state(), state)
        head: dict[str, torch.Tensor] = nn.Sequential(*segmentation_head(network, convolutions)).state_dict()
        return head

    first, second = restarted(3), restarted(3, waste=5)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    other = restarted(4)
    assert not any(torch.equal(value, other[name]) for name, value in first.items() if value.ndim == 4)


def test_a_deeper_head_changes_nothing_of_how_the_last_layers_are_drawn() -> None:
    (alone, with_optimizer), (deeper, its_optimizer) = trained(0), trained(3)
    restart_segmentation_head(alone, with_optimizer, 3)
    restart_segmentation_head(deeper, its_optimizer, 3, 3)
    for name, value in alone.decoder.seg_layers.state_dict().items():
        assert torch.equal(value, deeper.decoder.seg_layers.state_dict()[name])


def test_a_cpu_trains_in_float32() -> None:
    """Its kernels for bfloat16 write beyond their memory at some sizes of a patch."""
    layer = torch.nn.Conv2d(1, 1, 1)
    with precision.half_precision(torch.device("cpu")):
        assert layer(torch.zeros(1, 1, 2, 2)).dtype == torch.float32


def test_other_devices_stay_as_they_are() -> None:
    with precision.half_precision(torch.device("meta")):
        assert not torch.is_autocast_enabled()


def test_a_network_drawn_anew_is_one_that_was_never_trained() -> None:
    model, _ = trained()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(5.0)
    state = torch.get_rng_state()
    draw_anew(model, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for layer in model.modules():
        if isinstance(layer, nn.InstanceNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            assert layer.bias is not None
            assert not layer.bias.any()
            assert abs(float(layer.weight.detach().mean())) < 1
    again, _ = trained()
    draw_anew(again, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    draw_anew(again, seed=4)
    assert not torch.equal(
        model.encoder.stages[0][0].convs[0].conv.weight, again.encoder.stages[0][0].convs[0].conv.weight
    )


@pytest.mark.parametrize("deepest_only", [False, True])
def test_channels_are_dropped_from_the_images_that_are_named(deepest_only: bool) -> None:
    model, _ = trained()
    plain = copy.deepcopy(model)
    dropout = FeatureDropout(model, 0.5, deepest_only=deepest_only)
    images = torch.randn(4, 1, 16, 16)
    assert torch.equal(model(images)[0], plain(images)[0])
    skips = plain.encoder(images)
    with dropout.from_image(1):
        dropped = model.encoder(images)
    for level, (found, features) in enumerate(zip(dropped, skips, strict=True)):
        assert torch.equal(found[0], features[0])
        factors = (found[1:] / features[1:]).nan_to_num()
        if deepest_only and level < len(skips) - 1:
            assert torch.equal(found, features)
        else:
            # Whole channels are 0, the others doubled.
            first = factors.flatten(2)[:, :, :1].expand_as(factors.flatten(2))
            torch.testing.assert_close(factors.flatten(2), first)
            assert {round(value) for value in factors[:, :, 0, 0].flatten().tolist()} == {0, 2}
    assert torch.equal(model(images)[0], plain(images)[0])
    assert list(model.state_dict()) == list(plain.state_dict())


def test_channels_are_dropped_in_a_compiled_network_too() -> None:
    plain, _ = trained()
    model = copy.deepcopy(plain)
    compiled = compiled_by("eager", model)
    dropouts = [FeatureDropout(network, 0.5) for network in (plain, compiled)]
    images = torch.randn(3, 1, 16, 16)
    for first in (None, 0, 2, None, 1):
        outputs = []
        for network, dropout in zip((plain, compiled), dropouts, strict=True):
            torch.manual_seed(1)
            with contextlib.nullcontext() if first is None else dropout.from_image(first):
                outputs.append(network(images)[0])
        torch.testing.assert_close(*outputs)
