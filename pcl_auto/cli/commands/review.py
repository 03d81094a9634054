"""Define ``pclauto review``: pseudo-labels out to an editor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.workspace.folders import Workspace


def review(
    model: options.Model = None,
    number: Annotated[
        int,
        typer.Option(
            "--number", "-n", help="So many cases, the worst first.", min=1, max=options.MAX_CASES, metavar="N"
        ),
    ] = 5,
    cases: Annotated[str, typer.Option(help="These cases instead: a,b,c.", metavar="CASES")] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The folder. Default: review in the run's folder.", file_okay=False, metavar="FOLDER"
        ),
    ] = None,
    workspace_path: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Export the worst pseudo-labels, to be corrected in ITK-SNAP or 3D Slicer.

    \b
      pclauto review
      pclauto review -n 3 -o review/

    Save what you have corrected in its folder `corrected`; then
    `pclauto continue` learns from it as from any label.
    """
    from pcl_auto.annotation.review import export_review
    from pcl_auto.training.find_model import find_model, model_options

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    found = find_model(workspace, model)
    terminal.print_line(f"workspace: {workspace.describe()}")
    which = model_options(workspace, found)
    folder, chosen = export_review(found, workspace, output, number=number, cases=options.split_names(cases))
    if json:
        terminal.json({"folder": str(folder), "cases": chosen})
    else:
        for case in chosen:
            terminal.print_result(str(folder / "pseudo_labels" / f"{case}.nii.gz"))
    terminal.print_line(f"how to correct them: {folder / 'README.txt'}")
    terminal.print_line(f"next: save corrected masks in {folder / 'corrected'}, then: pclauto continue{which}")
