"""Define ``pclauto repair``: NIfTI files that readers take differently, written anew."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.errors import PclautoError
from pcl_auto.workspace.output import refuse_input_folder


class Geometry(str, Enum):
    """The place that is meant."""

    itk = "itk"
    sform = "sform"
    qform = "qform"
    pixdim = "pixdim"


class Values(str, Enum):
    """The values that are meant."""

    header = "header"
    stored = "stored"
    shifted = "shifted"


def repair(
    files: Annotated[list[Path], typer.Argument(help="NIfTI files.", metavar="FILES...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the new files.", file_okay=False, metavar="FOLDER")
    ],
    geometry: Annotated[
        Geometry,
        typer.Option(
            help="The place that is meant: itk, sform, qform, or pixdim (axes of the sform, spacing of pixdim).",
            metavar="PLACE",
        ),
    ] = Geometry.itk,
    values: Annotated[
        Values,
        typer.Option(
            help="The values that are meant: header (by slope and intercept), stored, or shifted (intercept alone).",
            metavar="VALUES",
        ),
    ] = Values.header,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Take the place of this file, which has as many voxels; what lies there is turned to its axes.",
            dir_okay=False,
            metavar="FILE",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write NIfTI files anew that programs read differently.

    \b
      pclauto repair scan.nii.gz -o repaired/
      pclauto repair labelsTr/case_01.nii.gz --values stored -o repaired/
      pclauto repair label.nii.gz --like scan.nii.gz -o repaired/

    The new files are NIfTI-1, with one place and one scaling.

    The stored voxels stay, in the order of --like where that is named, and so
    do the files that are read. Look at the result beside its scan in a viewer.
    """
    from pcl_auto.data.formats.repair import repair as repair_file

    terminal = Terminal()
    refuse_input_folder(output)
    written, failed = [], []
    for file in files:
        try:
            target = repair_file(file, output, geometry=geometry.value, values=values.value, like=like)
        except PclautoError as error:  # noqa: PERF203 (one bad file does not stop the others)
            failed.append(error)
        else:
            written.append(str(target))
    if failed:
        raise type(failed[0])([problem for error in failed for problem in error.problems])
    if json:
        terminal.json({"files": written})
    else:
        for name in written:
            terminal.print_result(name)
