"""Define ``pclauto download``: a task of the decathlon."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import counting
from pcl_auto.cli.console.terminal import Terminal


def download(
    task: Annotated[
        str | None,
        typer.Argument(help="Task05_Prostate, prostate or 5. Without it the ten tasks are listed.", metavar="TASK"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder that gets the task's folder. Default: $PCLAUTO_DATA, else here.",
            file_okay=False,
            metavar="FOLDER",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="A mirror of the archives; their checksums hold there too. Default: the decathlon's own.",
            metavar="URL",
        ),
    ] = None,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the ten tasks.")] = False,
    json: options.Json = False,
) -> None:
    """Download a task of the Medical Segmentation Decathlon.

    \b
      pclauto download
      pclauto download Task05_Prostate -o data

    A download that broke off goes on when the command is repeated.
    """
    from pcl_auto.data.download import BASE_URL, LICENSE, download_task, find_archive

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
        new = download_task(archive, folder, base_url=base_url or BASE_URL, listener=listener)
    root = folder / archive.name
    if json:
        terminal.json({"task": archive.name, "folder": str(root), "downloaded": new, **_license(LICENSE)})
    elif new:
        terminal.print_line(f"{root}: {archive.training} training and {archive.test} test images, license {LICENSE}")
        terminal.print_line(f"next: pclauto plan {root}")
    else:
        terminal.print_line(f"{root}: already there, nothing to do")


def _license(name: str) -> dict[str, str]:
    """Return the license for JSON; ``licence`` was its key in version 0.1, and is there until 0.3."""
    return {"license": name, "licence": name}


def _list(terminal: Terminal, *, json: bool) -> None:
    from pcl_auto.data.download import ARCHIVES, LICENSE

    if json:
        terminal.json([{**asdict(archive), **_license(LICENSE)} for archive in ARCHIVES])
        return
    rows = [
        (entry.name, entry.modality, str(entry.training), str(entry.test), f"{entry.gigabytes:g}", LICENSE)
        for entry in ARCHIVES
    ]
    terminal.print_table(("task", "modality", ">training", ">test", ">GB", "license"), rows)
