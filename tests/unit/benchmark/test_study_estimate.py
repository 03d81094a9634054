"""Test how long the missing runs of a study are said to take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pcl_auto.benchmark.study_estimate import estimate_study

RUNS = [(f"{arm}_{draw}", arm == "nnunet") for draw in range(3) for arm in ("nnunet", "default")]
STUDY: Any = SimpleNamespace(
    runs=[SimpleNamespace(name=name, arm=SimpleNamespace(baseline=baseline)) for name, baseline in RUNS]
)


def estimate(**seconds: float) -> tuple[float | None, str]:
    found = {name: {"seconds": value} for name, value in seconds.items()}
    made = estimate_study(STUDY, STUDY, found, timed=False)
    return made.seconds, made.known_from


def test_nothing_is_known_before_the_first_run() -> None:
    seconds, why = estimate()
    assert seconds is None
    assert "--time-steps" in why


def test_runs_that_are_left_take_as_long_as_others_of_their_kind() -> None:
    assert estimate(nnunet_0=100.0)[0] == pytest.approx(500)
    assert estimate(nnunet_0=100.0, default_0=300.0, nnunet_1=140.0)[0] == pytest.approx(120 + 300 + 300)
    assert estimate(**dict.fromkeys((name for name, _ in RUNS), 1.0)) == (0.0, "every run is done")
