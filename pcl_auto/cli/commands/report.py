"""Define ``pclauto report``: a run on one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.cli.console.verdict import show_verdict
from pcl_auto.workspace.folders import Workspace


def report(
    model: options.Model = None,
    supervised_only: options.Baseline = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file. Default: report.html in the run's folder.", dir_okay=False, metavar="FILE"
        ),
    ] = None,
    workspace_path: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Write the report of a run: one HTML file.

    \b
      pclauto report
      pclauto report -o prostate.html

    It holds the run beside its baseline, curves, pseudo-labels, scans, command and versions.

    `pclauto train` writes it at its end; repeat it here after `pclauto evaluate`, to see the scores in it.
    """
    from pcl_auto.report.page import write_report
    from pcl_auto.training.find_model import find_model
    from pcl_auto.training.run_facts import run_folder

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    folder = find_model(workspace, model, supervised_only=supervised_only)
    written = write_report(folder, workspace, output)
    terminal.print_line(f"workspace: {workspace.describe()}")
    show_verdict(terminal, run_folder(folder), workspace)
    if json:
        terminal.json({"report": str(written)})
    else:
        terminal.print_result(str(written))
