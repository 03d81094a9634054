"""Draw the plot of a study, whatever of it is there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pcl_auto.benchmark.plot import draw
from pcl_auto.benchmark.table import Row
from pcl_auto.evaluation.statistics import Spread


def row(arm: str, labeled: int, mean: float, sd: float) -> Row:
    nan = math.nan
    return Row(arm, labeled, Spread(mean, sd, 3), Spread(nan, nan, 0), 0, nan, nan, None)


ROWS = [
    row("supervised", 1, 0.3, 0.1), row("paper", 1, 0.4, math.nan), row("supervised", 8, math.nan, math.nan),
    row("all-labels", 20, 0.8, 0.01),
]  # fmt: skip


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[3:], ROWS])
def test_a_png_is_drawn_and_replaced(tmp_path: Path, rows: list[Row]) -> None:
    target = tmp_path / "results.png"
    target.write_bytes(b"before")
    draw(rows, "Dataset005_Toy", target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]
