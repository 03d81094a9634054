"""Hide blocks of images, and score what is made of them, against plain loops over voxels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pcl_auto.method.masked_autoencoding import draw_block_mask, fit_blocks, hide, reconstruction_loss

SHAPES = [((12, 16), (4, 4)), ((7, 10), (3, 4)), ((5, 12, 8), (1, 3, 2)), ((8, 8, 8), (8, 8, 4))]


def draw(shape: tuple[int, ...], block: tuple[int, ...], share: float, seed: int = 0, images: int = 3) -> torch.Tensor:
    return draw_block_mask(images, shape, block, share, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("patch", "wanted", "expected"),
    [
        ((160, 160, 160), 16, (16, 16, 16)),
        ((40, 56, 40), 16, (10, 14, 10)),
        ((14, 192, 192), 16, (3, 16, 16)),
        ((3, 64, 64), 4, (1, 4, 4)),
        ((512, 384), 16, (16, 16)),
    ],
)
def test_a_block_is_as_wanted_or_a_quarter_of_the_axis(
    patch: tuple[int, ...], wanted: int, expected: tuple[int, ...]
) -> None:
    assert fit_blocks(patch, wanted) == expected


@pytest.mark.parametrize(("shape", "block"), SHAPES)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.75, 0.99])
def test_whole_blocks_are_hidden_the_same_number_in_every_image(
    shape: tuple[int, ...], block: tuple[int, ...], share: float
) -> None:
    mask = draw(shape, block, share)
    assert mask.shape == (3, 1, *shape)
    grid = [math.ceil(size / length) for size, length in zip(shape, block, strict=True)]
    blocks = math.prod(grid)
    expected = max(1, min(round(blocks * share), blocks - 1))
    for image in mask[:, 0]:
        hidden = 0
        for place in itertools.product(*map(range, grid)):
            ranges = [
                range(index * length, min((index + 1) * length, size))
                for index, length, size in zip(place, block, shape, strict=True)
            ]
            values = {bool(image[voxel]) for voxel in itertools.product(*ranges)}
            assert len(values) == 1, "a block is hidden as a whole or not at all"
            hidden += values.pop()
        assert hidden == expected


def test_every_block_is_hidden_as_often_as_any_other() -> None:
    shares = draw((4, 4), (1, 1), 0.75, images=4000).float().mean(0)
    assert torch.allclose(shares, torch.full_like(shares, 0.75), atol=0.04)


def test_the_numbers_that_it_is_drawn_with_decide_the_mask() -> None:
    assert torch.equal(draw((8, 8), (2, 2), 0.5, seed=1), draw((8, 8), (2, 2), 0.5, seed=1))
    assert not torch.equal(draw((8, 8), (2, 2), 0.5, seed=1), draw((8, 8), (2, 2), 0.5, seed=2))


@pytest.mark.parametrize(("shape", "block"), SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_the_mean_square_over_hidden_voxels(
    shape: tuple[int, ...], block: tuple[int, ...], channels: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    images, predicted = (torch.randn(2, channels, *shape, generator=generator) for _ in range(2))
    mask = draw(shape, block, 0.6, images=2)
    squares = [
        (float(predicted[image, channel][voxel]) - float(images[image, channel][voxel])) ** 2
        for image in range(2)
        for channel in range(channels)
        for voxel in itertools.product(*map(range, shape))
        if mask[image, 0][voxel]
    ]
    loss = reconstruction_loss(predicted, images, mask)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(sum(squares) / len(squares), rel=1e-5)


def test_what_is_shown_counts_nothing_and_what_is_hidden_cannot_be_seen() -> None:
    images = torch.randn(2, 2, 8, 8)
    mask = draw((8, 8), (2, 2), 0.5, images=2)
    seen = hide(images, mask)
    assert bool((seen.masked_select(mask.expand_as(seen)) == 0).all())
    assert torch.equal(seen.masked_select(~mask.expand_as(seen)), images.masked_select(~mask.expand_as(seen)))
    assert reconstruction_loss(torch.where(mask, images, images + 7), images, mask) == 0
    moved = (images + 1).requires_grad_()
    torch.autograd.backward(reconstruction_loss(moved, images, mask))
    assert moved.grad is not None
    assert bool(((moved.grad != 0) == mask).all())
