"""Tell how far the runs of a workspace are (``pclauto status``), from their files alone."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from pcl_auto.errors import PclautoError, Problem, StateError
from pcl_auto.report.rounds import round_uses
from pcl_auto.training.pretrain_record import is_finished, pretraining_folders, read_pretraining
from pcl_auto.training.run_facts import RunFacts, read_events, read_run, run_folder, run_folders, schedule_of
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import held_folders, is_held
from pcl_auto.workspace.run_record import PRETRAINING, RECORD, is_trained

State = Literal["finished", "running", "stopped", "elsewhere", "damaged"]
# The time left is estimated from this number of epochs.
_LAST_EPOCHS = 5


@dataclass(frozen=True)
class Status:
    """The progress of a run.

    ``state``: a ``stopped`` run goes on when its command is repeated; one ``elsewhere`` is held by another machine, or
    was when that machine ended. ``dice``: of each class in the last epoch, None for a class that did not occur;
    ``dice_of``: the patches or cases that it was measured on. ``seconds_left``: estimated from the last epochs and
    pseudo-labels; None before the first epoch.
    """

    folder: str
    dataset: str
    split: str
    recipe: str
    trainer: str
    state: State
    epoch: int
    epochs: int
    stage: str
    losses: dict[str, float]
    dice: list[float | None]
    dice_of: str
    seconds_left: float | None
    last_event: str
    rounds: list[dict[str, Any]]
    command: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class DamagedRun:
    """A run whose files cannot be read: ``problems`` say which, and why."""

    folder: str
    problems: tuple[Problem, ...]
    state: State = "damaged"

    def as_dict(self) -> dict[str, Any]:
        """Return the run as plain values."""
        return {**asdict(self), "problems": [problem.as_dict() for problem in self.problems]}


def all_runs(workspace: Workspace) -> list[Status | DamagedRun]:
    """List every run of the workspace, the last written first; those that cannot be read are among them by name."""
    # A record that is a link to nowhere is one too.
    folders = [fold for fold in workspace.results.glob("Dataset*/*/fold_*") if os.path.lexists(fold / RECORD)]
    beginning = [
        model
        for data in sorted(workspace.results.glob("Dataset*"))
        for model in held_folders(data)
        if not any(fold.parent == model for fold in folders)
    ]
    folders += pretraining_folders(workspace)
    known = [_status_or_damage(folder) for folder in sorted(folders, key=_last_written, reverse=True)]
    return [*map(_beginning, beginning), *known]


def _beginning(model: Path) -> Status:
    """Return the status of a run that has no record yet: its images are preprocessed, or its steps are timed."""
    trainer, plans, *_ = [*model.name.split("__"), "", ""]
    split, _, recipe = plans.removeprefix("nnUNetPlans_").partition("_s")
    seed, _, recipe = recipe.partition("_")
    return Status(
        folder=str(model),
        dataset=model.parent.name,
        split=f"{split}_s{seed}" if seed else split,
        recipe=recipe,
        trainer=trainer,
        state="running",
        epoch=0,
        epochs=0,
        stage="preparing",
        losses={},
        dice=[],
        dice_of="",
        seconds_left=None,
        last_event="",
        rounds=[],
        command=[],
    )


def _status_or_damage(folder: Path) -> Status | DamagedRun:
    try:
        return status_of_pretraining(folder) if folder.parent.name == PRETRAINING else status_of(folder)
    except PclautoError as error:
        return DamagedRun(str(folder), error.problems)
    except OSError as error:
        fix = "make it readable, or restore it"
        problem = Problem("run.unreadable", "run cannot be read", str(folder), fix, found=error.strerror or "")
        return DamagedRun(str(folder), (problem,))


def status_of(folder: Path) -> Status:
    """Tell how far the run in ``folder`` (that of a fold) is.

    Raises:
        StateError: a file of the run is missing or damaged.
    """
    run = read_run(folder)
    last = run.epochs[-1] if run.epochs else {}
    schedule = schedule_of(run.identity)
    state = _state(run.folder)
    done = int(last.get("epoch", 0))
    return Status(
        folder=str(run.folder),
        dataset=run.identity["dataset"],
        split=run.split.name,
        recipe=run.identity["recipe"]["name"] + (" + masks" if "initial_pseudo_labels" in run.identity else ""),
        trainer=run.identity["trainer"],
        state=state,
        epoch=done,
        epochs=schedule.epochs,
        stage=last.get("stage", "preparing"),
        losses=last.get("losses", {}),
        dice=last.get("patch_dice", []),
        dice_of=last.get("patch_dice_of", ""),
        seconds_left=None if state == "finished" else _seconds_left(run, schedule.epochs - done, schedule.rounds),
        last_event=run.events[-1].get("time", "") if run.events else "",
        rounds=_rounds(run),
        command=list(run.record.get("command", ())),
    )


def status_of_pretraining(folder: Path) -> Status:
    """Tell how far the pre-training in ``folder`` is.

    Raises:
        StateError: its record is missing or damaged.
    """
    record, events = read_pretraining(folder), read_events(folder / "events.jsonl")
    identity = record["identity"]
    settings = identity["recipe"]["pretraining"]
    epochs = [event for event in events if event["event"] == "epoch"]
    last = epochs[-1] if epochs else {}
    state: State = "finished" if is_finished(folder) else _holder_state(folder)
    done = int(last.get("epoch", 0))
    recent = [float(event["seconds"]) for event in epochs[-_LAST_EPOCHS:]]
    left = (settings["epochs"] - done) * sum(recent) / len(recent) if recent and state != "finished" else None
    return Status(
        folder=str(folder),
        dataset=identity["dataset"],
        split=identity["split"],
        recipe=f"{identity['recipe']['name']}, {settings['method']} pre-training",
        trainer=PRETRAINING,
        state=state,
        epoch=done,
        epochs=settings["epochs"],
        stage=last.get("stage", "preparing"),
        losses=last.get("losses", {}),
        dice=[],
        dice_of="",
        seconds_left=left,
        last_event=events[-1].get("time", "") if events else "",
        rounds=[],
        command=list(record.get("command", ())),
    )


def _rounds(run: RunFacts) -> list[dict[str, Any]]:
    """List what happened in the rounds; ``used``: the pseudo-labels that the network has learned from."""
    used = {use.number: use.used for use in round_uses(run) if use.outcome != "not reached"}
    return [
        {
            **{key: value for key, value in event.items() if key != "time"},
            **({"used": used[event["round"]]} if event["event"] == "pseudo_labels" and event["round"] in used else {}),
        }
        for event in run.happened("pseudo_labels", "rolled_back", "degenerate")
    ]


def _state(folder: Path) -> State:
    """Return the state of a run."""
    return "finished" if is_trained(folder) else _holder_state(folder.parent)


def _holder_state(held_folder: Path) -> State:
    """Return the state of what is not finished, by who holds its folder, if anybody does."""
    holder = held_folder.parent / f".{held_folder.name}.holder"
    text = holder.read_text(encoding="utf-8", errors="replace") if holder.is_file() else ""
    held = re.match(r"process (\S+) on (\S+)", text)
    if held is None:
        return "stopped"
    process, machine = held.groups()
    if machine != socket.gethostname():
        return "elsewhere"
    # Containers may share a machine's name and have numbers of their own: the lock knows better.
    running = is_held(held_folder)
    if running is None:
        running = process.isascii() and process.isdecimal() and psutil.pid_exists(int(process))
    return "running" if running else "stopped"


def _seconds_left(run: RunFacts, epochs: int, rounds: int) -> float | None:
    """Estimate the time of ``epochs`` more epochs, and of the pseudo-labels of the ``rounds`` that have none yet."""
    recent = [float(event["seconds"]) for event in run.epochs[-_LAST_EPOCHS:]]
    if not recent:
        return None
    labeled = run.happened("pseudo_labels")
    # Nothing is known of them before the first round, and early versions kept no time.
    last_s = float(labeled[-1].get("seconds", 0)) if labeled else 0.0
    ahead = rounds - max((int(event["round"]) for event in labeled), default=0)
    return epochs * sum(recent) / len(recent) + ahead * last_s


def _last_written(folder: Path) -> float:
    files = [folder / "events.jsonl", folder / RECORD]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def runs_of(model: Path) -> list[Status | DamagedRun]:
    """List the runs of a model folder, one for each fold; also if it is the folder of one of them, or a pre-training.

    Raises:
        StateError: no run has left its record there, or none that can be read.
    """
    first = run_folder(model)
    if first.parent.name == PRETRAINING:
        return [status_of_pretraining(first)]
    found = [_status_or_damage(folder) for folder in run_folders(first.parent)]
    damaged = [run for run in found if isinstance(run, DamagedRun)]
    if len(damaged) == len(found):
        raise StateError([problem for run in damaged for problem in run.problems])
    return found
