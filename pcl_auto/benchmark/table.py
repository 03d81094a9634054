"""Sum up the runs of a benchmark: a row for each arm and number of labels, the curve over labels, JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from pcl_auto.benchmark.arms import BASELINE_ARMS
from pcl_auto.benchmark.study import SCHEMA_VERSION, Study
from pcl_auto.evaluation.statistics import MAX_P, Comparison, Scores, Spread, compare, least_p, mean, spread
from pcl_auto.workspace.files import table_cell

Runs = Mapping[str, Mapping[str, Any]]
COLUMNS = ("arm", "labeled", "draw", "case", "dice", "hd95_mm")


@dataclass(frozen=True)
class Row:
    """An arm with one number of labels, over the seeds that are there.

    ``hd95_undefined``: structures of cases without an HD95, as they are missing in one of the two masks or in both.
    """

    arm: str
    labeled: int
    dice: Spread
    hd95_mm: Spread
    hd95_undefined: int
    seconds: float
    memory_mb: float
    comparison: Comparison | None
    all_labels: bool = False

    @property
    def verdict(self) -> str:
        """One sentence on whether the arm helped; empty where there is nothing to compare it with."""
        if self.comparison is None:
            return ""
        found = self.comparison
        text = (
            f"{self.arm}, labels {self.labeled}: {found.verdict}. Mean Dice {found.difference:+.3f} against "
            f"supervised, better on {found.seeds_better} of {found.seeds} seeds, "
            f"p {p_text(found.p)} over {found.cases} test cases"
        )
        if least_p(found.cases) >= MAX_P:
            text += f" (so few cases cannot give less than {p_text(least_p(found.cases))}: no gain would count)"
        return text


def p_text(p: float) -> str:
    """Format a p value for readers."""
    return "n/a" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def make_rows(study: Study, runs: Runs) -> list[Row]:
    """Return the rows of the runs that are there, by number of labels and arm, all labels last."""
    groups = {(run.arm.name, run.labeled): run.arm for run in study.runs if run.name in runs}
    order = [arm.name for arm in study.arms]
    keys = sorted(groups, key=lambda key: (groups[key].all_labels, key[1], order.index(key[0])))
    return [_row(arm, labeled, study, runs) for arm, labeled in keys]


def _row(arm: str, labeled: int, study: Study, runs: Runs) -> Row:
    own = _entries(arm, labeled, runs)
    comparison = None
    if arm not in BASELINE_ARMS:
        ceiling = _scores("nnunet", study.all_labels, runs)
        comparison = compare(_scores(arm, labeled, runs), _scores("nnunet", labeled, runs), ceiling)
    return Row(
        arm=arm,
        labeled=labeled,
        dice=spread(_scores(arm, labeled, runs)),
        hd95_mm=spread(_scores(arm, labeled, runs, "hd95_mm")),
        hd95_undefined=sum(entry["undefined"]["hd95_mm"] for entry in own),
        seconds=mean(_number(entry["seconds"]) for entry in own),
        memory_mb=max(map(_number, (entry["memory_mb"] for entry in own)), default=math.nan),
        comparison=comparison,
        all_labels=labeled == study.all_labels,
    )


def _entries(arm: str, labeled: int, runs: Runs) -> list[Mapping[str, Any]]:
    settings = [(entry, entry["settings"]) for entry in runs.values()]
    return [entry for entry, own in settings if (own["arm"], own["labeled"]) == (arm, labeled)]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _scores(arm: str, labeled: int, runs: Runs, metric: str = "dice") -> Scores:
    return {
        entry["settings"]["draw"]: {case["id"]: _number(case[metric]) for case in entry["cases"]}
        for entry in _entries(arm, labeled, runs)
    }


@dataclass(frozen=True)
class Point:
    """A recipe with one number of labels.

    ``worth``: the number of labels with which nnU-Net alone has the same mean Dice; infinite if it has not reached it
    with any, None without a baseline.
    """

    arm: str
    labeled: int
    dice: float
    baseline: float | None
    worth: float | None


def curve_points(rows: Sequence[Row]) -> list[Point]:
    """Return the mean Dice of every recipe over the number of labels, without the baselines."""
    alone = {row.labeled: row.dice.mean for row in rows if row.arm == "nnunet"}
    return [
        Point(
            row.arm,
            row.labeled,
            row.dice.mean,
            alone.get(row.labeled),
            labels_needed(alone, row.dice.mean) if alone else None,
        )
        for row in rows
        if row.comparison is not None
    ]


def labels_needed(curve: Mapping[int, float], dice: float) -> float:
    """Return the smallest number of labels at which ``curve`` (Dice by number of labels) reaches ``dice``.

    Between two measured numbers Dice is taken to grow with the logarithm of the number. Below the smallest one nothing
    is known, and that is returned. Infinite if no number reaches it.
    """
    known = sorted(curve.items())
    if known[0][1] >= dice:
        return float(known[0][0])
    for (few, low), (many, high) in pairwise(known):
        if low < dice <= high:
            return float(few * (many / few) ** ((dice - low) / (high - low)))
    return math.inf


def describe_curve(points: Sequence[Point], most: int) -> list[str]:
    """Say in sentences how many labels a recipe is worth and what its last labels brought.

    Args:
        points: of one recipe, by number of labels.
        most: the largest number of labels that the baseline was trained with.
    """
    lines = []
    for point in points:
        worth = point.labeled if point.worth is None else point.worth
        if math.isinf(worth) or round(worth) > point.labeled:
            number = f"more than {most}" if math.isinf(worth) else f"about {round(worth)}"
            lines.append(f"{point.arm} with {_labels(point.labeled)} is worth nnU-Net alone with {number}")
    if len(points) > 1:
        before, last = points[-2:]
        gain = f"{last.dice - before.dice:+.3f} Dice"
        lines.append(f"from {before.labeled} to {_labels(last.labeled)} {last.arm} gains {gain}")
    return lines


def _labels(number: int) -> str:
    return f"{number} label{'s' * (number != 1)}"


def as_csv(runs: Runs) -> str:
    """Return one line per run and test case; a value that does not exist is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in runs.values():
        settings = entry["settings"]
        of_run = [table_cell(settings["arm"]), settings["labeled"], settings["draw"]]
        writer.writerows([*of_run, table_cell(case["id"]), case["dice"], case["hd95_mm"]] for case in entry["cases"])
    return text.getvalue()


def as_json(study: Study, runs: Runs, rows: list[Row]) -> dict[str, Any]:
    """Return all results but the single cases, which lie with each run; NaN stands for no value."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": study.data.name,
        "configuration": study.configuration,
        "budget": study.base_recipe.as_dict(),
        "mirroring": study.mirroring,
        "test_cases": [scan.id for scan in study.held_out.scans],
        "runs_done": len(runs),
        "runs_wanted": len(study.runs),
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "runs": [
            {
                **{key: entry["settings"][key] for key in ("arm", "labeled", "draw")},
                **{key: entry[key] for key in ("mean", "undefined", "seconds", "memory_mb", "model")},
            }
            for entry in runs.values()
        ],
    }
