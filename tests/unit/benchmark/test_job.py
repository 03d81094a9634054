"""What a run leaves: scores by case, and what it cost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pcl_auto.benchmark.job import case_entry, cost
from pcl_auto.evaluate import CaseScore


def test_a_case_is_the_mean_over_the_classes_that_it_has() -> None:
    nan = math.nan
    case = CaseScore("x", {"a": 0.5, "b": 0.0, "c": nan}, {"a": 2.0, "b": nan, "c": nan}, {})
    found = case_entry(case)
    assert found["dice"] == pytest.approx(0.25)
    assert found["hd95_mm"] == pytest.approx(2.0)
    assert found["per_class"]["a"] == {"dice": 0.5, "hd95_mm": 2.0}


def test_the_cost_is_that_of_the_last_training(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert all(math.isnan(value) for value in cost(events).values())
    events.write_text('{"event": "started"}\n')
    assert all(math.isnan(value) for value in cost(events).values())
    events.write_text(
        '{"event": "trained", "seconds": 1, "memory_mb": 1}\n{"event": "trained", "seconds": 9.5, "memory_mb": 12}\n'
        '{"event": "later"}\n'
    )
    assert cost(events) == {"seconds": 9.5, "memory_mb": 12}
