"""Copy-paste: a box changes places, nothing else does. Views: the same anatomy in other intensities."""

from __future__ import annotations

import pytest
import torch

from pcl_auto.method.augmentation import BRIGHTNESS, CONTRAST, box_mask, intensity_view, nearest, swap_pairs


def test_masks_and_pairs_that_do_not_fit_are_refused() -> None:
    first, second = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        swap_pairs([first, second], torch.zeros(4, 5, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="3 pairs"):
        swap_pairs([first, second], torch.zeros(4, 4, dtype=torch.bool), 3)


@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 5)])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_box_has_its_share_of_every_axis(shape: tuple[int, ...], share: float) -> None:
    mask = box_mask(shape, share, torch.Generator().manual_seed(0))
    expected = 1
    for size in shape:
        expected *= max(1, round(size * share))
    assert int(mask.sum()) == expected
    places = {tuple(box_mask(shape, 0.5).nonzero()[0].tolist()) for _ in range(60)}
    assert len(places) > 3, "the box stays where it is"


def test_swapping_moves_voxels_and_loses_none() -> None:
    first = torch.arange(2 * 2 * 16).reshape(2, 2, 4, 4).float()
    second = -first.clone() - 1
    before = first.clone(), second.clone()
    mask = box_mask((4, 4), 0.5)
    swap_pairs([first, second], mask, 1)
    for image in range(2):
        for y in range(4):
            for x in range(4):
                swapped = image == 0 and bool(mask[y, x])
                for channel in range(2):
                    place = (image, channel, y, x)
                    assert first[place] == before[1 if swapped else 0][place]
                    assert second[place] == before[0 if swapped else 1][place]
    swap_pairs([first, second], mask, 1)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


def test_label_maps_of_unequal_batches() -> None:
    first, second = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16), torch.full((3, 1, 4, 4, 4), 2, dtype=torch.int16)
    mask = box_mask((4, 4, 4), 0.5)
    swap_pairs([first, second], mask, 1)
    assert int((first == 2).sum()) == int(mask.sum())
    assert int((second[1:] == 0).sum()) == 0


def test_mask_at_a_lower_resolution() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 4:8] = True
    small = nearest(mask, (4, 4))
    assert small.dtype == torch.bool
    assert small.nonzero().tolist() == [[y, x] for y in (1, 2) for x in (2, 3)]


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
