"""Intensity views."""

from __future__ import annotations

import pytest
import torch

from pcl_auto.method.augmentation import BRIGHTNESS, CONTRAST, intensity_view


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
