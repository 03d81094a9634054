"""``pclauto download``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pcl_auto.cli.console.options import JsonOption
from pcl_auto.data.download import ARCHIVES, BASE_URL, LICENSE, find_archive

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal


def download(
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Task05_Prostate, prostate or 5. Without it the ten tasks are listed."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "-o",
            "--output",
            help="Folder that gets the task's folder. Default: $PCLAUTO_DATA, else here.",
            file_okay=False,
        ),
    ] = None,
    base_url: Annotated[str, typer.Option(help="A mirror of the archives; their checksums hold there too.")] = BASE_URL,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the ten tasks.")] = False,
    json: JsonOption = False,
) -> None:
    """Download a task of the Medical Segmentation Decathlon; a download that broke off goes on.

    \b
      pclauto download
      pclauto download Task05_Prostate -o data
    """
    from pcl_auto.cli.console.interrupt import resumable
    from pcl_auto.cli.console.progress import counting
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.data.download import download_task

    terminal = Terminal()
    if task is None or list_tasks:
        _list(terminal, json=json)
        return
    archive = find_archive(task)
    folder = output or Path(os.environ.get("PCLAUTO_DATA", ""))
    with (
        resumable(terminal),
        counting(terminal, {"download": "downloading (MB)", "extract": "unpacking files"}) as listener,
    ):
        new = download_task(archive, folder, base_url=base_url, listener=listener)
    place = folder / archive.name
    if json:
        terminal.json({"task": archive.name, "folder": str(place), "downloaded": new, "license": LICENSE})
    elif new:
        terminal.print_line(f"{place}: {archive.training} training and {archive.test} test images, license {LICENSE}")
        terminal.print_line(f"next: pclauto plan {place}")
    else:
        terminal.print_line(f"{place}: already there, nothing to do")


def _list(terminal: Terminal, *, json: bool) -> None:
    from rich.table import Table

    if json:
        terminal.json([{**asdict(archive), "license": LICENSE} for archive in ARCHIVES])
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("task")
    table.add_column("modality")
    for name in ("training", "test", "GB"):
        table.add_column(name, justify="right")
    table.add_column("license")
    for archive in ARCHIVES:
        counts = (str(archive.training), str(archive.test), f"{archive.gigabytes:g}")
        table.add_row(archive.name, archive.modality, *counts, LICENSE)
    terminal.out.print(table)
