"""``pclauto env``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal


def env(
    workspace: WorkspaceOption = None,
    export: Annotated[
        bool, typer.Option("--export", help="Print nothing but the line that lets stock nnU-Net work here.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Versions, devices, memory, and what stock nnU-Net needs.

    \b
      pclauto env
      eval "$(pclauto env --export)"; nnUNetv2_train 5 3d_fullres all -tr nnUNetTrainerPCL -p nnUNetPlans_L2_s0_default
    """
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.nnunet.machine import describe, export_line
    from pcl_auto.workspace.folders import Workspace

    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    if export:
        terminal.out.print(export_line(place), markup=False, soft_wrap=True)
    elif json:
        terminal.json({**describe(place), "export": export_line(place)})
    else:
        _render(terminal, describe(place), export_line(place))


def _gigabytes(megabytes: int | None) -> str:
    return "unknown" if megabytes is None else f"{megabytes / 2**10:.1f} GB"


def _render(terminal: Terminal, facts: dict[str, Any], export: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    devices = [
        f"{entry['device']}  {entry['name']}" + (f", {_gigabytes(entry['memory_mb'])}" if entry["memory_mb"] else "")
        for entry in facts["devices"]
    ]
    place = facts["workspace"]
    rows = {
        "pclauto": facts["pclauto"],
        "python": facts["python"],
        "system": facts["system"],
        "packages": ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items()),
        "devices": "\n".join([f"{devices[0]}  (taken by --device auto)", *devices[1:]]),
        "cores": str(facts["cores"]),
        "memory": f"{_gigabytes(facts['memory_mb'])} available, {_gigabytes(facts['shared_memory_mb'])} shared",
        "workspace": f"{place['nnUNet_results'].removesuffix('nnUNet_results')} ({place['chosen_by']})",
        "disk": f"{_gigabytes(place['free_mb'])} free",
        "planned": ", ".join(place["planned"]) or "nothing yet",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    terminal.out.print(table)
    terminal.print_line("For stock nnU-Net commands in this workspace, with our trainers:")
    terminal.out.print(export, markup=False, soft_wrap=True)
