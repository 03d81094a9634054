"""Define ``pclauto status``: how far the runs are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal, some_of
from pcl_auto.errors import StateError
from pcl_auto.recipe.time_budget import format_duration
from pcl_auto.workspace.folders import Workspace

if TYPE_CHECKING:
    from pcl_auto.report.status import DamagedRun, Status


def status(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model folder or its name, or a data set, split or recipe as the table has it. Default: all runs.",
            metavar="MODEL",
        ),
    ] = None,
    workspace_path: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Show how far the runs are, from another shell.

    \b
      pclauto status
      pclauto status --json

    Nothing is asked of the runs; their files are read.
    """
    from pcl_auto.report.status import DamagedRun, Status, all_runs, runs_of
    from pcl_auto.training.find_model import find_model

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    found = all_runs(workspace)
    if model is not None:
        named = [run for run in found if isinstance(run, Status) and model in _cells(run)[:3]]
        found = [*named] or runs_of(Path(model) if Path(model).is_dir() else find_model(workspace, model))
    damaged = [run for run in found if isinstance(run, DamagedRun)]
    terminal.print_line(f"workspace: {workspace.describe()}")
    if json:
        terminal.json([run.as_dict() for run in found])
    elif not found:
        terminal.print_line("no run yet: begin one with `pclauto train`")
    else:
        sound = [run for run in found if isinstance(run, Status)]
        # The folds of a model are shown one below the other, runs that share a name in a table.
        one = model is not None and len({Path(run.folder).parent for run in sound}) == 1
        _show(terminal, sound, damaged, one=one)
    terminal.problems([problem for run in damaged for problem in run.problems], "warning" if model is None else "error")
    if damaged and model is not None:
        raise typer.Exit(StateError.exit_code)


def _show(terminal: Terminal, runs: list[Status], damaged: list[DamagedRun], *, one: bool) -> None:
    if not one:
        _show_all(terminal, runs, damaged)
    for run in runs if one else ():
        _show_one(terminal, run)


def _time(seconds: float | None) -> str:
    """Return how long is left; nothing after the last epoch, when nobody knows how long the rest takes."""
    return format_duration(seconds) if seconds else ""


def _dice(run: Status) -> str:
    return some_of(("–" if value is None else f"{value:.2f}" for value in run.dice), " ")


def _show_all(terminal: Terminal, runs: list[Status], damaged: list[DamagedRun]) -> None:
    rows = [_cells(run) for run in runs]
    for broken in damaged:
        fold = Path(broken.folder)
        named = (fold.parents[1].name.split("_", 1)[-1], f"{fold.parent.name} {fold.name}".removesuffix(" fold_all"))
        rows.append((*named, "", broken.state, "", "", ""))
    columns = ("data set", "split", "recipe", "state", ">epoch", ">left", ">patch Dice")
    terminal.print_table(columns, rows, optional=("patch Dice", "left", "epoch"))


def _cells(run: Status) -> tuple[str, ...]:
    """Return a row of the table; the first three cells are names that the verb takes."""
    from pcl_auto.training.request import SUPERVISED_TRAINER

    fold = Path(run.folder).name
    return (
        run.dataset.split("_", 1)[-1],
        f"{run.split} {fold}" if fold.startswith("fold_") and fold != "fold_all" else run.split,
        f"{run.recipe}, baseline" if run.trainer == SUPERVISED_TRAINER else run.recipe,
        run.state,
        f"{run.epoch}/{run.epochs}" if run.epochs else run.stage,
        _time(run.seconds_left) if run.state == "running" else "",
        _dice(run),
    )


def _show_one(terminal: Terminal, run: Status) -> None:
    lines = {
        "run": run.folder,
        "state": {
            "stopped": "stopped; it goes on when its command is repeated",
            "elsewhere": "begun on another machine, perhaps running there",
        }.get(run.state, run.state),
        "epoch": f"{run.epoch} of {run.epochs}, {run.stage}" if run.epochs else run.stage,
        "left": f"about {_time(run.seconds_left)}" if run.seconds_left else "",
        "losses": "  ".join(f"{name} {value:.3f}" for name, value in run.losses.items()),
        "Dice": f"{_dice(run)} ({run.dice_of})" if run.dice else "",
        "last sign": run.last_event,
        "log": str(Path(run.folder) / "log.txt") if run.epochs else "",
        "command": shlex.join(["pclauto", *run.command[1:]]) if run.command else "",
    }
    for name, value in lines.items():
        if value:
            terminal.print_result(f"{name:<10} {value}")
    for entry in run.rounds:
        terminal.print_result(f"{'round ' + str(entry['round']):<10} {_round(entry)}")


def _round(entry: dict[str, object]) -> str:
    if entry["event"] != "pseudo_labels":
        what = {"degenerate": "trained on labels alone"}.get(str(entry["event"]), str(entry["event"]).replace("_", " "))
        reasons = entry.get("reasons")
        return f"{what}: {some_of(map(str, reasons))}" if isinstance(reasons, list) and reasons else what
    change = entry.get("dice_to_last_round")
    text = f"{entry.get('used', '?')} of {entry.get('cases', '?')} pseudo-labels used"
    return text + (f", Dice {change:.3f} to the last round's" if isinstance(change, float) else "")
