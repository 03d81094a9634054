"""The dense CRF on pseudo-labels."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method.refinement import refine

pytest.importorskip("pydensecrf", reason="the extra crf is not installed")


def organ() -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (z, y, x) and its image (1, z, y, x)."""
    z, y, x = np.meshgrid(np.arange(12), np.arange(24), np.arange(24), indexing="ij")
    truth = (2 * (z - 6)) ** 2 + (y - 12) ** 2 + (x - 11) ** 2 < 49
    noise = np.random.default_rng(0).normal(0, 0.03, truth.shape)
    return truth, (truth + noise)[None].astype(np.float32)


def unsure(truth: np.ndarray, wrong: float) -> np.ndarray:
    """Probabilities (2, z, y, x) that lean to the wrong class in a share of the voxels."""
    flipped = truth ^ (np.random.default_rng(1).random(truth.shape) < wrong)
    foreground = np.where(flipped, 0.6, 0.4)
    return np.stack([1 - foreground, foreground])


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_speckle_goes_and_edges_stay_where_the_image_has_them() -> None:
    truth, image = organ()
    before = unsure(truth, 0.15)
    assert dice(before.argmax(0) == 1, truth) < 0.75
    after = refine(before, image, (2.0, 1.0, 1.0))
    assert after.dtype == np.int16
    assert dice(after == 1, truth) > 0.95


def test_what_is_certain_stays() -> None:
    truth, image = organ()
    certain = np.stack([~truth, truth]).astype(np.float32)
    assert np.array_equal(refine(certain, image, (2.0, 1.0, 1.0)) == 1, truth)


def test_without_any_foreground_nothing_is_looked_at() -> None:
    background = np.zeros((3, 4, 5, 6))
    background[0] = 1
    assert not refine(background, np.zeros((1, 4, 5, 6)), (1.0, 1.0, 1.0)).any()
