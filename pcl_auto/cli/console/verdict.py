"""Print what a run shows, as its report has it."""

from __future__ import annotations

from pathlib import Path

from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.workspace.folders import Workspace


def show_verdict(terminal: Terminal, run_folder: Path, workspace: Workspace) -> None:
    """Print what a run shows, and the command that trains its baseline if that is missing."""
    from pcl_auto.report.baseline import compare_to_baseline
    from pcl_auto.report.verdict import judge
    from pcl_auto.training.run_facts import read_run

    run = read_run(run_folder)
    comparison = compare_to_baseline(run, workspace)
    terminal.print_line(f"verdict: {judge(run, comparison).sentence}")
    if train := [command for command in comparison.commands if command.startswith("pclauto train")]:
        terminal.print_line(f"next: {train[0]}  (nnU-Net alone, to compare with)")
