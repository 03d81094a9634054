"""Sum up a run for the head of its report: one line, and a row of tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pcl_auto.evaluation.statistics import mean
from pcl_auto.recipe.time_budget import format_seconds
from pcl_auto.report.baseline import BaselineComparison, case_dice
from pcl_auto.report.rounds import RoundUse, count_used, describe_use
from pcl_auto.report.verdict import count, is_noise
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts, run_folders

NOT_MEASURED = "not measured yet"


@dataclass(frozen=True)
class Tile:
    """A number of the summary, with its name above and a few words below."""

    name: str
    value: str
    words: str = ""


def story(run: RunFacts, comparison: BaselineComparison, uses: Sequence[RoundUse]) -> str:
    """Tell a run in one line: the rounds that used the unlabeled scans, Dice beside the baseline's, cases."""
    own, other, cases = _numbers(comparison)
    is_baseline = run.identity["trainer"] == SUPERVISED_TRAINER
    parts = ["nnU-Net alone" if is_baseline else describe_use(uses)]
    if cases:
        beside = f", nnU-Net alone {other:.3f}" if not math.isnan(other) else ""
        parts += [f"Dice {own:.3f}{beside}", count(cases, "case")]
    else:
        parts.append(NOT_MEASURED)
    return " · ".join(parts)


def tiles(run: RunFacts, comparison: BaselineComparison, uses: Sequence[RoundUse]) -> list[Tile]:
    """Return the tiles of a run; those on the baseline and on rounds only where it has rounds."""
    own, other, cases = _numbers(comparison)
    scored = Tile("cases scored", str(cases)) if cases else Tile("cases scored", "–", NOT_MEASURED)
    time = Tile("training time", *_time(run))
    dice = Tile("Dice", f"{own:.3f}", "mean over classes") if cases else Tile("Dice", "–", NOT_MEASURED)
    if run.identity["trainer"] == SUPERVISED_TRAINER:
        return [dice, scored, Tile("labeled cases", str(len(run.split.labeled)), "nnU-Net alone"), time]
    if math.isnan(other):
        pair = [Tile("nnU-Net alone", "–", NOT_MEASURED), Tile("difference", "–", NOT_MEASURED)]
    else:
        words = "within noise" if is_noise(comparison) else "one draw, no proof"
        pair = [Tile("nnU-Net alone", f"{other:.3f}", "same labels and steps"),
                Tile("difference", f"{own - other:+.3f}".replace("-", "−"), words)]  # fmt: skip
    used, rounds = count_used(uses)
    folds = len(run_folders(run.folder.parent))
    words = f"of {folds} folds" if folds > 1 else _outcomes(uses) or "on unlabeled scans"
    return [dice, *pair, scored, Tile("rounds used", f"{used} of {rounds}", words), time]


def _numbers(comparison: BaselineComparison) -> tuple[float, float, int]:
    """Return the mean Dice of the run and of its baseline, and the number of cases; NaN for what is not known."""
    if comparison.dice:
        return *comparison.means, len(comparison.dice)
    if comparison.scores is None:
        return math.nan, math.nan, 0
    dice = case_dice(comparison.scores)
    return mean(dice.values()), math.nan, len(dice)


def _outcomes(uses: Sequence[RoundUse]) -> str:
    """Say what the other rounds did."""
    found = [use.outcome for use in uses if use.number and not use.used]
    names = {"labels alone": "on labels alone"}
    return ", ".join(f"{found.count(outcome)} {names.get(outcome, outcome)}" for outcome in dict.fromkeys(found))


def _time(run: RunFacts) -> tuple[str, str]:
    ended = run.happened("trained")
    seconds = ended[-1].get("seconds") if ended else None
    if seconds is None:
        return "–", "" if ended else "not ended yet"
    fold = run.identity.get("fold", "all")
    return format_seconds(float(seconds)), f"on {run.record['device']}" + ("" if fold == "all" else f", fold {fold}")
