"""Define ``pclauto env``: versions, devices and nnU-Net's variables."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.workspace.folders import Workspace


def env(
    workspace_path: options.Workspace = None,
    export: Annotated[
        bool, typer.Option("--export", help="Print nothing but the line that lets stock nnU-Net work here.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show versions, devices, memory, and what stock nnU-Net needs.

    \b
      pclauto env
      eval "$(pclauto env --export)"; nnUNetv2_train 5 3d_fullres all -tr nnUNetTrainerPCL -p nnUNetPlans_L2_s0_default
    """
    from pcl_auto.nnunet.environment_report import describe, export_line

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    if export:
        terminal.print_result(export_line(workspace))
    elif json:
        terminal.json({**describe(workspace), "export": export_line(workspace)})
    else:
        _render(terminal, describe(workspace))
        terminal.print_line("For stock nnU-Net commands in this workspace, with our trainers:")
        terminal.print_result(export_line(workspace))


def _gigabytes(megabytes: int | None) -> str:
    return "unknown" if megabytes is None else f"{megabytes / 2**10:.1f} GB"


def _render(terminal: Terminal, facts: dict[str, Any]) -> None:
    devices = [
        f"{entry['device']}  {entry['name']}" + (f", {_gigabytes(entry['memory_mb'])}" if entry["memory_mb"] else "")
        for entry in facts["devices"]
    ]
    workspace = facts["workspace"]
    rows = [
        ("pclauto", facts["pclauto"]),
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("packages", ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items())),
        ("devices", f"{devices[0]}  (taken by --device auto)"),
        *(("", device) for device in devices[1:]),
        ("cores", str(facts["cores"])),
        ("memory", f"{_gigabytes(facts['memory_mb'])} available, {_gigabytes(facts['shared_memory_mb'])} shared"),
        ("workspace", f"{workspace['nnUNet_results'].removesuffix('nnUNet_results')} ({workspace['chosen_by']})"),
        ("disk", f"{_gigabytes(workspace['free_mb'])} free"),
        ("planned", ", ".join(workspace["planned"]) or "nothing yet"),
    ]
    terminal.print_facts(rows)
