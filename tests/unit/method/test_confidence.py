"""Compare confidences with slow and obvious versions of the formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from pcl_auto.method.confidence import Reference, assess, confidence, expected_dice, perturbed

CLASSES = {"a": 1, "b": 2}
KNOWN = Reference(tuple(np.linspace(0.8, 0.99, 20)), {"a": (1.0, 4.0), "b": (0.0, 2.0)})


@pytest.mark.parametrize("slices", [3, 19])
def test_expected_dice_of_classes(slices: int) -> None:
    logits = 3 * torch.randn(3, slices, 5, 6, generator=torch.Generator().manual_seed(0))
    inside, whole, voxels = np.zeros(3), np.zeros(3), np.zeros(3)
    for position in np.ndindex(*logits.shape[1:]):
        here = (slice(None), *position)
        values = logits[here].numpy().astype(np.float64)
        probabilities = np.exp(values) / np.exp(values).sum()
        found = int(values.argmax())
        inside[found] += probabilities[found]
        voxels[found] += 1
        whole += probabilities
    dice = [2 * inside[c] / (whole[c] + voxels[c]) for c in (1, 2)]
    assert expected_dice(logits) == pytest.approx(np.mean(dice), abs=1e-5)


def test_expected_dice_of_regions() -> None:
    logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    probabilities = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    masks = probabilities > 0.5
    dice = [2 * p[m].sum() / (p.sum() + m.sum()) for p, m in zip(probabilities, masks, strict=True)]
    assert expected_dice(logits, regions=True) == pytest.approx(np.mean(dice), abs=1e-5)


def test_expected_dice_without_foreground_and_of_a_sure_network() -> None:
    background = torch.zeros(3, 4, 4, 4)
    background[0] = 50
    assert expected_dice(background) == 1
    sure = background.clone()
    sure[1, :2] = 100
    assert expected_dice(sure) == pytest.approx(1)


def test_a_perturbed_scan() -> None:
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    blurred, brighter = perturbed(image, in_plane=False)
    np.testing.assert_allclose(brighter - image, 0.4, atol=1e-6)
    np.testing.assert_allclose(blurred[1], ndimage.gaussian_filter(image[1], 1.0), atol=1e-6)
    flat, _ = perturbed(image, in_plane=True)
    np.testing.assert_allclose(flat[0, 2], ndimage.gaussian_filter(image[0, 2], 1.0), atol=1e-6)
    assert {each.dtype for each in (blurred, brighter, flat)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("threshold", "steady"), [(0.5, True), (9.9, False)])
def test_a_network_that_brightness_sways_is_less_certain(threshold: float, steady: bool) -> None:
    image = np.zeros((1, 8, 8, 8), np.float32)
    image[0, 2:6, 2:6, 2:6] = 10

    def segment(voxels: np.ndarray) -> torch.Tensor:
        found = torch.from_numpy(voxels[0] > threshold).float()
        return torch.stack([1 - found, found]) * 100

    def labels_of(logits: torch.Tensor) -> np.ndarray:
        return np.asarray(logits.argmax(0).numpy())

    def dice(one: np.ndarray, other: np.ndarray) -> float:
        return float(2 * (one & other).sum() / (one.sum() + other.sum()))

    value = confidence(segment, labels_of, image, {"a": 1}, regions=False, in_plane=False)
    base = image[0] > threshold
    swayed = [dice(base, each[0] > threshold) for each in perturbed(image, in_plane=False)]
    assert value == pytest.approx((1 + sum(swayed)) / 3, abs=1e-6)
    assert (value > 0.8) == steady


def test_the_least_certain_tenth_is_flagged() -> None:
    within = {"a": 2.0, "b": 1.0}
    assert not assess(0.9, within, KNOWN).review
    found = assess(0.805, within, KNOWN)
    assert (found.review, found.percentile) == (True, 0.05)
    assert found.reasons == ("less certain than 95% of the unlabeled scans of the training",)
    assert not assess(0.82, within, KNOWN).review  # two of twenty are less certain


@pytest.mark.parametrize(
    ("volumes_ml", "reason"),
    [
        ({"a": 0.0, "b": 1.0}, "a is absent"),
        ({"a": 5.0, "b": 0.0}, "a has 5 ml, expected 1 to 4"),
    ],
)
def test_volumes_beyond_the_labeled_cases_are_flagged(volumes_ml: dict[str, float], reason: str) -> None:
    assert assess(0.95, volumes_ml, KNOWN).reasons == (reason,)


def test_few_or_no_scans_to_compare_with() -> None:
    few = replace(KNOWN, confidences=(0.9,) * 9)
    assert (assess(0.1, {"a": 2.0, "b": 1.0}, few).percentile, assess(0.1, {}, Reference()).review) == (None, False)


def test_a_reference_is_read_back() -> None:
    assert Reference.from_dict(KNOWN.as_dict()) == KNOWN
    assert Reference.from_dict(Reference().as_dict()) == Reference()
