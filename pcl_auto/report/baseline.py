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

from pcl_auto.errors import StateError, format_names
from pcl_auto.evaluation.scores import SCORES, SHAPE, differ_in_input
from pcl_auto.evaluation.statistics import mean, paired_differences
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts, read_run, run_folder, run_folders, schedule_of
from pcl_auto.training.run_inputs import recorded_meaning
from pcl_auto.workspace.files import read_kept
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.run_record import RECORD, has_manifest, read_record


@dataclass(frozen=True)
class BaselineComparison:
    """A run beside its baseline.

    ``sentence``: both in plain words, or what is missing. ``command``: makes what is missing. ``scores``: the run's
    evaluation that counts, as in ``scores_file``. ``baseline``: its model folder. ``baseline_scores``: its evaluation
    of the same cases, scans and labels, if there is one.
    """

    sentence: str
    command: str | None = None
    scores: dict[str, Any] | None = None
    scores_file: Path | None = None
    baseline: Path | None = None
    baseline_scores: dict[str, Any] | None = None


def find_baseline(run: RunFacts) -> Path | None:
    """Find the model folder of the finished supervised run with the split, seed, steps and patches of ``run``."""
    meant = recorded_meaning(run.folder, run.record)
    wanted, content = _terms(run.identity, steps_of(run)), run.identity.get("input_content")
    for record in sorted(run.folder.parent.parent.glob(f"{SUPERVISED_TRAINER}__*/{run.folder.name}/{RECORD}")):
        with suppress(StateError, KeyError, TypeError):  # a damaged one is no baseline; `pclauto status` names it
            found = read_record(record.parent)
            identity = found["identity"]
            # Runs of version 0.2 know size and time of what they learned from alone.
            same_content = None in (content, theirs := identity.get("input_content")) or content == theirs
            same_content &= recorded_meaning(record.parent, found) == meant
            if has_manifest(record.parent) and same_content and _terms(identity, _own_steps(identity)) == wanted:
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
    # Of several the newest, and one with cases to compare rather than one without.
    pairs = [
        _Pair.of(scores, other, file)
        for scores, file in reversed(own)
        for other, _ in reversed(_evaluations(baseline))
        if _are_alike(scores, other)
    ]
    for pair in sorted(pairs, key=lambda each: not each.cases):
        if pair.cases or pair.outdated:
            command = pair.command(run.folder.parent, baseline)
            whole = pair.other if pair.is_whole else None
            return BaselineComparison(pair.sentence(), command, pair.scores, pair.file, baseline, whole)
    missing, model = ("the baseline on the same labels", baseline) if own else ("this run", run.folder.parent)
    return BaselineComparison(
        f"A supervised baseline was trained, but {missing} has not been evaluated: there is nothing to compare.",
        _evaluation_command(model),
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


def _are_alike(scores: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two evaluations are by the same labels, of one way of predicting, and scored in one way."""
    same = all(scores.get(key) == other.get(key) for key in ("labels", "mirroring"))
    # Scores of version 0.2 do not say how they were made.
    return same and scores.get("scored_as", other.get("scored_as")) == other.get("scored_as", scores.get("scored_as"))


@dataclass(frozen=True)
class _Pair:
    """Two evaluations beside each other: ``cases`` that can be compared, and those that cannot.

    ``outdated``: cases that both have, but of which label or scan was another one. ``is_whole``: no evaluation has a
    case that is not compared.
    """

    scores: dict[str, Any]
    other: dict[str, Any]
    file: Path
    cases: tuple[str, ...]
    outdated: dict[str, list[str]]
    is_whole: bool

    @classmethod
    def of(cls, scores: dict[str, Any], other: dict[str, Any], file: Path) -> _Pair:
        """Pair two evaluations; ``file`` is that of ``scores``."""
        own, alone = case_dice(scores), case_dice(other)
        outdated = {case: found for case in own.keys() & alone if (found := differ_in_input(scores, other, case))}
        paired = paired_differences({0: own}, {0: alone}).get(0, {})
        whole = own.keys() == alone.keys() and not outdated
        return cls(scores, other, file, tuple(case for case in paired if case not in outdated), outdated, whole)

    def sentence(self) -> str:
        """Say what the comparison is, and what is not compared."""
        parts = []
        if self.cases:
            here, there = (mean(case_dice(each)[case] for case in self.cases) for each in (self.scores, self.other))
            parts.append(
                f"Dice {here:.3f} here against {there:.3f} of nnU-Net alone on the same labels "
                f"({_count(len(self.cases))}): one draw of labeled cases, no verdict. "
                "pclauto benchmark compares over several draws."
            )
        if self.outdated:
            files = " and ".join(sorted({f"{key}s" for found in self.outdated.values() for key in found}))
            which = "this run" if self._is_own_older() else "the baseline"
            parts.append(
                f"Not compared: {format_names(sorted(self.outdated))}. The {files} of "
                f"{_count(len(self.outdated))} were changed between the two evaluations; the older one, of {which}, "
                "must be made again."
            )
        return " ".join(parts)

    def command(self, model: Path, baseline: Path) -> str | None:
        """Return the command that makes the older evaluation again; None where neither is out of date."""
        if not self.outdated:
            return None
        older, its_model = (self.scores, model) if self._is_own_older() else (self.other, baseline)
        masks, labels = Path(older["predictions"]), older["labels"]
        if any("scan" in found for found in self.outdated.values()) or not masks.is_dir():
            return _evaluation_command(its_model, shlex.quote(labels))
        return shlex.join(["pclauto", "evaluate", str(masks), labels])

    def _is_own_older(self) -> bool:
        return bool(self.scores["time"] <= self.other["time"])


def _count(cases: int) -> str:
    return "1 test case" if cases == 1 else f"{cases} test cases"


def _evaluation_command(model: Path, labels: str = "LABELS") -> str:
    return f"pclauto predict SCANS -o OUT --model {shlex.quote(str(model))} && pclauto evaluate OUT {labels}"


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
        # Masks to begin with are no part of a baseline.
        return shlex.join(["pclauto", *_without(command[1:], "--initial-pseudo-labels"), "--supervised-only"])
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


def _without(command: Sequence[str], name: str) -> list[str]:
    """Return a command without an option and its value."""
    before = ["", *command]
    return [
        part
        for part, previous in zip(command, before, strict=False)
        if name not in (part, previous) and not part.startswith(f"{name}=")
    ]


def _option(command: Sequence[str], name: str) -> str | None:
    """Return the value that a command gave to an option."""
    for part, following in zip(command, [*command[1:], ""], strict=True):
        if part == name:
            return following
        if part.startswith(f"{name}="):
            return part.removeprefix(f"{name}=")
    return None
