"""Registration brings a scan that was moved back to where it was; each of its parts against a slow reference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from smooth_scans import SHAPE, SPACING_MM, blobs, identity, scan

from pcl_auto.method import registration
from pcl_auto.method.label_maps import dice
from pcl_auto.method.registration import Scan, local_correlation, move, register, with_even_contrast


def moved_by(image: np.ndarray, voxels: tuple[float, float, float], order: int = 1) -> np.ndarray:
    moved: np.ndarray = ndimage.shift(image, voxels, order=order, mode="nearest")
    return moved


def slow_local_correlation(first: np.ndarray, second: np.ndarray, radius: int) -> np.ndarray:
    """Return the correlation in each window, computed window by window."""
    bordered = [np.pad(each, radius, mode="edge") for each in (first, second)]
    found = np.zeros(first.shape)
    width = 2 * radius + 1
    for place in itertools.product(*map(range, first.shape)):
        window = tuple(slice(start, start + width) for start in place)
        a, b = (each[window].ravel().astype(float) for each in bordered)
        covariance = np.mean(a * b) - a.mean() * b.mean()
        found[place] = covariance / math.sqrt((a.var() + 1e-4) * (b.var() + 1e-4))
    return found


@pytest.mark.parametrize("radius", [1, 2])
def test_local_correlation_is_that_of_every_window(radius: int) -> None:
    first, second = (blobs((5, 6, 7), seed) for seed in (1, 2))
    found = local_correlation(torch.from_numpy(first)[None], torch.from_numpy(second)[None], radius)
    assert found.numpy() == pytest.approx(slow_local_correlation(first, second, radius), abs=2e-4)


def test_local_correlation_is_the_mean_of_the_channels() -> None:
    first, second, third = (torch.from_numpy(blobs(seed=seed))[None] for seed in (1, 2, 3))
    both = local_correlation(torch.cat([first, second]), torch.cat([third, third]))
    assert torch.allclose(both, (local_correlation(first, third) + local_correlation(second, third)) / 2, atol=1e-5)


def test_an_even_image_correlates_with_nothing() -> None:
    image = torch.from_numpy(blobs())[None]
    assert local_correlation(torch.ones_like(image), image).abs().max() < 1e-2


def test_places_of_the_scan_itself_move_nothing() -> None:
    image = torch.from_numpy(blobs())[None]
    assert torch.allclose(move(image, identity(SHAPE)), image, atol=1e-5)


def test_even_contrast_takes_the_percentiles_of_each_channel() -> None:
    image = np.stack([blobs(seed=1) * 300 - 1000, blobs(seed=2)])
    found = with_even_contrast(Scan(torch.from_numpy(image), SPACING_MM), torch.device("cpu")).image.numpy()
    for channel, values in zip(found, image, strict=True):
        low, high = np.percentile(values, (1, 99), method="nearest")
        expected = np.clip((values - low) / (high - low), 0, 1)
        assert channel == pytest.approx(expected, abs=0.01)
        assert (channel.min(), channel.max()) == (0, pytest.approx(1, abs=1e-3))


def test_a_channel_without_contrast_stays_finite() -> None:
    found = with_even_contrast(scan(np.full(SHAPE, 7.0)), torch.device("cpu"))
    assert torch.isfinite(found.image).all()


def test_a_shifted_scan_is_found_where_it_is() -> None:
    """Move a scan by known voxels, along axes of different spacing, and find every place again."""
    image, voxels = blobs(), (0.7, -2.0, 1.5)
    places = register(scan(moved_by(image, voxels)), scan(image))
    inside = (..., slice(2, -2), slice(4, -4), slice(4, -4), slice(None))
    shift = (places - identity(SHAPE))[inside].mean((0, 1, 2, 3))
    expected = [-2 * each / n for each, n in zip(voxels[::-1], SHAPE[::-1], strict=True)]
    assert shift.tolist() == pytest.approx(expected, abs=0.04)


def test_a_deformed_scan_is_brought_back() -> None:
    image = blobs((16, 24, 24), seed=3)
    z, y, x = np.meshgrid(*map(np.arange, image.shape), indexing="ij")
    bent = ndimage.map_coordinates(image, [z, y + 2 * np.sin(x / 4), x + 2 * np.cos(y / 5)], order=1, mode="nearest")
    fixed, moving = scan(bent, (1.0, 1.0, 1.0)), scan(image, (1.0, 1.0, 1.0))
    before = local_correlation(fixed.image, moving.image).mean()
    places = register(fixed, moving)
    assert before < 0.8
    assert local_correlation(fixed.image, move(moving.image, places)).mean() > 0.9
    mask = (image > np.percentile(image, 70)).astype(np.float32)
    target = ndimage.map_coordinates(mask, [z, y + 2 * np.sin(x / 4), x + 2 * np.cos(y / 5)], order=0, mode="nearest")
    found = move(torch.from_numpy(mask)[None], places)[0].numpy() > 0.5
    assert dice(found, target > 0) > dice(mask > 0, target > 0) + 0.1


def test_scans_of_other_size_and_spacing_are_compared_in_millimeters() -> None:
    """The same anatomy on a grid twice as coarse lies at the same millimeters, not at the same voxels."""
    image = blobs((12, 24, 24))
    coarse = torch.nn.functional.avg_pool3d(torch.from_numpy(image)[None, None], (1, 2, 2))[0, 0].numpy()
    wider = np.pad(coarse, ((0, 0), (2, 4), (3, 3)), mode="edge")
    places = register(scan(image), scan(wider, (2.0, 2.0, 2.0)))
    moved = move(torch.from_numpy(wider)[None], places)
    assert local_correlation(torch.from_numpy(image)[None], moved).mean() > 0.9


def test_registration_repeats_itself() -> None:
    first, second = scan(blobs(seed=4)), scan(blobs(seed=5))
    assert torch.equal(register(first, second), register(first, second))


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((10, 192, 192), (10.0, 1.4, 1.4)), ((300, 300, 300), (0.7, 0.7, 0.7)), ((1, 400, 400), (5.0, 1.0, 1.0))],
)
def test_the_working_grid_is_bounded(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
    large = Scan(torch.zeros(1, 1, 1, 1).expand(1, *shape), spacing_mm)
    step_mm = registration._working_step_mm(large)
    working = registration._shape_at(large, step_mm)
    assert registration.WORKING_VOXELS / 2 < math.prod(working) <= registration.WORKING_VOXELS
    assert all(small <= n for small, n in zip(working, shape, strict=True))
    # A scan that is small enough is taken as it is.
    small = scan(blobs())
    assert registration._shape_at(small, registration._working_step_mm(small)) == list(SHAPE)
