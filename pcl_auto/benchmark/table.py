"""Sum up the runs of a benchmark: a row for each arm and number of labels, its verdict in words, JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pcl_auto.benchmark.study import SCHEMA_VERSION, Study
from pcl_auto.evaluation.statistics import (
    CONFIDENCE,
    MAX_P,
    MIN_DRAWS,
    RESAMPLES,
    Comparison,
    Scores,
    Spread,
    Verdict,
    classify_against_all,
    compare_arms,
    explain_no_verdict,
    gap_closed,
    mean,
    spread,
)
from pcl_auto.workspace.files import table_cell

Runs = Mapping[str, Mapping[str, Any]]
COLUMNS = ("arm", "labeled", "draw", "case", "dice", "hd95_mm")
# In the order in which a sentence names them.
_WORDS: dict[Verdict, str] = {
    "better": "better than",
    "no clear difference": "no clear difference to",
    "worse": "worse than",
}


@dataclass(frozen=True)
class ArmResults:
    """The scores of an arm with one number of labels, and what its runs cost.

    ``baseline``: nnU-Net alone. ``all_labels``: on all labels, as a ceiling. ``hd95_undefined``: structures of cases
    without an HD95, as they are missing in one of the two masks or in both. ``seconds``: mean of a training.
    """

    arm: str
    labeled: int
    dice: Scores
    hd95_mm: Scores
    baseline: bool = False
    all_labels: bool = False
    hd95_undefined: int = 0
    seconds: float = math.nan
    memory_mb: float = math.nan


@dataclass(frozen=True)
class Row:
    """An arm with one number of labels, over the draws that are there.

    ``comparisons``: with each baseline of as many labels, by its name; none for a baseline. ``best_baseline``: the one
    over which the arm gains the least, on the draws that both have. ``gap_closed``: the share of the way from it to the
    ceiling, which is the best baseline with all labels; NaN where there is no ceiling above it.
    """

    arm: str
    labeled: int
    baseline: bool
    all_labels: bool
    dice: Spread
    hd95_mm: Spread
    hd95_undefined: int
    seconds: float
    memory_mb: float
    comparisons: Mapping[str, Comparison]
    best_baseline: str | None
    gap_closed: float

    @property
    def to_best(self) -> Comparison | None:
        """The comparison with the best baseline, if both have scores of one draw."""
        return self.comparisons.get(self.best_baseline or "")

    @property
    def verdict(self) -> Verdict | None:
        """The verdict against all baselines; None where there is nothing to compare with."""
        return classify_against_all(self.comparisons.values()) if self.comparisons else None

    @property
    def sentence(self) -> str:
        """The verdict against every baseline in words; empty where there is nothing to compare with."""
        if not self.comparisons:
            return ""
        text = f"{self.arm}, {count_labels(self.labeled)}: {'; '.join(self._findings())}"
        if self.gap_closed > 0:  # neither NaN nor on the other side of the baseline
            text += f"; closes {100 * self.gap_closed:.0f} % of the gap from {self.best_baseline} to all labels"
        return text

    def _findings(self) -> list[str]:
        """Name the baselines by the verdict against them."""
        by_verdict: dict[Verdict, list[str]] = {}
        for name, found in self.comparisons.items():
            p = "" if math.isnan(found.p_holm) else f", p {p_text(found.p_holm)}"
            by_verdict.setdefault(found.verdict, []).append(f"{name} ({decimals(found.difference, '+')}{p})")
        findings = [
            f"{words} {'every baseline: ' if 1 < len(named) == len(self.comparisons) else ''}{', '.join(named)}"
            for verdict, words in _WORDS.items()
            if (named := by_verdict.get(verdict))
        ]
        if open_ones := by_verdict.get("no verdict"):
            fewest = min(found.draws for found in self.comparisons.values())
            findings.append(f"{explain_no_verdict(fewest)}, to {', '.join(open_ones)}")
        return findings


def decimals(value: float, sign: str = "") -> str:
    """Format a Dice or a difference of two with three decimals and no leading zero, as ".833" or "+.053"."""
    text = f"{value:{sign}.3f}"
    return "n/a" if math.isnan(value) else text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def p_text(p: float) -> str:
    """Format a p value for readers."""
    return "<.001" if p < 0.001 else decimals(p)


def count_labels(number: int) -> str:
    """Return a number of labels in words, as "1 label"."""
    return f"{number} label{'s' * (number != 1)}"


def make_rows(study: Study, runs: Runs) -> list[Row]:
    """Return the rows of the runs that are there, by number of labels and arm, all labels last."""
    order = [arm.name for arm in study.arms]
    with_all = {arm.name for arm in study.arms if arm.all_labels}
    groups: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    baselines = {arm.name for arm in study.arms if arm.baseline}
    for run in study.runs:
        if run.name in runs:
            groups.setdefault((run.arm.name, run.labeled), {})[run.draw] = runs[run.name]
    results = [
        ArmResults(
            arm=arm,
            labeled=labeled,
            dice=_scores(by_draw, "dice"),
            hd95_mm=_scores(by_draw, "hd95_mm"),
            baseline=arm in baselines,
            all_labels=arm in with_all and labeled == study.all_labels,
            hd95_undefined=sum(entry["undefined"]["hd95_mm"] for entry in by_draw.values()),
            seconds=mean(_number(entry["seconds"]) for entry in by_draw.values()),
            memory_mb=max(_number(entry["memory_mb"]) for entry in by_draw.values()),
        )
        for (arm, labeled), by_draw in groups.items()
    ]
    return summarize(sorted(results, key=lambda entry: (entry.all_labels, entry.labeled, order.index(entry.arm))))


def _scores(by_draw: Mapping[int, Mapping[str, Any]], metric: str) -> Scores:
    return {
        draw: {case["id"]: _number(case[metric]) for case in entry["cases"]} for draw, entry in sorted(by_draw.items())
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def summarize(results: Sequence[ArmResults]) -> list[Row]:
    """Compare every recipe with the baselines of as many labels; return a row of each result, in their order."""
    ceiling = _best([entry for entry in results if entry.all_labels])
    compared: dict[int, dict[str, dict[str, Comparison]]] = {}
    for labeled in {entry.labeled for entry in results}:
        alone = [entry for entry in results if entry.labeled == labeled and entry.baseline]
        recipes = {entry.arm: entry.dice for entry in results if entry.labeled == labeled and not entry.baseline}
        # All recipes at once: p is adjusted for their number.
        compared[labeled] = {baseline.arm: compare_arms(recipes, baseline.dice) for baseline in alone}
    baselines = {(entry.labeled, entry.arm): entry for entry in results if entry.baseline}
    rows = []
    for entry in results:
        by_baseline = {} if entry.baseline else compared[entry.labeled]
        comparisons = {name: found[entry.arm] for name, found in by_baseline.items() if entry.arm in found}
        best = min(comparisons, key=lambda name: comparisons[name].difference, default=None)
        lower = None if best is None else baselines[entry.labeled, best]
        rows.append(
            Row(
                arm=entry.arm,
                labeled=entry.labeled,
                baseline=entry.baseline,
                all_labels=entry.all_labels,
                dice=spread(entry.dice),
                hd95_mm=spread(entry.hd95_mm),
                hd95_undefined=entry.hd95_undefined,
                seconds=entry.seconds,
                memory_mb=entry.memory_mb,
                comparisons=comparisons,
                best_baseline=best,
                gap_closed=gap_closed(entry.dice, lower.dice, ceiling.dice) if lower and ceiling else math.nan,
            )
        )
    return rows


def _best(results: Sequence[ArmResults]) -> ArmResults | None:
    """Return the result of the highest mean Dice; None if none has any."""
    means = [(spread(entry.dice).mean, entry) for entry in results]
    return max((pair for pair in means if not math.isnan(pair[0])), key=lambda pair: pair[0], default=(0, None))[1]


def find_ceiling(rows: Sequence[Row]) -> Row | None:
    """Return the best baseline with all labels, if one was run."""
    known = [row for row in rows if row.all_labels and not math.isnan(row.dice.mean)]
    return max(known, key=lambda row: row.dice.mean, default=None)


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
    ceiling = find_ceiling(rows)
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": study.data.name,
        "configuration": study.configuration,
        "base_recipe": study.base_recipe.as_dict(),
        "mirroring": study.mirroring,
        "test_cases": [scan.id for scan in study.held_out.scans],
        "runs_done": len(runs),
        "runs_wanted": len(study.runs),
        "statistics": {
            "sd": "over draws",
            "confidence_of_intervals": CONFIDENCE,
            "t_interval": "Student's t over draws",
            "bootstrap_interval": f"percentiles of {RESAMPLES} resamples of draws and test cases",
            "p": "paired t-test over draws",
            "p_holm": "p adjusted by Holm for the recipes with as many labels that have the same baseline",
            "verdict": f"at least {MIN_DRAWS} draws, p_holm below {MAX_P}, and 0 outside both intervals",
            "wilcoxon_over_cases_p": "Wilcoxon over test cases, which says nothing about other draws",
        },
        "ceiling": None if ceiling is None else {"arm": ceiling.arm, "labeled": ceiling.labeled},
        "rows": [{**asdict(row), "verdict": row.verdict, "sentence": row.sentence} for row in rows],
        "runs": [
            {
                **{key: entry["settings"][key] for key in ("arm", "labeled", "draw")},
                **{key: entry[key] for key in ("mean", "undefined", "seconds", "memory_mb", "model")},
            }
            for entry in runs.values()
        ],
    }
