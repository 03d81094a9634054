"""Define ``pclauto continue``: training goes on with corrected masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pcl_auto.cli.commands.train import carry_out, start_on
from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.recipe.time_budget import format_duration
from pcl_auto.workspace.folders import Workspace

if TYPE_CHECKING:
    from pcl_auto.training.continuation import Continuation


def continue_(
    model: options.Model = None,
    corrected: Annotated[
        Path | None,
        typer.Option(
            help="The review's folder, where it was moved since, or one of masks alone.",
            file_okay=False,
            exists=True,
            metavar="FOLDER",
        ),
    ] = None,
    epochs: options.Epochs = None,
    device: options.Device = "auto",
    gpus: options.Gpus = 1,
    workers: options.Workers = None,
    restart: options.Restart = False,
    tensorboard: options.Tensorboard = False,
    dry_run: options.DryRun = False,
    workspace_path: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Go on training with the masks that were corrected.

    \b
      pclauto continue
      pclauto continue --corrected review/ --epochs 2

    The masks are those of `pclauto review`.

    The corrected cases are labeled from then on. Data set, split, recipe and
    seed are those of the run that they correct, which stays as it was.
    """
    from pcl_auto.training.continuation import continuation
    from pcl_auto.training.find_model import find_model
    from pcl_auto.training.request import TrainRequest

    start_on(gpus, device)
    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    request = TrainRequest(epochs=epochs, device=device, workers=workers, restart=restart, tensorboard=tensorboard)
    found = continuation(find_model(workspace, model), workspace, request, corrected=corrected, write=not dry_run)
    terminal.print_line(f"going on   from {found.model}")
    if found.folds > 1:
        terminal.print_line(
            f"           {found.folds} folds: from the network of the first, on all labeled cases, to one model"
        )
    for case, mask in found.masks.items():
        terminal.print_line(f"corrected  {case}: {mask}")
    terminal.problems(found.warnings, "warning")
    if dry_run:
        _render_estimate(terminal, found, json=json)
    else:
        carry_out(terminal, found.request, workspace, json=json, warnings=found.warnings)


def _render_estimate(terminal: Terminal, found: Continuation, *, json: bool) -> None:

    schedule, split, wall_s = found.recipe.schedule, found.split, found.wall_s
    terminal.print_line(f"labeled    {len(split.labeled)}, unlabeled {len(split.unlabeled)}")
    terminal.print_line(
        f"length     {schedule.epochs} epochs of {schedule.steps_per_epoch} steps, {schedule.rounds} rounds of "
        f"{schedule.epochs_per_round}"
    )
    if wall_s is not None:
        terminal.print_line(f"time       {format_duration(wall_s)} if it goes as the last epochs of that run")
    terminal.print_line("dry run: nothing was written")
    if json:
        terminal.json(
            {
                "model": str(found.model),
                "corrected": {case: str(mask) for case, mask in found.masks.items()},
                "recipe": found.recipe.as_dict(),
                "split": split.as_dict(),
                "wall_s": wall_s,
                "warnings": [problem.as_dict() for problem in found.warnings],
            }
        )
