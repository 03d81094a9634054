"""Draw the plot of a study, whatever of it is there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from pcl_auto.benchmark.plot import draw
from pcl_auto.benchmark.table import ArmResults, Row, summarize
from pcl_auto.data.palette import BASELINE_COLOR, color
from pcl_auto.evaluation.statistics import t_interval


def results(arm: str, labeled: int, *dice: float, baseline: bool = True) -> ArmResults:
    scores = {draw: {"case": value} for draw, value in enumerate(dice)}
    return ArmResults(arm, labeled, scores, {}, baseline=baseline, all_labels=labeled == 20)


ROWS = summarize([
    results("nnunet", 1, 0.3, 0.4, 0.5), results("paper", 1, 0.4, baseline=False), results("nnunet", 8, math.nan),
    results("nnunet", 20, 0.7), results("nnunet_symmetric", 20, 0.8),
])  # fmt: skip


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[3:], ROWS])
def test_a_png_is_drawn_and_replaced(tmp_path: Path, rows: list[Row]) -> None:
    target = tmp_path / "results.png"
    target.write_bytes(b"before")
    draw(rows, "Dataset005_Toy", target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    # As a formula it could not be drawn at all.
    draw(summarize([results("a$\\frac$", 1, 0.3)]), "Dataset005_$x^{$", tmp_path / "results.png")
    assert (tmp_path / "results.png").is_file()


def test_bars_are_intervals_over_draws_and_the_ceiling_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: dict[str, Any] = {}
    dashed: list[float] = []
    colors: dict[str, str] = {}

    def errorbar(_self: Axes, _x: Any, _y: Any, yerr: Any, label: str, color: str, **_more: Any) -> None:
        bars[label], colors[label] = yerr, color

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    monkeypatch.setattr(Axes, "axhline", lambda _self, y, **_more: dashed.append(y))
    monkeypatch.setattr(Axes, "legend", lambda _self, **_more: None)
    draw(ROWS, "Dataset005_Toy", tmp_path / "results.png")
    interval = t_interval([0.3, 0.4, 0.5])
    assert bars == {"nnU-Net alone": pytest.approx([(interval.high - interval.low) / 2, 0.0]), "paper": [0.0]}
    assert dashed == [0.8]
    assert colors == {"nnU-Net alone": BASELINE_COLOR, "paper": color(0)}
