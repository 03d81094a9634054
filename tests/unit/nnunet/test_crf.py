"""A segmenter and what a conditional random field makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pcl_auto.nnunet.training import crf

SPACING_MM = (3.0, 1.0, 2.0)


def segment(image: Tensor) -> Tensor:
    """Logits in half precision, as nnU-Net gives them."""
    return torch.stack([-image[0], image[0], 0 * image[0]]).half()


def test_the_field_is_given_probabilities_and_its_result_is_the_segmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 3, 4, 5)

    def reversed_classes(probabilities: np.ndarray, given: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
        assert np.array_equal(given, image.numpy())
        assert spacing_mm == SPACING_MM
        assert probabilities.dtype == np.float32
        expected = np.exp(segment(image).float().numpy())
        assert probabilities == pytest.approx(expected / expected.sum(0), abs=1e-6)
        flipped: np.ndarray = probabilities[::-1].copy()
        return flipped

    monkeypatch.setattr(crf, "refine", reversed_classes)
    refined = crf.refined(segment, SPACING_MM)(image)
    assert torch.equal(refined.argmax(0), 2 - segment(image).float().argmax(0))


def test_a_background_alone_stays_one() -> None:
    image = -torch.ones(1, 3, 4, 5)
    assert not crf.refined(segment, SPACING_MM)(image).argmax(0).any()
