"""``pclauto report``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from pcl_auto.cli.console.options import JsonOption, WorkspaceOption


def report(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A model folder, or its name in the workspace. Default: as in `pclauto predict`."),
    ] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="Of the baseline that was trained last.")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The file. Default: report.html in the run's folder.", dir_okay=False),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """One HTML file that says what a run did: verdict, curves, pseudo-labels, scans, command, versions.

    \b
      pclauto report
      pclauto report -o prostate.html

    `pclauto train` writes it at its end; repeat it here after `pclauto evaluate`, to see the scores in it.
    """
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.report.page import write_report
    from pcl_auto.training.models import find_model
    from pcl_auto.workspace.folders import Workspace

    place = Workspace.find(workspace, os.environ)
    given = Path(model) if model is not None else None
    # Of a cross-validation, a fold's own folder.
    folder = given if given is not None and (given / "run.json").is_file() else None
    written = write_report(
        folder.resolve() if folder is not None else find_model(place, model, supervised_only=supervised_only),
        place,
        output,
    )
    if json:
        Terminal().json({"report": str(written)})
    else:
        Terminal().out.print(str(written), markup=False, soft_wrap=True)
