"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

WorkspaceOption = Annotated[
    Optional[Path],  # noqa: UP045 (typer reads this at run time, on Python 3.10 too)
    typer.Option(
        "--workspace",
        "-w",
        help="Folder of plans and models. Default: your exported nnUNet_* folders, else ./pclauto_work.",
        file_okay=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout; messages stay on stderr.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.", metavar="DEVICE")]
