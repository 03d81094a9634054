"""Perturb patches: what is drawn stays in its range, and images keep what must stay."""

from __future__ import annotations

import math

import pytest
import torch

from pcl_auto.method import perturbation
from pcl_auto.method.augmentation import draw_box, paste_both_ways


def test_noise_is_cut_off_at_twice_its_deviation() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 40, 40)
    noise = perturbation.noisy(images, 0.1) - images
    assert noise.abs().max() <= 0.2 + 1e-6
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(perturbation.noisy(images, 0.0), images)


@pytest.mark.parametrize("shape", [(2, 9, 7), (1, 3, 8, 6)])
@pytest.mark.parametrize("deviation", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_along_the_last_two_axes(shape: tuple[int, ...], deviation: float) -> None:
    torch.manual_seed(0)
    image = torch.randn(shape, dtype=torch.double)
    radius = max(1, int(3 * deviation + 0.5))
    weights = [math.exp(-0.5 * (k / deviation) ** 2) for k in range(-radius, radius + 1)]
    total = sum(weights)
    expected = torch.zeros_like(image)
    height, width = shape[-2:]
    for y in range(height):
        for x in range(width):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    share = weights[dy + radius] * weights[dx + radius] / total**2
                    there = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                    expected[..., y, x] += share * image[..., there[0], there[1]]
    assert torch.allclose(perturbation.blur(image, deviation), expected)


@pytest.mark.parametrize("shape", [(6, 2, 12, 10), (4, 1, 6, 12, 10)])
def test_a_strong_view_has_images_of_their_own(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    views = perturbation.strong_view(images)
    assert views.shape == images.shape
    changed = [not torch.equal(view, image) for view, image in zip(views, images, strict=True)]
    assert any(changed)
    assert not torch.equal(perturbation.strong_view(images), views)
    # Nothing of one image comes into another.
    alone = torch.zeros_like(images)
    alone[0] = images[0]
    torch.manual_seed(1)
    assert torch.allclose(perturbation.strong_view(alone)[0], views[0], atol=1e-6)


def test_boxes_are_in_every_second_image_and_as_large_as_in_the_paper() -> None:
    torch.manual_seed(0)
    boxes = perturbation.random_boxes(400, (20, 30))
    shares = boxes.flatten(1).double().mean(1)
    filled = shares[shares > 0]
    assert 150 < len(filled) < 250
    low, high = perturbation.BOX_OF_PATCH
    assert low * 0.7 < filled.min()
    assert filled.max() < high * 1.1


def test_a_box_is_taken_from_the_next_image() -> None:
    values = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 4)
    boxes = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    boxes[0, 0, :2] = boxes[2, 0, 3:] = True
    pasted = perturbation.paste_from_next(values, boxes)
    assert (pasted[0, :, :2] == 1).all()
    assert (pasted[0, :, 2:] == 0).all()
    assert (pasted[1] == 1).all()
    assert (pasted[2, :, 3:] == 0).all()
    assert (pasted[2, :, :3] == 2).all()
    one = torch.randn(1, 1, 4, 4)
    assert torch.equal(perturbation.paste_from_next(one, torch.ones(1, 1, 4, 4, dtype=torch.bool)), one)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 2), (1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 5)])
def test_copy_paste_goes_both_ways(labeled: int, unlabeled: int, shape: tuple[int, ...]) -> None:
    """Bai et al., voxel by voxel; M is 0 in the box."""
    torch.manual_seed(0)
    first, second = torch.randn(labeled, 2, *shape), torch.randn(unlabeled, 2, *shape)
    box = draw_box(shape, 0.5)
    outside = torch.ones(shape)
    outside[box] = 0
    found = paste_both_ways(first, second, box)
    for k in range(labeled):
        expected = first[k] * outside + second[k] * (1 - outside) if k < unlabeled else first[k]
        assert torch.equal(found[k], expected)
    for k in range(unlabeled):
        expected = second[k] * outside + first[(k + 1) % labeled] * (1 - outside) if k < labeled else second[k]
        assert torch.equal(found[labeled + k], expected)
