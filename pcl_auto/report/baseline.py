"""Set the evaluations of a run and of its baseline beside each other.

A run is one draw of labeled cases, from which little can be concluded: see :mod:`pcl_auto.evaluation.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcl_auto.errors import format_names
from pcl_auto.evaluation.scores import SCORES, SHAPE, differ_in_input
from pcl_auto.evaluation.statistics import mean, paired_differences
from pcl_auto.report.commands import evaluation_commands, scoring_command, training_command
from pcl_auto.report.find_baseline import find_baseline, find_refused
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts
from pcl_auto.workspace.files import read_kept
from pcl_auto.workspace.folders import Workspace


@dataclass(frozen=True)
class BaselineComparison:
    """A run beside its baseline, or what is missing for that.

    ``scores``: the run's evaluation that counts, as in ``scores_file``. ``baseline``: its model folder.
    ``baseline_scores``: its evaluation, where it is of exactly the same cases, scans and labels. ``dice``: by case, of
    the run and of the baseline, for the cases that can be compared. ``missing``: why there are none. ``refused``: the
    baseline that is no fair pair, and why, as "its model: seed 1, not 0". ``outdated``: cases that are not compared.
    ``commands``: make what is missing.
    """

    scores: dict[str, Any] | None = None
    scores_file: Path | None = None
    baseline: Path | None = None
    baseline_scores: dict[str, Any] | None = None
    dice: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    missing: str = ""
    refused: str = ""
    outdated: str = ""
    commands: tuple[str, ...] = ()

    @property
    def means(self) -> tuple[float, float]:
        """Mean Dice of the run and of the baseline over the compared cases; NaN without such."""
        own, other = zip(*self.dice.values(), strict=True) if self.dice else ((), ())
        return mean(own), mean(other)


def compare_to_baseline(run: RunFacts, workspace: Workspace) -> BaselineComparison:
    """Compare ``run`` of ``workspace`` with its baseline, by the evaluations in both model folders."""
    own, model = _evaluations(run.folder.parent), run.folder.parent
    scores, file = own[-1] if own else (None, None)
    here = () if own else evaluation_commands(run, workspace, model, None)
    if run.identity["trainer"] == SUPERVISED_TRAINER:
        return BaselineComparison(scores, file, missing="" if own else "it has no scores", commands=here)
    baseline = find_baseline(run)
    if baseline is None:
        train, refused = training_command(run, workspace), find_refused(run)
        commands = (*here[:2], train, *evaluation_commands(run, workspace, None, scores)) if train else here
        return BaselineComparison(
            scores,
            file,
            missing="nnU-Net alone was not trained on the same labels and steps" if own else "this run has no scores",
            refused="" if refused is None else str(refused),
            commands=commands,
        )
    alone = _evaluations(baseline)
    # Of several the newest, and one with cases to compare rather than one without.
    pairs = [
        _Pair.of(own_scores, other, own_file)
        for own_scores, own_file in reversed(own)
        for other, _ in reversed(alone)
        if not _unlike(own_scores, other)
    ]
    for pair in sorted(pairs, key=lambda each: not each.dice):
        if pair.dice or pair.outdated:
            return BaselineComparison(
                pair.scores,
                pair.file,
                baseline,
                pair.other if pair.is_whole else None,
                pair.dice,
                missing="" if pair.dice else "labels or scans were changed between the two evaluations",
                outdated=pair.not_compared(),
                commands=pair.commands(run, workspace, baseline),
            )
    if not own:
        return BaselineComparison(baseline=baseline, missing="this run has no scores", commands=here)
    commands = evaluation_commands(run, workspace, baseline, scores)
    if not alone:
        return BaselineComparison(
            scores, file, baseline, missing="nnU-Net alone has been trained, but has no scores", commands=commands
        )
    reasons = min(([_unlike(each, other) for each, _ in own for other, _ in alone]), key=len)
    return BaselineComparison(
        scores,
        file,
        baseline,
        missing="the scores of nnU-Net alone are no fair pair",
        refused=f"{baseline.name}: {'; '.join(reasons or ['no case in common'])}",
        commands=commands,
    )


def _evaluations(model: Path) -> list[tuple[dict[str, Any], Path]]:
    """Read the evaluations of a model, oldest first."""
    found = [(read_kept(file, SHAPE), file) for file in model.glob(f"{SCORES}/*.json")]
    return sorted(((scores, file) for scores, file in found if scores is not None), key=lambda entry: entry[0]["time"])


def damaged_evaluations(model: Path) -> list[Path]:
    """List the files of evaluations of a model that cannot be read."""
    return [file for file in sorted(model.glob(f"{SCORES}/*.json")) if read_kept(file, SHAPE) is None]


def _unlike(scores: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """List what makes an evaluation of a baseline, ``other``, no fair pair to ``scores``."""
    reasons = []
    if scores["labels"] != other["labels"]:
        names = [Path(each["labels"]).name for each in (other, scores)]
        reasons.append(
            f"by the labels of {names[0]}, not of {names[1]}"
            if names[0] != names[1]
            else f"by labels of another {names[0]}"
        )
    if scores.get("mirroring") != other.get("mirroring"):
        reasons.append(f"predicted {_mirrored(other)}, this run {_mirrored(scores)}")
    # Scores of version 0.2 do not say how they were made.
    if scores.get("scored_as", other.get("scored_as")) != other.get("scored_as", scores.get("scored_as")):
        reasons.append("other classes or another ignored value were scored")
    return reasons


def _mirrored(scores: Mapping[str, Any]) -> str:
    known = {True: "with", False: "without"}.get(scores.get("mirroring"))  # type: ignore[arg-type]
    return f"{known} mirroring" if known else "with or without mirroring"


@dataclass(frozen=True)
class _Pair:
    """Two evaluations beside each other: the ``dice`` of cases that can be compared, and cases that cannot.

    ``outdated``: cases that both have, but of which label or scan was another one. ``is_whole``: no evaluation has a
    case that is not compared.
    """

    scores: dict[str, Any]
    other: dict[str, Any]
    file: Path
    dice: dict[str, tuple[float, float]]
    outdated: dict[str, list[str]]
    is_whole: bool

    @classmethod
    def of(cls, scores: dict[str, Any], other: dict[str, Any], file: Path) -> _Pair:
        """Pair two evaluations; ``file`` is that of ``scores``."""
        own, alone = case_dice(scores), case_dice(other)
        outdated = {case: found for case in own.keys() & alone if (found := differ_in_input(scores, other, case))}
        paired = paired_differences({0: own}, {0: alone}).get(0, {})
        whole = own.keys() == alone.keys() and not outdated
        dice = {case: (own[case], alone[case]) for case in paired if case not in outdated}
        return cls(scores, other, file, dice, outdated, whole)

    def not_compared(self) -> str:
        """Say which cases are not compared, and why; empty where all are."""
        if not self.outdated:
            return ""
        files = " and ".join(sorted({f"{key}s" for found in self.outdated.values() for key in found}))
        which = "this run" if self._is_own_older() else "the baseline"
        return (
            f"Not compared: {format_names(sorted(self.outdated))}. Their {files} were changed between the two "
            f"evaluations; the older one, of {which}, must be made again."
        )

    def commands(self, run: RunFacts, workspace: Workspace, baseline: Path) -> tuple[str, ...]:
        """Return the commands that make the older evaluation again; none where neither is out of date."""
        if not self.outdated:
            return ()
        older, model = (self.scores, run.folder.parent) if self._is_own_older() else (self.other, baseline)
        again = scoring_command(older)
        if again is None or any("scan" in found for found in self.outdated.values()):
            return evaluation_commands(run, workspace, model, older)
        return (again,)

    def _is_own_older(self) -> bool:
        return bool(self.scores["time"] <= self.other["time"])


def case_dice(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean Dice over classes of every case; NaN where no class has a value."""
    return {
        case["id"]: mean(math.nan if value is None else value for value in case["dice"].values())
        for case in scores["cases"]
    }
