"""``pclauto status``: how far the runs of a workspace are, from their files alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pcl_auto.errors import PclautoError
from pcl_auto.training.run_facts import RunFacts, read_run, run_folder, run_folders
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.record import RECORD

State = Literal["finished", "running", "stopped", "elsewhere"]
# The time left follows from so many of the last epochs.
_LAST_EPOCHS = 5


@dataclass(frozen=True)
class Status:
    """How far a run is.

    ``state``: ``stopped`` goes on when its command is repeated; ``elsewhere`` is held by another machine, or was when
    that one ended.
    ``seconds_left``: as the last epochs and pseudo-labels went; None where there is nothing to go by.
    ``dice``: of the last epoch's patches or validation cases, by class, None for one that none of them holds;
    ``dice_of`` which.
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
        """The status as plain values."""
        return asdict(self)


def all_runs(workspace: Workspace) -> list[Status]:
    """Every run of the workspace, the one that was written to last first; what cannot be read is left out."""
    folders = [record.parent for record in workspace.results.glob(f"Dataset*/*/fold_*/{RECORD}")]
    found = (_status_if_readable(folder) for folder in sorted(folders, key=_last_written, reverse=True))
    return [status for status in found if status is not None]


def _status_if_readable(folder: Path) -> Status | None:
    try:
        return status_of(folder)
    except (PclautoError, KeyError, OSError):
        return None  # of another version, or half of it moved away


def status_of(folder: Path) -> Status:
    """How far the run in ``folder`` (that of a fold) is.

    Raises:
        StateError: a file of the run is missing or damaged.
    """
    run = read_run(folder)
    last = run.epochs[-1] if run.epochs else {}
    schedule = run.identity["recipe"]["schedule"]
    epochs = schedule["supervised_epochs"] + schedule["rounds"] * schedule["epochs_per_round"]
    state = _state(run.folder)
    done = int(last.get("epoch", 0))
    return Status(
        folder=str(run.folder),
        dataset=run.identity["dataset"],
        split=run.split.name,
        recipe=run.identity["recipe"]["name"],
        trainer=run.identity["trainer"],
        state=state,
        epoch=done,
        epochs=epochs,
        stage=last.get("stage", "preparing"),
        losses=last.get("losses", {}),
        dice=last.get("patch_dice", []),
        dice_of=last.get("patch_dice_of", ""),
        seconds_left=None if state == "finished" else _seconds_left(run, epochs - done, schedule["rounds"]),
        last_event=run.events[-1]["time"] if run.events else "",
        rounds=[_without_time(event) for event in run.happened("pseudo_labels", "rolled_back", "degenerate")],
        command=list(run.record.get("command", ())),
    )


def _without_time(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != "time"}


def _state(folder: Path) -> State:
    """Told without asking for the lock: a run must not meet a closed door because somebody looked."""
    if all((folder / name).is_file() for name in ("checkpoint_final.pth", "validation/summary.json")):
        return "finished"
    holder = folder.parent.parent / f".{folder.parent.name}.holder"
    words = holder.read_text(encoding="utf-8").split() if holder.is_file() else []
    if len(words) < 4:
        return "stopped"
    if words[3] != socket.gethostname():
        return "elsewhere"
    return "running" if words[1].isdigit() and _is_alive(int(words[1])) else "stopped"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _seconds_left(run: RunFacts, epochs: int, rounds: int) -> float | None:
    """As the last epochs went, and for each of ``rounds`` that has no pseudo-labels yet as the last ones went."""
    recent = [float(event["seconds"]) for event in run.epochs[-_LAST_EPOCHS:]]
    if not recent:
        return None
    labeled = run.happened("pseudo_labels")
    # Before the first round nothing is known of them, and an older version kept no time.
    last_s = float(labeled[-1].get("seconds", 0)) if labeled else 0.0
    ahead = rounds - max((int(event["round"]) for event in labeled), default=0)
    return epochs * sum(recent) / len(recent) + ahead * last_s


def _last_written(folder: Path) -> float:
    return max((file.stat().st_mtime for file in _present(folder / "events.jsonl", folder / RECORD)), default=0.0)


def _present(*files: Path) -> Iterable[Path]:
    return (file for file in files if file.is_file())


def runs_of(model: Path) -> list[Status]:
    """The runs of a model folder, one for each fold; or that of a fold's folder.

    Raises:
        StateError: no run has left its record there.
    """
    first = run_folder(model)
    return [status_of(folder) for folder in run_folders(first.parent)]
