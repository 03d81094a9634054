"""``pclauto suggest``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from pcl_auto.cli.console.options import DeviceOption, JsonOption, WorkspaceOption


def suggest(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A model folder, or its name in the workspace. Default: as in `pclauto predict`."),
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="So many cases.", min=1)] = 5,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The folder. Default: suggest in the run's folder.", file_okay=False),
    ] = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Choose the unlabeled cases to label next: uncertain ones, unlike the labeled ones and each other.

    \b
      pclauto suggest
      pclauto suggest -n 3 -o next/

    The first time every scan is looked at, as it is, blurred and brighter.
    The folder gets a picture of each case with its pseudo-label, and a table.
    """
    from rich.table import Table

    from pcl_auto.annotation.suggest import suggest_cases
    from pcl_auto.cli.console.interrupt import resumable
    from pcl_auto.cli.console.progress import counting
    from pcl_auto.cli.console.terminal import Terminal, cell
    from pcl_auto.training.models import find_model, options
    from pcl_auto.workspace.folders import Workspace

    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    found = find_model(place, model)
    which = options(place, found)
    with resumable(terminal), counting(terminal, {"features": "looking at scans"}) as listener:
        folder, suggestions = suggest_cases(found, place, output, number=number, device=device, listener=listener)
    if json:
        terminal.json({"folder": str(folder), "suggestions": [asdict(entry) for entry in suggestions]})
    else:
        table = Table(box=None, header_style="dim", pad_edge=False)
        table.add_column("case", overflow="fold")
        table.add_column("why", overflow="fold")
        for entry in suggestions:
            table.add_row(cell(entry.case), cell("; ".join(entry.reasons)))
        terminal.out.print(table)
    terminal.print_line(f"pictures: {folder}")
    cases = ",".join(entry.case for entry in suggestions)
    terminal.print_line(
        f"next: pclauto review --cases {cases}{which}, correct the masks, then: pclauto train --continue{which}"
    )
