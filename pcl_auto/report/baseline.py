"""Find the baseline of a run, nnU-Net alone on the same labels, and set their evaluations beside each other.

A run is one draw of labeled cases, from which nothing can be concluded: see :mod:`pcl_auto.evaluation.statistics`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.errors import StateError
from pcl_auto.evaluation.scores import SCORES, SHAPE
from pcl_auto.evaluation.statistics import mean, paired_differences
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts, read_run, run_folder, run_folders, schedule_of
from pcl_auto.workspace.files import read_kept
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.run_record import RECORD, has_manifest, read_record


@dataclass(frozen=True)
class BaselineComparison:
    """A run beside its baseline.

    ``sentence``: both in plain words, or what is missing. ``command``: makes what is missing. ``scores``: the run's
    evaluation that counts, as in ``scores_file``. ``baseline``: its model folder. ``baseline_scores``: its evaluation
    on the same labels, if there is one.
    """

    sentence: str
    command: str | None = None
    scores: dict[str, Any] | None = None
    scores_file: Path | None = None
    baseline: Path | None = None
    baseline_scores: dict[str, Any] | None = None


def find_baseline(run: RunFacts) -> Path | None:
    """Find the model folder of the finished supervised run with the split, seed, steps and patches of ``run``."""
    wanted = _terms(run.identity, steps_of(run))
    for record in sorted(run.folder.parent.parent.glob(f"{SUPERVISED_TRAINER}__*/{run.folder.name}/{RECORD}")):
        with suppress(StateError, KeyError, TypeError):  # a damaged one is no baseline; `pclauto status` names it
            identity = read_record(record.parent)["identity"]
            if has_manifest(record.parent) and _terms(identity, _own_steps(identity)) == wanted:
                return record.parent.parent
    return None


def steps_of(run: RunFacts) -> int:
    """Count the steps behind the network of ``run``, those of the runs that it goes on from included."""
    return run.steps_before + _own_steps(run.identity)


def _own_steps(identity: Mapping[str, Any]) -> int:
    schedule = schedule_of(identity)
    return schedule.epochs * schedule.steps_per_epoch


def _terms(identity: Mapping[str, Any], steps: int) -> tuple[Any, ...]:
    recipe = identity["recipe"]
    return (
        identity["configuration"],
        identity["split"],
        identity["seed"],
        identity.get("fold"),
        steps,
        recipe["batch"]["patches"],
        recipe["network"],
        identity["input"],
    )


def compare_to_baseline(run: RunFacts, workspace: Workspace) -> BaselineComparison:
    """Compare ``run`` of ``workspace`` with its baseline, by the evaluations in both model folders."""
    own = _evaluations(run.folder.parent)
    last: tuple[dict[str, Any] | None, Path | None] = own[-1] if own else (None, None)
    if run.identity["trainer"] == SUPERVISED_TRAINER:
        return BaselineComparison("This run is a baseline: nnU-Net on the labeled cases alone.", None, *last)
    baseline = find_baseline(run)
    if baseline is None:
        sentence = "There is no supervised baseline of this split, length and seed to compare this run with."
        return BaselineComparison(sentence, _baseline_command(run, workspace), *last)
    for scores, file in reversed(own):
        for other, _ in reversed(_evaluations(baseline)):
            sentence = _beside(scores, other)
            if sentence:
                return BaselineComparison(sentence, None, scores, file, baseline, other)
    missing, model = ("the baseline on the same labels", baseline) if own else ("this run", run.folder.parent)
    return BaselineComparison(
        f"A supervised baseline was trained, but {missing} has not been evaluated: there is nothing to compare.",
        f"pclauto predict SCANS -o OUT --model {shlex.quote(str(model))} && pclauto evaluate OUT LABELS",
        *last,
        baseline,
    )


def _evaluations(model: Path) -> list[tuple[dict[str, Any], Path]]:
    """Read the evaluations of a model, oldest first."""
    found = [(read_kept(file, SHAPE), file) for file in model.glob(f"{SCORES}/*.json")]
    return sorted(((scores, file) for scores, file in found if scores is not None), key=lambda entry: entry[0]["time"])


def damaged_evaluations(model: Path) -> list[Path]:
    """List the files of evaluations of a model that cannot be read."""
    return [file for file in sorted(model.glob(f"{SCORES}/*.json")) if read_kept(file, SHAPE) is None]


def _beside(scores: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Set two evaluations beside each other, on their common cases.

    Empty if there are none, or if the evaluations differ in their labels or in their way of predicting.
    """
    if any(scores.get(key) != other.get(key) for key in ("labels", "mirroring")):
        return ""
    own, alone = case_dice(scores), case_dice(other)
    cases = paired_differences({0: own}, {0: alone}).get(0, {})
    if not cases:
        return ""
    here, there = mean(own[case] for case in cases), mean(alone[case] for case in cases)
    number = "1 test case" if len(cases) == 1 else f"{len(cases)} test cases"
    return (
        f"Dice {here:.3f} here against {there:.3f} of nnU-Net alone on the same labels ({number}): "
        "one draw of labeled cases, no verdict. pclauto benchmark compares over several draws."
    )


def case_dice(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean Dice over classes of every case; NaN where no class has a value."""
    return {
        case["id"]: mean(math.nan if value is None else value for value in case["dice"].values())
        for case in scores["cases"]
    }


def _baseline_command(run: RunFacts, workspace: Workspace) -> str | None:
    """Return the command that trains the baseline of ``run``; None where no command has its number of steps."""
    command = [str(part) for part in run.record.get("command", [])]
    if command[1:2] != ["train"]:
        return None
    if not run.steps_before:
        return shlex.join(["pclauto", *command[1:], "--supervised-only"])
    first, identity, steps = _first_run(run), run.identity, steps_of(run)
    if first is None or first.identity.get("start") or "budget_s" in first.identity or steps % first.steps_per_epoch:
        return None
    given = _option(first.record["command"], "--recipe")
    split_file = DatasetFolder(workspace.preprocessed / identity["dataset"]).split_file(run.split.name)
    settled = [
        *("--split", str(split_file), *(["--recipe", given] if given else [])),
        *("--configuration", identity["configuration"], "--seed", str(identity["seed"])),
        *("--epochs", str(steps // first.steps_per_epoch), "--supervised-only"),
    ]
    return shlex.join(["pclauto", "train", identity["dataset"], *settled]) + workspace.option


def _first_run(run: RunFacts) -> RunFacts | None:
    """Follow ``run`` back over all corrections to the run they began with; None if one on the way is gone."""
    while run.steps_before:
        model = run.folder.parent.parent / run.split.history[-1].model
        if not run_folders(model):
            return None
        run = read_run(run_folder(model))
    return run


def _option(command: Sequence[str], name: str) -> str | None:
    """Return the value that a command gave to an option."""
    for part, following in zip(command, [*command[1:], ""], strict=True):
        if part == name:
            return following
        if part.startswith(f"{name}="):
            return part.removeprefix(f"{name}=")
    return None
