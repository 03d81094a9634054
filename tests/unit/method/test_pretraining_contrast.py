"""Global and local contrast against the equations of Chaitanya et al. (NeurIPS 2020), one pair after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pcl_auto.method.global_contrast import global_contrastive_loss
from pcl_auto.method.local_contrast import cut_regions, draw_regions, fit_regions, local_contrastive_loss, take_regions
from pcl_auto.method.slice_partitions import compose_step, draw_slice

Vector = Sequence[float]


def cosine(first: Vector, second: Vector) -> float:
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))


def pair_loss(anchor: Vector, positive: Vector, negatives: Sequence[Vector], tau: float) -> float:
    """Eq. 1 and Eq. 3, which differ in what is compared."""
    top = math.exp(cosine(anchor, positive) / tau)
    return -math.log(top / (top + sum(math.exp(cosine(anchor, negative) / tau) for negative in negatives)))


def global_reference(embeddings: list[list[float]], partitions: Sequence[int], tau: float) -> float:
    """Eq. 2: the mean over ordered pairs of different embeddings of one partition."""
    losses = []
    for i, j in itertools.permutations(range(len(embeddings)), 2):
        if partitions[i] == partitions[j]:
            negatives = [embeddings[k] for k in range(len(embeddings)) if partitions[k] != partitions[i]]
            losses.append(pair_loss(embeddings[i], embeddings[j], negatives, tau))
    return sum(losses) / len(losses) if losses else 0.0


def local_reference(first: list[list[list[float]]], second: list[list[list[float]]], tau: float) -> float:
    """Eq. 4: the mean over images, regions and both directions; negatives lie in the other view of the image."""
    losses = []
    for one, other in [*zip(first, second, strict=True), *zip(second, first, strict=True)]:
        for region, anchor in enumerate(one):
            negatives = [vector for place, vector in enumerate(other) if place != region]
            losses.append(pair_loss(anchor, other[region], negatives, tau))
    return sum(losses) / len(losses)


# --- global ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [(0, 1, 0, 1), (2, 2, 0, 0, 1, 1), (0, 1, 2, 3), (1, 1, 1, 0), (5, 5)])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_global_loss_is_eq_2(partitions: tuple[int, ...], tau: float) -> None:
    embeddings = torch.randn(len(partitions), 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = global_contrastive_loss(embeddings, torch.tensor(partitions), tau)
    assert float(loss.detach()) == pytest.approx(
        global_reference(embeddings.tolist(), partitions, tau), rel=1e-4, abs=1e-6
    )
    torch.autograd.backward(loss)
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())


def test_it_falls_where_partitions_draw_together_across_volumes() -> None:
    embeddings = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    partitions = torch.tensor([0, 1, 0, 1] * 2)
    optimizer = torch.optim.SGD([embeddings], 0.5)
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward(global_contrastive_loss(embeddings, partitions, 0.1))
        optimizer.step()
    assert float(global_contrastive_loss(embeddings.detach(), partitions, 0.1)) < 0.05
    directions = torch.nn.functional.normalize(embeddings.detach(), dim=1)
    same = partitions.unsqueeze(1) == partitions
    assert float((directions @ directions.T)[same].min()) > float((directions @ directions.T)[~same].max())


@pytest.mark.parametrize(
    ("images", "partitions", "volumes", "expected"),
    [
        (2, 4, 100, (1, 2)), (4, 4, 100, (2, 2)), (6, 4, 100, (2, 3)), (8, 4, 100, (2, 4)), (12, 4, 100, (3, 4)),
        (13, 4, 100, (3, 4)), (5, 2, 100, (2, 2)), (8, 4, 1, (1, 4)), (100, 4, 3, (3, 4)), (2, 2, 1, (1, 2)),
    ],
)  # fmt: skip
def test_a_step_shows_two_partitions_then_two_volumes(
    images: int, partitions: int, volumes: int, expected: tuple[int, int]
) -> None:
    step = compose_step(images, partitions, volumes)
    assert (step.volumes, step.partitions) == expected
    assert step.volumes * step.partitions <= images


@pytest.mark.parametrize(("images", "partitions", "volumes"), [(1, 4, 2), (4, 1, 2), (4, 4, 0)])
def test_what_cannot_be_contrasted(images: int, partitions: int, volumes: int) -> None:
    with pytest.raises(ValueError, match="no contrast"):
        compose_step(images, partitions, volumes)


@pytest.mark.parametrize("depth", [4, 5, 7, 12])
def test_partitions_are_every_slice_once(depth: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [{draw_slice(depth, part, 4, rng) for _ in range(200)} for part in range(4)]
    assert sorted(itertools.chain(*drawn)) == list(range(depth))
    assert all(max(before) < min(after) for before, after in itertools.pairwise(drawn))


# --- local ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "regions"), [(1, 2), (2, 5), (3, 13)])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_local_loss_is_eq_4(images: int, regions: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randn(images, regions, 7, generator=generator) for _ in range(2))
    loss = local_contrastive_loss(first, second, tau)
    assert float(loss) == pytest.approx(local_reference(first.tolist(), second.tolist(), tau), rel=1e-4)
    assert float(local_contrastive_loss(second, first, tau)) == pytest.approx(float(loss), rel=1e-6)


def test_views_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="regions of shape"):
        local_contrastive_loss(torch.ones(1, 2, 3), torch.ones(1, 3, 3), 0.1)


@pytest.mark.parametrize(("shape", "region"), [((6, 9), (3, 3)), ((7, 8), (3, 2)), ((4, 6, 5), (2, 3, 1))])
def test_a_region_is_its_voxels(shape: tuple[int, ...], region: tuple[int, ...]) -> None:
    features = torch.arange(2 * 3 * math.prod(shape), dtype=torch.float32).view(2, 3, *shape)
    regions = cut_regions(features, region)
    corners = [range(0, size - length + 1, length) for size, length in zip(shape, region, strict=True)]
    for image in range(2):
        for number, corner in enumerate(itertools.product(*corners)):
            box = [range(low, low + length) for low, length in zip(corner, region, strict=True)]
            for place, voxel in enumerate(itertools.product(*box)):
                expected = [float(features[image, channel][voxel]) for channel in range(3)]
                assert regions[image, number, place].tolist() == expected
    assert regions.shape == (2, math.prod(map(len, corners)), math.prod(region), 3)


def test_taken_regions_are_those_that_were_drawn() -> None:
    regions, drawn = torch.randn(2, 5, 4, 3), torch.tensor([[4, 0, 1], [2, 2, 3]])
    taken = take_regions(regions, drawn)
    for image, place in itertools.product(range(2), range(3)):
        assert torch.equal(taken[image, place], regions[image, int(drawn[image, place])])


def test_regions_fit_small_feature_maps() -> None:
    assert fit_regions((32, 32), 3) == (3, 3)
    assert fit_regions((4, 20, 20), 3) == (2, 3, 3)
    assert fit_regions((1, 3, 2), 3) == (1, 1, 1)


def test_drawn_regions_are_different_ones_and_as_many_as_there_are() -> None:
    drawn = draw_regions(50, 20, 13, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 13)
    assert all(len(set(row)) == 13 for row in drawn.tolist())
    assert {place for row in drawn.tolist() for place in row} == set(range(20))
    assert draw_regions(2, 5, 13, torch.Generator()).shape == (2, 5)
