"""``pclauto review``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from pcl_auto.cli.console.options import JsonOption, WorkspaceOption


def review(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A model folder, or its name in the workspace. Default: as in `pclauto predict`."),
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="So many cases, the worst first.", min=1)] = 5,
    cases: Annotated[str, typer.Option(help="These cases instead: a,b,c.")] = "",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The folder. Default: review in the run's folder.", file_okay=False),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Export the worst pseudo-labels with their images, to be corrected in ITK-SNAP or 3D Slicer.

    \b
      pclauto review
      pclauto review -n 3 -o review/

    Save what you have corrected in its folder `corrected`; then
    `pclauto train --continue` learns from it as from any label.
    """
    from pcl_auto.annotation.review import export_review
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.training.models import find_model, options
    from pcl_auto.workspace.folders import Workspace

    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    asked = tuple(filter(None, (name.strip() for name in cases.split(","))))
    found = find_model(place, model)
    which = options(place, found)
    folder, chosen = export_review(found, place, output, number=number, cases=asked)
    if json:
        terminal.json({"folder": str(folder), "cases": chosen})
    else:
        for case in chosen:
            terminal.out.print(str(folder / "pseudo_labels" / f"{case}.nii.gz"), markup=False, soft_wrap=True)
    terminal.print_line(f"how to correct them: {folder / 'README.txt'}")
    terminal.print_line(f"next: save corrected masks in {folder / 'corrected'}, then: pclauto train --continue{which}")
