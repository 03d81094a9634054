"""Gather what is known of a run from the files that it left; nothing is computed anew or guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pcl_auto.data.labels import foreground, has_regions
from pcl_auto.data.split import Split, from_dict
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.training.run_settings import KEY
from pcl_auto.recipe.load import with_current_names
from pcl_auto.recipe.settings import Schedule
from pcl_auto.workspace.files import read_json, read_table, refusing_nonsense
from pcl_auto.workspace.run_record import FINAL, LATEST, RECORD, REVIEW, REVIEWS, read_record, refuse_changed_outputs
from pcl_auto.workspace.shapes import DATASET, SCHEDULE, mismatch

_LEDGERS = "pseudo_labels/round_*/ledger.csv"
_ROUND = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Confidences:
    """Confidences of unlabeled scans: ``values`` in ascending order, and ``cases``, which an older file lacks."""

    file: Path
    values: list[float] = field(default_factory=list)
    cases: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of all values."""
        return median(self.values)

    @property
    def review(self) -> float | None:
        """The highest value that still calls for review; None where too few scans were looked at to judge by them."""
        from pcl_auto.method.confidence import MIN_REFERENCES, REVIEW_SHARE  # imports torch

        if len(self.values) < MIN_REFERENCES:
            return None
        return max(value for place, value in enumerate(self.values) if place / len(self.values) < REVIEW_SHARE)


def read_confidences(run: Path) -> Confidences:
    """Read the confidences of the run in folder ``run``; none where its training has left none."""
    from pcl_auto.nnunet.inference.confidence import REFERENCE, SHAPE  # imports torch

    file = run / REFERENCE
    found = read_json(file, SHAPE) if file.is_file() else {}
    # "certainties" in files of version 0.1.
    values = found.get("confidences", found.get("certainties", []))
    return Confidences(file, sorted(map(float, values)), found.get("cases", {}))


# Lines of the log that are read, by their kind; a line of another shape is a damaged one.
_EVENTS: dict[str, Any] = {
    "epoch": {
        "epoch": int, "seconds": float, "stage?": str, "losses?": {...: (float, None)},
        "patch_dice?": [(float, None)], "patch_dice_of?": str,
    },
    "pseudo_labels": {
        "round": int, "seconds?": float, "used?": int, "cases?": int, "dice_to_last_round?": (float, None),
    },
    "rolled_back": {"round": int, "epoch": int, "reasons": [str]},
    "degenerate": {"round": int, "reasons?": [str]},
    "resumed": {"epoch": int},
    "trained": {"seconds?": float, "memory_mb?": (float, None)},
}  # fmt: skip


# Columns of a ledger that say how good a pseudo-label is, the more telling first; higher is better.
JUDGMENTS = ("agreement", "dice_to_last_round")


@dataclass(frozen=True)
class Round:
    """The ledger of a round's pseudo-labels: ``rows`` as they stand in the file, all values text."""

    number: int
    ledger: Path
    rows: list[dict[str, str]]

    @property
    def used(self) -> int:
        """Number of pseudo-labels that the round trained on."""
        return sum(row.get("used") == "1" for row in self.rows)

    @property
    def judged_by(self) -> str | None:
        """The ledger's column that says how good a pseudo-label is, if it has one; higher is better."""
        for column in JUDGMENTS:
            if any(_number(row.get(column)) is not None for row in self.rows):
                return column
        return None

    def ranked(self) -> list[dict[str, str]]:
        """Return the rows that the ledger judges by a number, best first; without such a number all, by case."""
        column = self.judged_by
        if column is None:
            return sorted(self.rows, key=lambda row: row["case"])
        judged = [(value, row) for row in self.rows if (value := _number(row.get(column))) is not None]
        return [row for _, row in sorted(judged, key=lambda pair: (-pair[0], pair[1]["case"]))]


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder has it.

    ``folder``: of the fold. ``record``: run.json. ``events``: events.jsonl, line by line.
    """

    folder: Path
    record: dict[str, Any]
    events: list[dict[str, Any]]
    rounds: list[Round]
    plans: dict[str, Any]
    classes: dict[str, int]
    channels: list[str]

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that make the run this run."""
        identity: dict[str, Any] = self.record["identity"]
        return identity

    @property
    def split(self) -> Split:
        """Cases that the run may learn from."""
        return from_dict(self.identity["split"])

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch of the schedule."""
        return int(self.identity["recipe"]["schedule"]["steps_per_epoch"])

    @property
    def steps_before(self) -> int:
        """Behind the network that it began with, where it goes on from another run."""
        return int(self.record.get("steps_before", 0))

    @property
    def configuration(self) -> dict[str, Any]:
        """nnU-Net's configuration of the run."""
        configuration: dict[str, Any] = self.plans["configurations"][self.identity["configuration"]]
        return configuration

    @property
    def store(self) -> str:
        """The key of the case store that the run read."""
        with refusing_nonsense(self.folder.parent / "plans.json"):
            return str(self.configuration[KEY]["store"])

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The events of finished epochs; where one was repeated, its last."""
        last = {event["epoch"]: event for event in self.events if event["event"] == "epoch"}
        return [last[epoch] for epoch in sorted(last)]

    def happened(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events of these kinds, in the order they happened."""
        return [event for event in self.events if event["event"] in kinds]

    def round_starts(self) -> dict[int, int]:
        """Return the first epoch of every round, by the recipe's schedule."""
        schedule = self.identity["recipe"]["schedule"]
        if not self.rounds:
            return {}
        first, length = schedule["supervised_epochs"] + 1, schedule["epochs_per_round"]
        return {number: first + (number - 1) * length for number in range(1, schedule["rounds"] + 1)}


def schedule_of(identity: Mapping[str, Any]) -> Schedule:
    """Return the schedule of the run with this ``identity``."""
    schedule = identity["recipe"]["schedule"]
    return Schedule(**{name: schedule[name] for name in SCHEDULE})


def run_folders(model: Path) -> list[Path]:
    """Find the folders of the runs in a model folder: one, or one for each fold."""
    return sorted(record.parent for record in model.glob(f"fold_*/{RECORD}"))


def run_folder(model: Path) -> Path:
    """Find the run's folder in a model folder, or ``model`` where it is one; of several folds the first.

    Raises:
        StateError: no run has left its record there.
    """
    if (model / RECORD).is_file():
        return model
    found = run_folders(model)
    if not found:
        raise StateError(
            Problem(
                code="run.no-record",
                what="no record of a run",
                where=str(model),
                expected=f"fold_all/{RECORD}, which `pclauto train` writes",
                fix="name the model folder of a run with --model",
            )
        )
    return found[0]


def read_run(folder: Path) -> RunFacts:
    """Read the facts of the run in ``folder`` (that of a fold).

    Raises:
        StateError: a file of the run is missing or damaged.
    """
    record = read_record(folder)
    with refusing_nonsense(folder / RECORD):
        record["identity"]["recipe"] = with_current_names(record["identity"]["recipe"])
    dataset = read_json(folder.parent / "dataset.json", DATASET)
    names = [str(name) for name in dataset["channel_names"].values()]
    labels = foreground(dataset["labels"])
    with refusing_nonsense(folder.parent / "dataset.json"):
        # Of regions the value that each is written with in a mask.
        values = dataset["regions_class_order"] if has_regions(labels) else labels.values()
        classes = {str(name): int(value) for name, value in zip(labels, values, strict=True)}
    ledgers = {ledger.parent.name.removeprefix("round_"): ledger for ledger in folder.glob(_LEDGERS)}
    rounds = [
        Round(int(number), ledger, _read_ledger(ledger)) for number, ledger in ledgers.items()
        if _ROUND.fullmatch(number)
    ]  # fmt: skip
    return RunFacts(
        folder=folder,
        record=record,
        events=read_events(folder / "events.jsonl"),
        rounds=sorted(rounds, key=lambda entry: entry.number),
        plans=read_json(
            folder.parent / "plans.json", {"configurations": {record["identity"]["configuration"]: {...: object}}}
        ),
        classes=classes,
        channels=names,
    )


def read_unchanged_run(folder: Path) -> RunFacts:
    """Read the facts of a run that is worked on: a finished one must be as its training left it.

    Raises:
        StateError: a file of the run is missing, damaged or changed.
    """
    run = read_run(folder)
    refuse_changed_outputs(folder)
    return run


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read the events of a run, without lines that were cut off, as by a full disk, or damaged otherwise."""
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not mismatch(event, {"event": str, "time?": str}) and not mismatch(
            event, _EVENTS.get(event["event"], object)
        ):
            events.append(event)
    return events


def _read_ledger(path: Path) -> list[dict[str, str]]:
    rows = read_table(path, ("case",), lambda name: name in JUDGMENTS or name.startswith("volume_ml_"))
    return [row for row in rows if row["case"]]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def last_round(run: RunFacts) -> tuple[Round, Path]:
    """Return the last round whose pseudo-labels are there, and their folder.

    Raises:
        StateError: the run has come to none.
    """
    for last in reversed(run.rounds):
        stored = last.ledger.parent / "cases"
        if stored.is_dir() and last.rows:
            return last, stored
    raise StateError(
        Problem(
            code="review.no-round",
            what="the run has no pseudo-labels",
            where=str(run.folder),
            fix="name a run that has come to its first round with --model; a baseline makes none",
        )
    )


def review_folders(run: Path) -> list[str]:
    """List the folders that the pseudo-labels of the run in folder ``run`` were exported to.

    Its own one is found wherever the workspace lies now: the record has the place where it was.
    """
    file, own = run / REVIEWS, run / REVIEW
    recorded = list(read_json(file, {"folders": [str]})["folders"]) if file.is_file() else []
    elsewhere = [folder for folder in recorded if Path(folder).parts[-3:] != own.parts[-3:]]
    return [*([str(own)] if own.is_dir() or elsewhere != recorded else []), *elsewhere]


def last_checkpoint(folder: Path) -> Path:
    """Find the checkpoint that the run in ``folder`` (that of a fold) has come to.

    Raises:
        StateError: there is none.
    """
    for name in (FINAL, LATEST):
        if (folder / name).is_file():
            return folder / name
    raise StateError(Problem("checkpoint.missing", "no checkpoint", str(folder), "train first: `pclauto train`"))
