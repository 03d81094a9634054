"""Losses that are no numbers end a training; where, on which cases, and which of them is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from refusal import refused

from pcl_auto.errors import NumericalError
from pcl_auto.nnunet.errors import require_numbers


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_loss_that_is_no_number_is_enough(value: float) -> None:
    losses = {"loss": np.array(1.0), "consistency": np.array([0.5, value])[1]}
    with refused(NumericalError, "number.loss-not-finite") as refusal:
        require_numbers(losses, "epoch 2, step 7", ["case_b", "case_a"])
    assert "case_b, case_a" in refusal.problem.where
    assert refusal.problem.found == f"loss 1, consistency {value:g}"
