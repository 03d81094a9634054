"""Confidences where nnU-Net finds no numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pcl_auto.nnunet.inference.confidence import confidence_of

LABELS = {"background": 0, "core": 1}


def confidence(message: str) -> float:
    def segment(_image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(message)

    labels_of = SimpleNamespace(has_regions=False)
    return confidence_of(segment, labels_of, LABELS, np.zeros((1, 4, 4, 4), np.float32), in_plane=False)


def test_infinite_logits_are_not_certain_and_end_no_training() -> None:
    assert confidence("Encountered inf in predicted array. Aborting...") == 0.0
    with pytest.raises(RuntimeError, match="shapes"):
        confidence("shapes do not match")
