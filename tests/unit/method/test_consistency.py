"""Losses of the methods that reviewers ask for, against the papers' formulas in plain loops and numbers by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from pcl_auto.method import consistency

SHAPES = [(2, 3, 4, 5), (1, 2, 3, 2, 2)]


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def voxels(values: Tensor) -> list[list[float]]:
    """Return the classes' values (B, K, *patch) of every voxel, image by image."""
    return values.movedim(1, -1).reshape(-1, values.shape[1]).tolist()


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits, and probabilities of another network, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = (2 * torch.randn(shape, generator=generator, dtype=torch.double) for _ in range(2))
    return logits, other.softmax(1)


def distance(logits: list[float], probabilities: list[float]) -> float:
    return sum((p - q) ** 2 for p, q in zip(softmax(logits), probabilities, strict=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, math.exp(-5)), (0.5, math.exp(-1.25)), (1.0, 1.0), (-1.0, math.exp(-5)), (7.0, 1.0)],
)
def test_the_ramp_of_a_weight(progress: float, expected: float) -> None:
    assert consistency.ramp_up(progress) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_teacher(shape: tuple[int, ...]) -> None:
    logits, taught = drawn(shape)
    expected = mean([distance(*pair) for pair in zip(voxels(logits), voxels(taught), strict=True)])
    assert consistency.mean_teacher_loss(logits, taught).item() == pytest.approx(expected)


def test_mean_teacher_by_hand() -> None:
    # Two voxels: equal to the teacher's; and (1/2, 1/2) against (1, 0): 1/4 + 1/4.
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]]).reshape(1, 2, 1, 2)
    taught = torch.tensor([[0.5, 1.0], [0.5, 0.0]]).reshape(1, 2, 1, 2)
    assert consistency.mean_teacher_loss(logits, taught).item() == pytest.approx(0.25)


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy(shape: tuple[int, ...]) -> None:
    _, probabilities = drawn(shape)
    expected = [-sum(p * math.log(p) for p in voxel) for voxel in voxels(probabilities)]
    assert consistency.entropy(probabilities).flatten().tolist() == pytest.approx(expected)
    certain = torch.tensor([1.0, 0.0]).reshape(1, 2, 1)
    assert consistency.entropy(certain).item() == 0
    assert consistency.entropy(torch.full((1, 4, 1), 0.25)).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.75 + 0.25 * math.exp(-5)), (1.0, 1.0)])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_limit_of_the_entropy_rises_to_its_maximum(progress: float, share: float, classes: int) -> None:
    assert consistency.entropy_limit(progress, classes) == pytest.approx(share * math.log(classes))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limit", [0.3, 0.5, 10.0])
def test_uncertainty_aware_mean_teacher(shape: tuple[int, ...], limit: float) -> None:
    logits, taught = drawn(shape)
    _, means = drawn(shape, seed=1)
    uncertainty = consistency.entropy(means)
    counted = [
        distance(student, teacher)
        for student, teacher, mean_of in zip(voxels(logits), voxels(taught), voxels(means), strict=True)
        if -sum(p * math.log(p) for p in mean_of) < limit
    ]
    assert counted
    found = consistency.uncertainty_aware_loss(logits, taught, uncertainty, limit)
    assert found.item() == pytest.approx(sum(counted) / len(counted))


def test_a_teacher_certain_of_nothing_teaches_nothing() -> None:
    logits, taught = drawn(SHAPES[0])
    logits.requires_grad_()
    loss = consistency.uncertainty_aware_loss(logits, taught, consistency.entropy(taught), 0.0)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8])
def test_fixmatch(shape: tuple[int, ...], threshold: float) -> None:
    logits, weak = drawn(shape)
    losses = [
        -math.log(softmax(strong)[q.index(max(q))]) if max(q) >= threshold else 0.0
        for strong, q in zip(voxels(logits), voxels(weak), strict=True)
    ]
    assert sum(loss > 0 for loss in losses) > 0
    # Over all voxels, the unsure ones too: μB of Eq. 4.
    assert consistency.confident_cross_entropy(logits, weak, threshold).item() == pytest.approx(mean(losses))


def test_what_is_as_likely_as_the_threshold_teaches() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    weak = torch.tensor([[0.75, 0.5], [0.25, 0.5]]).reshape(1, 2, 1, 2)
    assert consistency.confident_cross_entropy(logits, weak, 0.75).item() == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_supervision(shape: tuple[int, ...]) -> None:
    """The paper's loss has both networks; the trainer gives each its own term."""
    first, _ = drawn(shape)
    second, _ = drawn(shape, seed=1)
    expected = mean(
        [
            -math.log(softmax(p1)[p2.index(max(p2))]) - math.log(softmax(p2)[p1.index(max(p1))])
            for p1, p2 in zip(voxels(first), voxels(second), strict=True)
        ]
    )
    both = consistency.cross_supervision_loss(first, second) + consistency.cross_supervision_loss(second, first)
    assert both.item() == pytest.approx(expected)


def test_the_network_that_teaches_gets_no_gradient() -> None:
    first, second = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    torch.autograd.backward(consistency.cross_supervision_loss(first, second))
    assert first.grad is not None
    assert second.grad is None


@pytest.mark.parametrize(("share", "shape"), list(product([0.0, 0.3, 1.0], SHAPES)))
def test_mixup_is_cross_entropy_with_mixed_labels(share: float, shape: tuple[int, ...]) -> None:
    logits, _ = drawn(shape)
    generator = torch.Generator().manual_seed(2)
    labels = [torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator) for _ in range(2)]
    mixed = []
    for values, first, second in zip(voxels(logits), *(label.flatten().tolist() for label in labels), strict=True):
        target = [share * (k == first) + (1 - share) * (k == second) for k in range(shape[1])]
        mixed.append(-sum(t * math.log(p) for t, p in zip(target, softmax(values), strict=True)))
    found = consistency.mixup_loss(lambda which: torch.nn.functional.cross_entropy(logits, labels[which]), share)
    assert found.item() == pytest.approx(mean(mixed))
