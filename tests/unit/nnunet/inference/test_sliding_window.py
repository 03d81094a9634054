"""Refuse output that is not finite, and have no confidence in it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from refusal import refused
from tiny_model import make_model

from pcl_auto.errors import NumericalError
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.nnunet.inference.sliding_window import SlidingWindow, segmenter

IMAGE = np.random.default_rng(0).normal(size=(1, 10, 9, 8)).astype(np.float32)


@pytest.fixture
def window(tmp_path: Path) -> SlidingWindow:
    return ModelPredictor(make_model(tmp_path / "model"), torch.device("cpu")).first_fold()


def nnunet_finds(monkeypatch: pytest.MonkeyPatch, window: SlidingWindow, answer: Any) -> None:
    def predict(image: torch.Tensor) -> torch.Tensor:
        if isinstance(answer, Exception):
            raise answer
        return torch.full((2, *image.shape[1:]), answer)

    monkeypatch.setattr(window._nnunet, "predict_sliding_window_return_logits", predict)


@pytest.mark.parametrize("answer", [math.nan, math.inf, RuntimeError("Encountered inf in predicted array. Aborting")])
def test_output_that_is_not_finite_is_refused_and_not_trusted(
    window: SlidingWindow, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    logits = window.logits(torch.from_numpy(IMAGE))
    assert 0 < window.confidence(IMAGE) <= 1
    sure, consistency = window.certainty_and_consistency(IMAGE, logits)
    assert consistency > 0
    nnunet_finds(monkeypatch, window, answer)
    with refused(NumericalError, "number.output-not-finite") as refusal:
        window.logits(torch.from_numpy(IMAGE), "a.nii.gz")
    assert refusal.problem.where == "a.nii.gz"
    assert window.confidence(IMAGE) == 0
    assert window.certainty_and_consistency(IMAGE, logits) == (sure, 0)


def test_other_faults_stay_what_they_are(window: SlidingWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet_finds(monkeypatch, window, RuntimeError("shapes do not match"))
    for call in (lambda: window.logits(torch.from_numpy(IMAGE)), lambda: window.confidence(IMAGE)):
        with pytest.raises(RuntimeError, match="shapes do not match"):
            call()


@pytest.mark.parametrize("deterministic", [False, True])
def test_kernels_of_a_deterministic_training_are_not_chosen_by_time(tmp_path: Path, *, deterministic: bool) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    model = make_model(tmp_path / "model")
    try:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = False
        ModelPredictor(model, torch.device("cuda"))  # nothing is computed
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def test_a_confidence_is_the_mean_of_its_parts(window: SlidingWindow) -> None:
    sure, consistency = window.certainty_and_consistency(IMAGE, window.logits(torch.from_numpy(IMAGE)))
    assert window.confidence(IMAGE) == pytest.approx((sure + 2 * consistency) / 3)


def test_a_training_segments_with_the_network_as_it_is(tmp_path: Path) -> None:
    made = ModelPredictor(make_model(tmp_path / "model"), torch.device("cpu"))
    trainer = SimpleNamespace(
        device=torch.device("cpu"),
        plans_manager=made.plans,
        configuration_manager=made.configuration,
        dataset_json=made.dataset_json,
        inference_allowed_mirroring_axes=(0, 1),
    )
    window = made.first_fold()
    segment = segmenter(trainer, window.network, mirroring=False)
    torch.testing.assert_close(segment(torch.from_numpy(IMAGE)), window.logits(torch.from_numpy(IMAGE)), rtol=0, atol=0)
    before = segment(torch.from_numpy(IMAGE))
    with torch.no_grad():
        window.network.decoder.seg_layers[-1].bias += 1  # type: ignore[union-attr,index]
    assert not torch.equal(segment(torch.from_numpy(IMAGE)), before)
