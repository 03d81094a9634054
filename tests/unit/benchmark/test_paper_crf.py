"""Check the dense conditional random field against all pairs of voxels in plain loops."""

from __future__ import annotations

from itertools import product

import dense_crf
import numpy as np
import pytest
import torch
from dense_crf import (
    ALIKE_INTENSITY,
    ALIKE_MM,
    ALIKE_WEIGHT,
    MIN_PROBABILITY,
    SMOOTH_MM,
    SMOOTH_WEIGHT,
    STEPS,
    alike_features,
    refine,
    smooth_features,
)
from torch import Tensor

SPACING_MM = (4.0, 1.5, 1.0)


def box_image(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make a bright box in a dark image (1, z, y, x) with a little noise, and the mask of the box."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=bool)
    mask[:, shape[1] // 4 : -(shape[1] // 4), shape[2] // 4 : -(shape[2] // 4)] = True
    return (mask + 0.02 * rng.standard_normal(shape))[None].astype(np.float32), mask


def unsure(mask: np.ndarray, wrong: float, seed: int = 1) -> np.ndarray:
    """Make probabilities (2, z, y, x) that are 0.7 sure of everything and mistaken in a share of the voxels."""
    mistaken = np.random.default_rng(seed).random(mask.shape) < wrong
    foreground = np.where(mask ^ mistaken, 0.7, 0.3)
    return np.stack([1 - foreground, foreground]).astype(np.float32)


def slow_field(probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean field of Krähenbühl and Koltun, Algorithm 1: every voxel hears every voxel through two Gaussian kernels."""
    classes, voxels = len(probabilities), list(product(*map(range, image.shape[1:])))
    low, high = np.percentile(image[0], [1, 99])
    unary = -np.log(np.clip(probabilities, MIN_PROBABILITY, 1))

    def smooth(a: tuple[int, ...], b: tuple[int, ...]) -> float:
        squared = sum(((i - j) * step / SMOOTH_MM) ** 2 for i, j, step in zip(a, b, SPACING_MM, strict=True))
        return float(np.exp(-squared / 2))

    def alike(a: tuple[int, ...], b: tuple[int, ...]) -> float:
        squared = sum(((i - j) * step / ALIKE_MM) ** 2 for i, j, step in zip(a, b, SPACING_MM, strict=True))
        one, other = (min(max((image[0][place] - low) / (high - low), 0), 1) for place in (a, b))
        return float(np.exp(-(squared + ((one - other) / ALIKE_INTENSITY) ** 2) / 2))

    kernels = []
    for kernel, weight in ((alike, ALIKE_WEIGHT), (smooth, SMOOTH_WEIGHT)):
        values = np.array([[kernel(a, b) for b in voxels] for a in voxels])
        norm = 1 / np.sqrt(values.sum(1))
        kernels.append(weight * norm[:, None] * values * norm)
    state = probabilities.reshape(classes, -1).astype(float)
    for _ in range(STEPS):
        heard = sum(state @ kernel for kernel in kernels)
        state = np.exp(-unary.reshape(classes, -1) + heard)
        state /= state.sum(0)
    return state.reshape(probabilities.shape)


@pytest.mark.parametrize(
    ("probabilities", "image", "spacing"),
    [
        (np.zeros((2, 3, 4)), np.zeros((1, 3, 4)), SPACING_MM),
        (np.zeros((2, 3, 4, 5)), np.zeros((1, 3, 4, 6)), SPACING_MM),
        (np.zeros((2, 3, 4, 5)), np.zeros((1, 3, 4, 5)), SPACING_MM[1:]),
    ],
)
def test_shapes_that_do_not_fit(probabilities: np.ndarray, image: np.ndarray, spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        refine(probabilities, image, spacing)


def test_features_are_places_and_intensities_in_deviations_of_the_kernels() -> None:
    image, _ = box_image((3, 6, 8))
    box = (slice(1, 3), slice(2, 6), slice(0, 5))
    smooth, alike = smooth_features(image.shape[1:], SPACING_MM, box), alike_features(image, SPACING_MM, box)
    low, high = np.percentile(image[0], [1, 99])
    for index, place in enumerate(product(range(1, 3), range(2, 6), range(5))):
        at_mm = np.array(place) * SPACING_MM
        assert smooth[:, index] == pytest.approx(at_mm / SMOOTH_MM)
        assert alike[:3, index] == pytest.approx(at_mm / ALIKE_MM)
        share = min(max((image[0][place] - low) / (high - low), 0), 1)
        assert alike[3, index] == pytest.approx(share / ALIKE_INTENSITY, abs=1e-5)


def test_an_image_of_one_value_has_features_too() -> None:
    whole = (slice(0, 2),) * 3
    assert np.isfinite(alike_features(np.full((2, 2, 2, 2), 7.0), SPACING_MM, whole)).all()


def test_without_foreground_nothing_is_refined() -> None:
    probabilities = unsure(np.zeros((2, 3, 4), dtype=bool), wrong=0)
    assert refine(probabilities, np.zeros((1, 2, 3, 4)), SPACING_MM) is probabilities


@pytest.mark.parametrize("seed", range(3))
def test_the_field_is_that_of_all_pairs_of_voxels(seed: int) -> None:
    pytest.importorskip("pydensecrf")
    image, mask = box_image((3, 8, 9), seed)
    probabilities = unsure(mask, wrong=0.2, seed=seed)
    found, expected = refine(probabilities, image, SPACING_MM), slow_field(probabilities, image)
    assert found.dtype == np.float32
    assert found.sum(0) == pytest.approx(np.ones(mask.shape), abs=1e-4)
    # The package filters on a lattice, which is near to the Gaussian, no more.
    assert np.abs(found - expected).mean() < 0.05
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.97


def test_voxels_that_look_alike_get_one_class() -> None:
    pytest.importorskip("pydensecrf")
    image, mask = box_image((5, 24, 28))
    probabilities = unsure(mask, wrong=0.15)
    before, after = (
        (values.argmax(0) == mask).mean() for values in (probabilities, refine(probabilities, image, SPACING_MM))
    )
    assert before < 0.9
    assert after > 0.99


def test_what_is_far_from_the_foreground_stays_as_it_is() -> None:
    pytest.importorskip("pydensecrf")
    mask = np.zeros((2, 8, 60), dtype=bool)
    mask[:, :, :4] = True
    probabilities = unsure(mask, wrong=0)
    refined = refine(probabilities, mask[None].astype(np.float32), SPACING_MM)
    assert (refined[..., :24] != probabilities[..., :24]).any()
    assert np.array_equal(refined[..., 24:], probabilities[..., 24:])


MM = (3.0, 1.0, 2.0)


def segment(image: Tensor) -> Tensor:
    """Return logits in half precision, as nnU-Net gives them."""
    return torch.stack([-image[0], image[0], 0 * image[0]]).half()


def test_the_field_is_given_probabilities_and_its_result_is_the_segmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 3, 4, 5)

    def reversed_classes(probabilities: np.ndarray, given: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
        assert np.array_equal(given, image.numpy())
        assert spacing_mm == MM
        assert probabilities.dtype == np.float32
        expected = np.exp(segment(image).float().numpy())
        assert probabilities == pytest.approx(expected / expected.sum(0), abs=1e-6)
        flipped: np.ndarray = probabilities[::-1].copy()
        return flipped

    monkeypatch.setattr(dense_crf, "refine", reversed_classes)
    refined = dense_crf.refined(segment, MM)(image)
    assert torch.equal(refined.argmax(0), 2 - segment(image).float().argmax(0))


def test_a_background_alone_stays_one() -> None:
    image = -torch.ones(1, 3, 4, 5)
    assert not dense_crf.refined(segment, MM)(image).argmax(0).any()
