"""The supervised run that a run is measured by, and what their evaluations say of the two."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.evaluation.scores import SCORES
from pcl_auto.evaluation.statistics import Comparison, compare, mean
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts, read_run, run_folder, run_folders
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.record import RECORD, has_manifest


@dataclass(frozen=True)
class Verdict:
    """What may be said of a run against its baseline.

    ``scores``: the run's last evaluation, as it lies in ``scores_file``. ``comparison``: None where either of the two
    was not evaluated on the same labels. ``sentence``: all of it in plain words; ``command``: what is missing for more.
    """

    kind: str
    sentence: str
    command: str | None = None
    scores: dict[str, Any] | None = None
    scores_file: Path | None = None
    baseline: Path | None = None
    baseline_scores: dict[str, Any] | None = None
    comparison: Comparison | None = None


def find_baseline(run: RunFacts) -> Path | None:
    """The model folder of the finished supervised run on the same split, for as many steps and patches, by one seed."""
    wanted = _terms(run.identity, steps_of(run))
    for record in sorted(run.folder.parent.parent.glob(f"{SUPERVISED_TRAINER}__*/{run.folder.name}/{RECORD}")):
        identity = read_json(record)["identity"]
        if has_manifest(record.parent) and _terms(identity, _own_steps(identity)) == wanted:
            return record.parent.parent
    return None


def steps_of(run: RunFacts) -> int:
    """The steps behind the network of ``run``: its own, and those of the runs that corrections made it go on from."""
    return run.steps_before + _own_steps(run.identity)


def _first_of(run: RunFacts) -> RunFacts | None:
    """The run that ``run`` goes back to over all corrections; None where it, or one on the way, is gone."""
    while run.steps_before:
        model = run.folder.parent.parent / run.split.history[-1].model
        if not run_folders(model):
            return None
        run = read_run(run_folder(model))
    return run


def _own_steps(identity: Mapping[str, Any]) -> int:
    schedule = identity["recipe"]["schedule"]
    epochs = schedule["supervised_epochs"] + schedule["rounds"] * schedule["epochs_per_round"]
    return int(epochs * schedule["steps_per_epoch"])


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


def compare_to_baseline(run: RunFacts, workspace: Workspace) -> Verdict:
    """The verdict on ``run`` of ``workspace``, from the evaluations that lie with its model and with its baseline's."""
    own = _scores(run.folder.parent)
    last: tuple[dict[str, Any] | None, Path | None] = own[-1] if own else (None, None)
    if run.identity["trainer"] == SUPERVISED_TRAINER:
        return Verdict("none", "This run is a baseline: nnU-Net on the labeled cases alone.", None, *last)
    baseline = find_baseline(run)
    if baseline is None:
        sentence = (
            "There is no supervised baseline of this split, length and seed, "
            "so nobody can say whether the unlabeled scans helped."
        )
        return Verdict("none", sentence, _baseline_command(run, workspace), *last)
    for scores, file in reversed(own):
        for other, _ in reversed(_scores(baseline)):
            comparison = _compare(scores, other, run.identity["seed"])
            if comparison is not None:
                kind = comparison.verdict.replace(" ", "-")
                return Verdict(kind, _say(comparison), None, scores, file, baseline, other, comparison)
    missing = "this run" if not own else "the baseline on the same labels"
    return Verdict(
        "none",
        f"A supervised baseline was trained, but {missing} has not been evaluated: nobody can say whether it helped.",
        _evaluation_command(run.folder.parent if not own else baseline),
        *last,
        baseline,
    )


def _scores(model: Path) -> list[tuple[dict[str, Any], Path]]:
    """The evaluations of a model, oldest first."""
    found = [(read_json(file), file) for file in model.glob(f"{SCORES}/*.json")]
    return sorted(found, key=lambda entry: str(entry[0]["time"]))


def _compare(scores: Mapping[str, Any], other: Mapping[str, Any], seed: int) -> Comparison | None:
    """The two on the cases of both; None where they were scored by other labels or predicted in another way."""
    if any(scores[key] != other[key] for key in ("labels", "mirroring")):
        return None
    return compare({seed: case_dice(scores)}, {seed: case_dice(other)})


def case_dice(scores: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice over classes of every case; NaN where no class has a value."""
    return {
        case["id"]: mean(math.nan if value is None else value for value in case["dice"].values())
        for case in scores["cases"]
    }


def _say(comparison: Comparison) -> str:
    words = {
        "helped": "The unlabeled scans helped",
        "did not help": "The unlabeled scans did not help",
        "no clear difference": "No clear difference",
    }[comparison.verdict]
    return (
        f"{words}: {comparison.difference:+.3f} mean Dice against nnU-Net on the same labels, "
        f"over {comparison.cases} {'case' if comparison.cases == 1 else 'cases'} "
        f"(p = {comparison.p:.2g}, Wilcoxon's test), with one seed."
    )


def _baseline_command(run: RunFacts, workspace: Workspace) -> str | None:
    command = [str(part) for part in run.record.get("command", [])]
    if command[1:2] != ["train"]:
        return None
    if not run.steps_before:
        return shlex.join(["pclauto", *command[1:], "--supervised-only"])
    first, identity, steps = _first_of(run), run.identity, steps_of(run)
    if first is None or first.identity.get("start") or "budget_s" in first.identity or steps % first.steps_per_epoch:
        return None  # no number of the recipe's epochs, begun with nothing, comes to these steps
    given = _option(first.record["command"], "--recipe")
    split_file = DatasetFolder(workspace.preprocessed / identity["dataset"]).split_file(run.split.name)
    settled = [
        *("--split", str(split_file), *(["--recipe", given] if given else [])),
        *("--configuration", identity["configuration"], "--seed", str(identity["seed"])),
        *("--epochs", str(steps // first.steps_per_epoch), "--supervised-only"),
    ]
    return shlex.join(["pclauto", "train", identity["dataset"], *settled]) + workspace.option


def _option(command: Sequence[str], name: str) -> str | None:
    """The value that a command gave to an option."""
    for part, following in zip(command, [*command[1:], ""], strict=True):
        if part == name:
            return following
        if part.startswith(f"{name}="):
            return part.removeprefix(f"{name}=")
    return None


def _evaluation_command(model: Path) -> str:
    return f"pclauto predict SCANS -o OUT --model {shlex.quote(str(model))} && pclauto evaluate OUT LABELS"
