"""Sum up a study, whole and cut short: rows, verdicts in words, CSV and JSON."""

from __future__ import annotations

import json
import math
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pcl_auto.benchmark.study import BenchmarkRequest, Study, resolve_study
from pcl_auto.benchmark.table import (
    ArmResults,
    Row,
    as_csv,
    as_json,
    decimals,
    find_ceiling,
    make_rows,
    p_text,
    summarize,
)
from pcl_auto.cli.commands import benchmark
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.evaluation.statistics import compare_arms, gap_closed
from pcl_auto.workspace.files import finite
from pcl_auto.workspace.folders import Workspace

# Mean Dice by arm; with all labels 0.2 more.
DICE = {"nnunet": 0.5, "nnunet_no_mirroring": 0.52, "nnunet_symmetric": 0.55, "paper": 0.5, "default": 0.65}
BASELINES = list(DICE)[:3]


def wobble(arm: str, draw: int) -> float:
    """Return what an arm is off its mean on a draw, in another order for each: 0 on average over six."""
    return (0.004, -0.004, 0.002, -0.002, 0.001, -0.001)[(draw + list(DICE).index(arm)) % 6]


def result(arm: str, labeled: int = 2, draws: int = 6, gain: float = 0.0) -> ArmResults:
    dice = {
        draw: {f"case{case}": DICE[arm] + gain + 0.01 * case + wobble(arm, draw) for case in range(4)}
        for draw in range(draws)
    }
    hd95 = {draw: dict.fromkeys(cases, math.nan) for draw, cases in dice.items()}
    return ArmResults(arm, labeled, dice, hd95, baseline=arm in BASELINES, all_labels=labeled == 4)


def row_of(arm: str, rows: list[Row]) -> Row:
    return next(row for row in rows if row.arm == arm)


@pytest.fixture
def study(workspace: Workspace) -> Study:
    request = BenchmarkRequest(labeled="1,2", draws=5, arms="all-labels,default,nnunet,nnunet_symmetric")
    return resolve_study(request, workspace.dataset(None), workspace)


def entry(arm: str, labeled: int, draw: int) -> dict[str, Any]:
    cases = result(arm, labeled, gain=0.2 * (labeled == 4)).dice[draw]
    return {
        "settings": {"arm": arm, "labeled": labeled, "draw": draw},
        "mean": {"dice": DICE[arm], "hd95_mm": None},
        "undefined": {"dice": 0, "hd95_mm": len(cases)},
        "seconds": 60.0 * (draw + 1),
        "memory_mb": None if draw else 100,
        "model": "model",
        "cases": [{"id": case, "dice": dice, "hd95_mm": None} for case, dice in cases.items()],
    }


def everything(study: Study) -> dict[str, Any]:
    return {run.name: entry(run.arm.name, run.labeled, run.draw) for run in study.runs}


def test_rows_of_a_whole_study(study: Study) -> None:
    rows = make_rows(study, everything(study))
    assert [(row.arm, row.labeled) for row in rows] == [
        ("default", 1), ("nnunet", 1), ("nnunet_symmetric", 1), ("default", 2), ("nnunet", 2), ("nnunet_symmetric", 2),
        ("nnunet", 4), ("nnunet_symmetric", 4),
    ]  # fmt: skip
    assert [row.all_labels for row in rows] == [False] * 6 + [True] * 2
    ceiling = find_ceiling(rows)
    assert ceiling is not None
    assert (ceiling.arm, ceiling.labeled) == ("nnunet_symmetric", 4)
    ours = rows[0]
    assert (ours.dice.draws, ours.seconds, ours.memory_mb, ours.hd95_undefined) == (5, 180, 100, 20)
    assert math.isnan(ours.hd95_mm.mean)
    assert ours.best_baseline == "nnunet_symmetric"
    assert ours.to_best == ours.comparisons["nnunet_symmetric"]
    assert ours.verdict == "better"
    own, alone, best = (result(name, gain=gain, draws=5).dice for name, gain in (
        ("default", 0.0), ("nnunet_symmetric", 0.0), ("nnunet_symmetric", 0.2)
    ))  # fmt: skip
    assert ours.gap_closed == pytest.approx(gap_closed(own, alone, best))
    assert {row.verdict for row in rows if row.baseline} == {None}
    assert {row.sentence for row in rows if row.baseline} == {""}
    assert not any(row.comparisons for row in rows if row.baseline)


def test_p_is_adjusted_for_the_recipes_with_as_many_labels() -> None:
    results = [result(arm, labeled) for labeled in (1, 2) for arm in DICE if labeled == 1 or arm != "paper"]
    rows = summarize(results)
    for name in BASELINES:
        both = compare_arms({arm: result(arm).dice for arm in ("paper", "default")}, result(name).dice)
        assert row_of("default", rows).comparisons[name] == both["default"]
        assert row_of("default", rows).comparisons[name].p_holm > both["default"].p
    alone = row_of("default", rows[5:]).comparisons["nnunet"]
    assert alone.p_holm == alone.p


def test_a_verdict_names_every_baseline() -> None:
    rows = summarize([result(arm) for arm in DICE])
    ours, paper = row_of("default", rows), row_of("paper", rows)
    assert ours.sentence.startswith("default, 2 labels: better than every baseline: nnunet (+.150, p <.001), nnunet_no")
    assert paper.verdict == "worse"
    assert "no clear difference to nnunet (" in paper.sentence
    assert "; worse than nnunet_no_mirroring (-.0" in paper.sentence
    assert ", nnunet_symmetric (-.0" in paper.sentence
    assert "gap" not in ours.sentence


def test_the_only_baseline_is_not_every_baseline() -> None:
    sentence = row_of("default", summarize([result("nnunet", 1), result("default", 1)])).sentence
    assert sentence == "default, 1 label: better than nnunet (+.150, p <.001)"


def test_the_gap_is_to_the_best_baseline_with_all_labels() -> None:
    rows = summarize([*map(result, DICE), result("nnunet", 4, gain=0.1), result("nnunet_symmetric", 4, gain=0.2)])
    ours = row_of("default", rows)
    assert ours.gap_closed == pytest.approx(0.5, abs=0.02)
    assert ours.sentence.endswith("% of the gap from nnunet_symmetric to all labels")


def test_few_draws_allow_no_verdict() -> None:
    three = row_of("default", summarize([result(arm, draws=3) for arm in DICE]))
    assert three.verdict == "no verdict"
    assert three.sentence.startswith(
        "default, 2 labels: no verdict: three draws (at least five are needed), to nnunet (+.15"
    )
    one = row_of("default", summarize([result(arm, draws=1) for arm in DICE]))
    assert "no verdict: one draw, which has no interval" in one.sentence
    assert ", p" not in one.sentence


def test_an_arm_that_lacks_draws_has_no_verdict_but_the_others_have() -> None:
    rows = summarize([*(result(arm) for arm in BASELINES), result("paper", draws=2), result("default")])
    assert row_of("default", rows).verdict == "better"
    assert row_of("paper", rows).verdict == "no verdict"
    # A baseline that lacks draws leaves the verdict against the others open to see.
    rows = summarize([result("nnunet"), result("nnunet_symmetric", draws=2), result("default")])
    assert row_of("default", rows).verdict == "no verdict"
    assert "better than nnunet (" in row_of("default", rows).sentence
    assert "no verdict: two draws (at least five are needed), to nnunet_symmetric" in row_of("default", rows).sentence


def test_a_study_that_is_cut_short_shows_what_is_there(study: Study) -> None:
    runs = everything(study)
    assert make_rows(study, {}) == []
    (alone,) = make_rows(study, {"default_L1_s0": runs["default_L1_s0"]})
    assert (alone.comparisons, alone.best_baseline, alone.sentence) == ({}, None, "")
    ours = make_rows(study, {name: runs[name] for name in ("nnunet_L1_s0", "default_L1_s0")})[0]
    assert ours.comparisons["nnunet"].draws == 1
    (ceiling,) = make_rows(study, {"nnunet_L4_s0": runs["nnunet_L4_s0"]})
    assert ceiling.all_labels
    # Draws that no two arms share.
    ours = make_rows(study, {name: runs[name] for name in ("nnunet_L1_s1", "default_L1_s0")})[0]
    assert (ours.to_best, ours.sentence) == (None, "")


def test_csv_has_a_line_per_run_and_case(study: Study) -> None:
    lines = as_csv(everything(study)).splitlines()
    assert lines[0] == "arm,labeled,draw,case,dice,hd95_mm"
    assert len(lines) == 1 + 4 * len(study.runs)
    assert lines[1].startswith("nnunet,1,0,case0,0.5")
    assert lines[1].endswith(",")


def test_results_are_json(study: Study) -> None:
    runs = everything(study)
    content = as_json(study, runs, make_rows(study, runs))
    read = json.loads(json.dumps(finite(content), allow_nan=False))
    assert read["schema_version"] == 2
    assert read["runs_done"] == read["runs_wanted"] == 40
    assert read["ceiling"] == {"arm": "nnunet_symmetric", "labeled": 4}
    ours = read["rows"][0]
    found = ours["comparisons"]["nnunet"]
    assert (ours["arm"], ours["verdict"], found["verdict"]) == ("default", "better", "better")
    assert list(found["per_draw"]) == ["0", "1", "2", "3", "4"]
    for interval in (found["t_interval"], found["bootstrap_interval"], ours["dice"]["interval"]):
        assert set(interval) == {"low", "high"}
    assert {"p", "p_holm", "wilcoxon_over_cases_p"} <= set(found) & set(read["statistics"])
    assert {(run["arm"], run["labeled"], run["draw"]) for run in read["runs"]} >= {("default", 2, 4), ("nnunet", 4, 0)}


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.8333, "", ".833"), (0.05, "+", "+.050"), (-0.05, "+", "-.050"), (0.9999, "", "1.000"), (1.0, "", "1.000"),
        (-1.0, "+", "-1.000"), (math.nan, "+", "n/a"),
    ],
)  # fmt: skip
def test_decimals(value: float, sign: str, text: str) -> None:
    assert decimals(value, sign) == text


def test_p_text() -> None:
    assert [p_text(p) for p in (0.0001, 0.07, 1.0, math.nan)] == ["<.001", ".070", "1.000", "n/a"]


def test_the_table_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = summarize([*map(result, DICE), result("nnunet_no_mirroring", 120, gain=0.2)])
    terminal, text = Terminal(), StringIO()
    monkeypatch.setitem(terminal.__dict__, "out", Console(file=text, width=80, highlight=False))
    benchmark._render(terminal, None, rows)  # type: ignore[arg-type]
    table = text.getvalue().splitlines()[: len(rows) + 1]
    assert [line.split()[0] for line in table] == ["arm", *(row.arm for row in rows)]
    ours = row_of("default", rows)
    found = ours.comparisons["nnunet_symmetric"]
    low, high = found.t_interval.low, found.t_interval.high
    assert table[5].split() == [
        "default", "2", "6", decimals(ours.dice.mean), "±", decimals(ours.dice.sd), "n/a",
        decimals(found.difference, "+"), f"[{decimals(low, '+')},", f"{decimals(high, '+')}]", p_text(found.p_holm),
    ]  # fmt: skip
    assert ours.sentence in text.getvalue().replace("\n", "")
