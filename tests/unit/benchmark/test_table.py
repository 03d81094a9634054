"""Sum up a study, whole and cut short: rows, verdicts, curve, CSV and JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from pcl_auto.benchmark.study import BenchmarkRequest, Study, resolve_study
from pcl_auto.benchmark.table import (
    Point,
    Row,
    as_csv,
    as_json,
    curve_points,
    describe_curve,
    labels_needed,
    make_rows,
)
from pcl_auto.evaluation.statistics import Comparison, Spread
from pcl_auto.workspace.files import finite
from pcl_auto.workspace.folders import Workspace

ALONE = {1: 0.5, 2: 0.6, 8: 0.8}
DICE = {"nnunet": 0.5, "paper": 0.6, "default": 0.9}


@pytest.fixture
def study(workspace: Workspace) -> Study:
    request = BenchmarkRequest(labeled="1,2", draws=2, arms="all-labels,paper,nnunet")
    return resolve_study(request, workspace.dataset(None), workspace)


def entry(arm: str, labeled: int, seed: int, cases: int = 10) -> dict[str, Any]:
    listed = [
        {"id": f"case{i}", "dice": DICE[arm] + 0.001 * i * (arm == "paper"), "hd95_mm": None} for i in range(cases)
    ]
    return {
        "settings": {"arm": arm, "labeled": labeled, "draw": seed},
        "mean": {"dice": DICE[arm], "hd95_mm": None},
        "undefined": {"dice": 0, "hd95_mm": cases},
        "seconds": 60.0 * (seed + 1),
        "memory_mb": None if seed else 100,
        "model": "model",
        "cases": listed,
    }


def everything(study: Study, cases: int = 10) -> dict[str, Any]:
    return {run.name: entry(run.arm.name, run.labeled, run.draw, cases) for run in study.runs}


def test_rows_of_a_whole_study(study: Study) -> None:
    rows = make_rows(study, everything(study))
    assert [(row.arm, row.labeled) for row in rows] == [
        ("paper", 1), ("nnunet", 1), ("paper", 2), ("nnunet", 2), ("nnunet", 4),
    ]  # fmt: skip
    paper = rows[0]
    assert paper.comparison is not None
    assert paper.comparison.verdict == "helped"
    assert paper.comparison.difference == pytest.approx(0.1045)
    assert paper.seconds == 90
    assert paper.memory_mb == 100
    assert paper.hd95_undefined == 20
    assert "paper, labels 1: helped. Mean Dice +0.10" in paper.verdict
    assert "no gain would count" not in paper.verdict
    assert [row.verdict for row in rows if row.arm != "paper"] == ["", "", ""]


def test_few_test_cases_are_said_to_be_few(study: Study) -> None:
    (row, *_) = make_rows(study, everything(study, cases=4))
    assert "no clear difference" in row.verdict
    assert "cannot give less than 0.125: no gain would count" in row.verdict


def test_a_study_that_is_cut_short_shows_what_is_there(study: Study) -> None:
    runs = everything(study)
    assert make_rows(study, {}) == []
    (alone,) = make_rows(study, {"paper_L1_s0": runs["paper_L1_s0"]})
    assert alone.comparison is None
    first = {name: runs[name] for name in ("nnunet_L1_s0", "paper_L1_s0")}
    paper = make_rows(study, first)[0]
    assert paper.comparison is not None
    assert paper.comparison.seeds == 1


def test_csv_has_a_line_per_run_and_case(study: Study) -> None:
    lines = as_csv(everything(study)).splitlines()
    assert lines[0] == "arm,labeled,draw,case,dice,hd95_mm"
    assert len(lines) == 1 + 10 * 10
    assert lines[1] == "nnunet,1,0,case0,0.5,"


def test_results_are_json(study: Study) -> None:
    runs = everything(study)
    content = as_json(study, runs, make_rows(study, runs))
    read = json.loads(json.dumps(finite(content), allow_nan=False))
    assert read["runs_done"] == read["runs_wanted"] == 10
    assert len(read["rows"][0]["comparison"]["per_seed"]) == 2


@pytest.mark.parametrize(
    ("dice", "needed"),
    # 0.7 lies half-way between 2 and 8 labels, and half-way of their logarithms is 4.
    [(0.4, 1), (0.5, 1), (0.6, 2), (0.7, 4), (0.8, 8), (0.81, math.inf)],
)
def test_labels_needed(dice: float, needed: float) -> None:
    assert labels_needed(ALONE, dice) == pytest.approx(needed)


def test_labels_needed_lie_on_the_drawn_curve() -> None:
    for dice in np.linspace(0.51, 0.8, 30):
        needed = labels_needed(ALONE, dice)
        assert np.interp(np.log(needed), np.log(list(ALONE)), list(ALONE.values())) == pytest.approx(dice)


def test_of_a_curve_that_falls_the_first_number_that_reaches_it_counts() -> None:
    assert labels_needed({1: 0.5, 2: 0.7, 4: 0.6, 8: 0.9}, 0.65) == pytest.approx(2**0.75)


def row(arm: str, labeled: int, dice: float) -> Row:
    compared = None if arm in ("nnunet", "all") else Comparison(1, 9, 0.1, 0.5, 1, (), 0.5, "no clear difference")
    return Row(arm, labeled, Spread(dice, 0.0, 1), Spread(1.0, 0.0, 1), 0, 1.0, 1.0, compared)


def test_points_of_a_study() -> None:
    rows = [row("mine", 2, 0.7), row("nnunet", 2, 0.6), row("mine", 8, 0.9), row("nnunet", 8, 0.8)]
    assert curve_points([*rows, row("all", 99, 0.95)]) == [
        Point("mine", 2, 0.7, 0.6, pytest.approx(4)),  # type: ignore[arg-type]
        Point("mine", 8, 0.9, 0.8, math.inf),
    ]  # fmt: skip
    assert curve_points([row("mine", 2, 0.7)]) == [Point("mine", 2, 0.7, None, None)]


def test_describe_curve() -> None:
    curve = [Point("mine", 1, 0.6, 0.5, 2.2), Point("mine", 2, 0.7, 0.6, 4.0), Point("mine", 8, 0.81, 0.8, math.inf)]
    assert describe_curve(curve, 8) == [
        "mine with 1 label is worth nnU-Net alone with about 2",
        "mine with 2 labels is worth nnU-Net alone with about 4",
        "mine with 8 labels is worth nnU-Net alone with more than 8",
        "from 2 to 8 labels mine gains +0.110 Dice",
    ]
    assert describe_curve([Point("mine", 2, 0.6, 0.6, 2.0)], 2) == []
    assert describe_curve([Point("mine", 2, 0.6, None, None)], 2) == []
