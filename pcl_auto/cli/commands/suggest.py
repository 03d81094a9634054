"""Define ``pclauto suggest``: which cases to label next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import counting
from pcl_auto.cli.console.terminal import Terminal, some_of
from pcl_auto.workspace.folders import Workspace


def suggest(
    model: options.Model = None,
    number: Annotated[
        int, typer.Option("--number", "-n", help="So many cases.", min=1, max=options.MAX_CASES, metavar="N")
    ] = 5,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder. Default: suggest in the run's folder.",
            file_okay=False,
            metavar="FOLDER",
        ),
    ] = None,
    workspace_path: options.Workspace = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Choose the unlabeled cases to label next.

    \b
      pclauto suggest
      pclauto suggest -n 3 -o next/

    It takes uncertain cases, unlike the labeled ones and unlike each other.

    The first time every scan is looked at, as it is, blurred and brighter.
    The folder gets a picture of each case with its pseudo-label, and a table.
    """
    from pcl_auto.annotation.suggest import suggest_cases
    from pcl_auto.training.find_model import find_model, model_options

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    found = find_model(workspace, model)
    terminal.print_line(f"workspace: {workspace.describe()}")
    which = model_options(workspace, found)
    with resumable(terminal), counting(terminal, {"features": "looking at scans"}) as listener:
        folder, suggestions = suggest_cases(found, workspace, output, number=number, device=device, listener=listener)
    if json:
        terminal.json({"folder": str(folder), "suggestions": [asdict(entry) for entry in suggestions]})
    else:
        terminal.print_table(("case", "why"), [(entry.case, some_of(entry.reasons)) for entry in suggestions])
    terminal.print_line(f"pictures: {folder}")
    cases = ",".join(entry.case for entry in suggestions)
    terminal.print_line(
        f"next: pclauto review --cases {cases}{which}, correct the masks, then: pclauto continue{which}"
    )
