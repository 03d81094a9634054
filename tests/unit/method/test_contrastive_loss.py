"""The local contrastive loss against its equations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from pairs import in_pairs
from reference import contrastive_loss, sampled_groups
from torch import Tensor, nn
from torch.nn import functional

from pcl_auto.method.contrastive_loss import (
    ContrastHead,
    Matching,
    anchor_weights,
    class_means,
    cosine_logits,
    inter_matching,
    intra_matching,
    local_contrastive_loss,
)
from pcl_auto.method.sampling import VoxelSample, gather_features, sample_voxels

MATCHINGS: Sequence[Matching] = ["intra", "inter"]


def sample_of(*images: dict[int, int]) -> VoxelSample:
    """A sample from the number of drawn voxels per class, one mapping per image."""
    rows = [
        (image, cls, rank)
        for image, classes in enumerate(images)
        for cls, count in classes.items()
        for rank in range(count)
    ]
    image, cls, rank = torch.tensor(rows, dtype=torch.long).reshape(-1, 3).T
    return VoxelSample(image=image, cls=cls, voxel=torch.arange(len(rows)), rank=rank)


def random_embeddings(sample: VoxelSample, channels: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(len(sample), channels, generator=torch.Generator().manual_seed(seed))


def loss_of(embeddings: Tensor, sample: VoxelSample, matching: Matching, **changes: Any) -> Tensor:
    settings: dict[str, Any] = {"n_images": 4, "n_classes": 4, "n_anchors": 3, "temperature": 0.1} | changes
    anchors = sample.anchors(settings.pop("n_anchors"))
    return local_contrastive_loss(embeddings, sample, anchors, matching=matching, **settings)


def reference_of(
    embeddings: Tensor, sample: VoxelSample, matching: Matching, n_anchors: int = 3, temperature: float = 0.1
) -> float:
    groups = sampled_groups(sample.image.tolist(), sample.cls.tolist(), sample.rank.tolist())
    return contrastive_loss(embeddings.double().tolist(), groups, n_anchors, temperature, matching)


COMPLETE = sample_of({0: 5, 1: 4, 2: 3}, {0: 2, 1: 6, 2: 4}, {0: 4, 1: 4, 2: 4})
ABSENT = sample_of({0: 5, 3: 1}, {}, {1: 4, 2: 2, 3: 7}, {2: 3})
DISJOINT = sample_of({0: 3, 1: 2}, {2: 3, 3: 2})
ONE_IMAGE = sample_of({0: 3, 1: 5})
ONE_CLASS = sample_of({0: 3}, {0: 4})
LONE_CLASSES = sample_of({0: 3}, {2: 4}, {3: 1})
NOTHING = sample_of()
SAMPLES = {
    "complete": COMPLETE,
    "absent classes": ABSENT,
    "disjoint classes": DISJOINT,
    "one image": ONE_IMAGE,
    "one class": ONE_CLASS,
    "one class per image": LONE_CLASSES,
    "nothing": NOTHING,
}
every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
every_matching = pytest.mark.parametrize("matching", MATCHINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"n_anchors": 0}, "anchors per class must be at least 1, got 0"),
        ({"n_images": 0}, "n_images must be at least 1, got 0"),
        ({"n_classes": -1}, "n_classes must be at least 1, got -1"),
        ({"matching": "all"}, r"matching must be one of \['inter', 'intra'\], got 'all'"),
        ({"embeddings": torch.rand(7, 6)}, r"embeddings must have shape \(8, D\), got \(7, 6\)"),
        ({"embeddings": torch.rand(8)}, r"embeddings must have shape \(8, D\), got \(8,\)"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"embeddings": torch.rand(8, 6), "sample": ONE_IMAGE, "matching": "intra"} | changes
    with pytest.raises(ValueError, match=message):
        loss_of(**arguments)


@in_pairs(
    sample=SAMPLES,
    matching=MATCHINGS,
    n_anchors=[1, 3, 100],
    temperature=[0.1, 1.0],
    dtype=[torch.float32, torch.bfloat16, torch.float16, torch.float64],
)
def test_equals_the_reference(
    sample: VoxelSample, matching: Matching, n_anchors: int, temperature: float, dtype: torch.dtype
) -> None:
    # The reference gets the rounded embeddings, so half precision must not cost any accuracy in the loss.
    embeddings = random_embeddings(sample).to(dtype)
    loss = loss_of(embeddings, sample, matching, n_anchors=n_anchors, temperature=temperature)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    expected = reference_of(embeddings, sample, matching, n_anchors, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@in_pairs(shape=[(8, 7), (6, 5, 4)], n_images=[1, 2, 4], n_classes=[1, 2, 3, 4], per_class=[0, 6], matching=MATCHINGS)
def test_equals_the_reference_on_label_maps(
    shape: tuple[int, ...], n_images: int, n_classes: int, per_class: int, matching: Matching
) -> None:
    generator = torch.Generator().manual_seed(n_images * 10 + n_classes)
    labels = torch.randint(-1, n_classes + 2, (n_images, *shape), generator=generator)
    labels[-1][labels[-1] == n_classes] = 0  # the last image lacks the last class
    sample = sample_voxels(labels, n_classes, per_class, generator)
    features = torch.randn(n_images, 5, *shape, generator=generator)
    embeddings = gather_features(features, sample)
    loss = loss_of(embeddings, sample, matching, n_images=n_images, n_classes=n_classes)
    assert loss.item() == pytest.approx(reference_of(embeddings, sample, matching), rel=1e-5, abs=1e-5)


@every_matching
@pytest.mark.parametrize("sample", [COMPLETE, ABSENT, DISJOINT], ids=["complete", "absent", "disjoint"])
def test_gradient_equals_finite_differences_of_the_reference(sample: VoxelSample, matching: Matching) -> None:
    embeddings = random_embeddings(sample, channels=3).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(embeddings, sample, matching, temperature=0.5), embeddings)
    step = 1e-5
    expected = torch.zeros(embeddings.shape)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in embeddings.shape)).tolist():
        values = []
        for sign in (1, -1):
            moved = embeddings.detach().double()
            moved[tuple(index)] += sign * step
            values.append(reference_of(moved, sample, matching, temperature=0.5))
        expected[tuple(index)] = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@in_pairs(matching=MATCHINGS, n_classes=[2, 3, 4], temperature=[0.05, 0.1, 1.0])
def test_separated_classes_have_the_closed_form(matching: Matching, n_classes: int, temperature: float) -> None:
    # Every voxel of class c is the unit vector e_c: similarity 1 with its class, 0 with the others.
    sample = sample_of(*[dict.fromkeys(range(n_classes), 5)] * 3)
    embeddings = torch.eye(n_classes)[sample.cls]
    images = 1 if matching == "intra" else 2
    attraction = math.exp(1 / temperature)
    expected = math.log(images * (attraction + n_classes - 1)) - 1 / temperature
    loss = loss_of(embeddings, sample, matching, temperature=temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize(
    ("sample", "matching", "expected"),
    [
        (COMPLETE, "intra", math.log(3)),
        (COMPLETE, "inter", math.log(6)),
        (DISJOINT, "intra", math.log(2)),
        (DISJOINT, "inter", math.log(4)),
        (ONE_CLASS, "inter", math.log(2)),
        # Images with 2, 0, 3 and 1 classes; pairs of 2 + 3, 2 + 1 and 3 + 1 means, each pair in both orders.
        (ABSENT, "intra", (math.log(2) + math.log(3) + math.log(1)) / 3),
        (ABSENT, "inter", (math.log(5) + math.log(3) + math.log(4)) / 3),
    ],
)
def test_equal_embeddings_count_the_terms(sample: VoxelSample, matching: Matching, expected: float) -> None:
    embeddings = torch.ones(len(sample), 6)
    assert loss_of(embeddings, sample, matching).item() == pytest.approx(expected, rel=1e-6)


@every_sample
@every_matching
def test_order_of_images_classes_and_rows_does_not_matter(sample: VoxelSample, matching: Matching) -> None:
    embeddings = random_embeddings(sample)
    expected = loss_of(embeddings, sample, matching)
    images, classes = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 0, 2])
    rows = torch.randperm(len(sample), generator=torch.Generator().manual_seed(0))
    permuted = VoxelSample(
        image=images[sample.image[rows]],
        cls=classes[sample.cls[rows]],
        voxel=sample.voxel[rows],
        rank=sample.rank[rows],
    )
    torch.testing.assert_close(loss_of(embeddings[rows], permuted, matching), expected)


@every_matching
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scale_does_not_matter(matching: Matching, scale: float) -> None:
    embeddings = random_embeddings(ABSENT)
    torch.testing.assert_close(loss_of(embeddings * scale, ABSENT, matching), loss_of(embeddings, ABSENT, matching))


@every_matching
def test_empty_images_and_classes_do_not_matter(matching: Matching) -> None:
    embeddings = random_embeddings(DISJOINT)
    # Close, not equal: how a processor adds up a row depends on the row's length.
    torch.testing.assert_close(
        loss_of(embeddings, DISJOINT, matching, n_images=9, n_classes=7),
        loss_of(embeddings, DISJOINT, matching, n_images=2, n_classes=4),
    )


@every_matching
def test_every_pair_and_class_weighs_the_same_however_many_voxels(matching: Matching) -> None:
    # Copying every voxel of one group leaves its mean; with all voxels as anchors the loss must stay too.
    embeddings = random_embeddings(COMPLETE)
    twice = torch.cat([torch.arange(len(COMPLETE)), torch.arange(5)])
    copied = VoxelSample(**{name: rows[twice] for name, rows in vars(COMPLETE).items()})
    copied = replace(copied, rank=torch.cat([COMPLETE.rank, torch.arange(5, 10)]))
    torch.testing.assert_close(
        loss_of(embeddings[twice], copied, matching, n_anchors=100),
        loss_of(embeddings, COMPLETE, matching, n_anchors=100),
    )


@every_matching
@pytest.mark.parametrize("sample", [COMPLETE, ABSENT, DISJOINT], ids=["complete", "absent", "disjoint"])
def test_every_step_along_the_gradient_lowers_the_loss(sample: VoxelSample, matching: Matching) -> None:
    embeddings = random_embeddings(sample).requires_grad_()
    losses = []
    for _ in range(100):
        loss = loss_of(embeddings, sample, matching, temperature=0.5)
        (gradient,) = torch.autograd.grad(loss, embeddings)
        losses.append(loss.item())
        embeddings = (embeddings - gradient).detach().requires_grad_()
    assert all(after < before for before, after in pairwise(losses))


@every_matching
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_is_rounded_to_half_precision_only_once(matching: Matching, dtype: torch.dtype) -> None:
    half = random_embeddings(COMPLETE).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    (rounded,) = torch.autograd.grad(loss_of(half, COMPLETE, matching), half)
    (exact,) = torch.autograd.grad(loss_of(full, COMPLETE, matching), full)
    assert torch.equal(rounded, exact.to(dtype))


@every_matching
def test_means_carry_gradient(matching: Matching) -> None:
    embeddings = random_embeddings(COMPLETE).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(embeddings, COMPLETE, matching, n_anchors=1), embeddings)
    # Rows of higher rank are no anchors: only through the class means can they be reached.
    assert (gradient[COMPLETE.rank > 0].abs().sum(1) > 1e-6).all()


@in_pairs(
    sample=SAMPLES,
    matching=MATCHINGS,
    value=["random", "equal", "zero", "opposite", "tiny", "huge"],
    dtype=[torch.float32, torch.bfloat16, torch.float16],
)
def test_loss_and_gradient_are_finite(sample: VoxelSample, matching: Matching, value: str, dtype: torch.dtype) -> None:
    alternating = torch.ones(len(sample), 6) * (1 - 2 * (torch.arange(len(sample)) % 2)).unsqueeze(1)
    embeddings = {
        "random": random_embeddings(sample),
        "equal": torch.ones(len(sample), 6),
        "zero": torch.zeros(len(sample), 6),
        "opposite": alternating,  # class means of even groups are exactly zero
        "tiny": torch.full((len(sample), 6), 1e-7),
        "huge": torch.full((len(sample), 6), 6e4),
    }[value]
    embeddings = embeddings.to(dtype).requires_grad_()
    loss = loss_of(embeddings, sample, matching, temperature=0.01)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("sample", "matching"),
    [
        (NOTHING, "intra"),
        (NOTHING, "inter"),
        (ONE_IMAGE, "inter"),
        (ONE_CLASS, "intra"),
        (LONE_CLASSES, "intra"),
    ],
)
def test_is_zero_where_nothing_can_be_contrasted(sample: VoxelSample, matching: Matching) -> None:
    embeddings = random_embeddings(sample).requires_grad_()
    loss = loss_of(embeddings, sample, matching)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert torch.equal(gradient, torch.zeros_like(embeddings))


@every_matching
def test_autocast_changes_nothing_after_the_head(matching: Matching) -> None:
    embeddings = random_embeddings(COMPLETE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_of(embeddings, COMPLETE, matching)
    assert torch.equal(inside, loss_of(embeddings, COMPLETE, matching))


@every_matching
def test_trains_features_and_head_under_autocast(matching: Matching) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 6, 5, 4))
    features = torch.randn(2, 8, 6, 5, 4, requires_grad=True)
    head = ContrastHead(8)
    sample = sample_voxels(labels, 2, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = head(gather_features(features, sample))
        loss = loss_of(embeddings, sample, matching)
    torch.autograd.backward(loss)
    assert embeddings.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    for tensor in (features, *head.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0
    assert features.grad is not None
    assert not features.grad[:, :, labels[0] == 0][0].any()  # the background is in no term


def test_class_means_are_the_means_and_say_what_is_there() -> None:
    sample = sample_of({0: 2}, {1: 1})
    embeddings = torch.tensor([[1.0, 2.0], [3.0, 4.0], [7.0, 8.0]])
    means, present = class_means(embeddings, sample, n_images=2, n_classes=2)
    assert means.tolist() == [[[2, 3], [0, 0]], [[0, 0], [7, 8]]]
    assert present.tolist() == [[True, False], [False, True]]


def test_cosine_logits_of_readable_angles() -> None:
    def directions(*degrees: float) -> Tensor:
        return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    logits = cosine_logits(directions(0, 90), 3 * directions(0, 60, 180, 270).view(2, 2, 2), 0.5)
    expected = [[[2, 1], [-2, 0]], [[0, 3**0.5], [0, -2]]]
    torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=1e-6)


def test_matchings_accept_means_of_images_outside_the_batch() -> None:
    # One batch image with classes 0 and 1, and a bank of two more images of which one is empty.
    present = torch.tensor([[True, True], [True, False], [False, False]])
    logits = torch.zeros(2, 3, 2)
    image, cls = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert intra_matching(logits, present, image, cls).tolist() == pytest.approx([math.log(2)] * 2)
    assert inter_matching(logits, present, image, cls).tolist() == pytest.approx([math.log(3)] * 2)


def test_anchor_weights_are_the_nested_means() -> None:
    # Image 0: two anchors of class 0 and one of class 1; image 1: nothing; image 2: one anchor of class 1.
    image, cls = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 0, 1, 1])
    assert anchor_weights(image, cls, n_images=3, n_classes=2).tolist() == [1 / 8, 1 / 8, 1 / 4, 1 / 2]


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


@pytest.mark.parametrize("batch_norm", [False, True])
def test_takes_no_voxels(batch_norm: bool) -> None:
    head = ContrastHead(8, batch_norm=batch_norm)
    torch.autograd.backward(head(torch.rand(0, 8)).sum())
    assert all(p.grad is not None and torch.equal(p.grad, torch.zeros_like(p)) for p in head.parameters())


def test_batch_normalization_is_over_the_voxels_of_every_image() -> None:
    """Reference: mean and variance of every channel, voxel by voxel."""
    torch.manual_seed(0)
    head = ContrastHead(5, 3, batch_norm=True)
    first, norm, last = head.layers[0], head.layers[1], head.layers[3]
    assert isinstance(norm, nn.BatchNorm1d)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    vectors = torch.randn(7, 5)
    hidden = first(vectors)
    normed = torch.zeros(7, 5)
    for channel in range(5):
        column = [float(value) for value in hidden[:, channel].detach()]
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        for voxel, value in enumerate(column):
            scaled = (value - mean) / math.sqrt(variance + 1e-5)
            normed[voxel, channel] = scaled * norm.weight[channel] + norm.bias[channel]
    expected = last(torch.where(normed > 0, normed, 0.01 * normed))
    torch.testing.assert_close(head(vectors), expected, atol=1e-5, rtol=1e-5)
    # Of the voxels at hand alone: nothing is remembered of other steps, and nothing but weights is saved.
    head.eval()
    torch.testing.assert_close(head(vectors), expected, atol=1e-5, rtol=1e-5)
    assert set(dict(head.named_buffers())) == set()


def test_a_voxel_alone_is_not_normalized_away() -> None:
    head = ContrastHead(5, 3, batch_norm=True)
    one = torch.randn(1, 5)
    torch.testing.assert_close(head(one), nn.Sequential(head.layers[0], *head.layers[2:])(one))


def test_without_batch_normalization_a_head_is_saved_as_ever() -> None:
    assert list(ContrastHead(8).state_dict()) == [f"layers.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")]
