"""Copy-paste: a box changes places, nothing else does. Views: the same anatomy in other intensities."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pcl_auto.method.augmentation import BRIGHTNESS, CONTRAST, Box, box_at, draw_box, intensity_view, swap_box


def voxels_in(box: Box, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the voxels of a patch that lie in ``box``, as a mask."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[box] = True
    return mask


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and \(3, 1, 4, 4\)"):
        swap_box(torch.zeros(2, 1, 4, 4), torch.ones(3, 1, 4, 4), (slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 5)])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_box_has_its_share_of_every_axis(shape: tuple[int, ...], share: float) -> None:
    mask = voxels_in(draw_box(shape, share, torch.Generator().manual_seed(0)), shape)
    expected = 1
    for size in shape:
        expected *= max(1, round(size * share))
    assert int(mask.sum()) == expected
    places = {tuple(side.start for side in draw_box(shape, 0.5)) for _ in range(60)}
    assert len(places) > 3, "the box stays where it is"


def test_swapping_moves_voxels_and_loses_none() -> None:
    first = torch.arange(2 * 2 * 16).reshape(2, 2, 4, 4).float()
    second = -first.clone() - 1
    before = first.clone(), second.clone()
    box = draw_box((4, 4), 0.5)
    mask = voxels_in(box, (4, 4))
    swap_box(first[:1], second[:1], box)
    for image in range(2):
        for y in range(4):
            for x in range(4):
                swapped = image == 0 and bool(mask[y, x])
                for channel in range(2):
                    place = (image, channel, y, x)
                    assert first[place] == before[1 if swapped else 0][place]
                    assert second[place] == before[0 if swapped else 1][place]
    swap_box(first[:1], second[:1], box)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


def test_label_maps_change_places_too() -> None:
    first, second = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16), torch.full((1, 1, 4, 4, 4), 2, dtype=torch.int16)
    box = draw_box((4, 4, 4), 0.5)
    swap_box(first, second, box)
    assert torch.equal(first[0, 0] == 2, voxels_in(box, (4, 4, 4)))
    assert torch.equal(second[0, 0] == 0, voxels_in(box, (4, 4, 4)))


@pytest.mark.parametrize(("shape", "resampled"), [((8, 8), (4, 2)), ((12, 24, 16), (12, 3, 4)), ((9, 5), (3, 5))])
def test_a_box_at_a_lower_resolution(shape: tuple[int, ...], resampled: tuple[int, ...]) -> None:
    """Reference: the mask of the box, resampled by torch as nnU-Net resamples its targets."""
    torch.manual_seed(0)
    for _ in range(40):
        box = draw_box(shape, float(torch.empty(()).uniform_(0.05, 0.95)))
        mask = voxels_in(box, shape)[None, None].float()
        expected = functional.interpolate(mask, size=resampled, mode="nearest-exact")[0, 0].bool()
        assert torch.equal(voxels_in(box_at(box, shape, resampled), resampled), expected)


@pytest.mark.parametrize("patch", [(6, 7), (5, 6, 7)])
def test_a_view_is_one_line_per_channel(patch: tuple[int, ...]) -> None:
    """Reference: every channel of every image is a straight line in what it was, within the ranges."""
    torch.manual_seed(0)
    images = 3 * torch.randn(4, 2, *patch, dtype=torch.float64) + 5
    view = intensity_view(images)
    slopes = set()
    for before, after in zip(images.flatten(0, 1), view.flatten(0, 1), strict=True):
        x, y = before.flatten(), after.flatten()
        slope = (y[1] - y[0]) / (x[1] - x[0])
        torch.testing.assert_close(y, y[0] + slope * (x - x[0]))
        assert CONTRAST[0] <= slope <= CONTRAST[1]
        assert BRIGHTNESS[0] <= (y.mean() - x.mean()) / x.std() <= BRIGHTNESS[1]
        slopes.add(round(float(slope), 9))
    assert len(slopes) == 8
