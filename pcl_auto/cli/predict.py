"""``pclauto predict``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from pcl_auto.cli.options import DeviceOption, JsonOption, WorkspaceOption


def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Scans or folders of scans, any names, 3D or 4D.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the masks.", file_okay=False)],
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="A model folder, or its name in the workspace. Default: the last one trained with unlabelled cases."
        ),
    ] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="Take the baseline that was trained last.")
    ] = False,
    workspace: WorkspaceOption = None,
    device: DeviceOption = "auto",
    no_mirroring: Annotated[
        bool, typer.Option("--no-mirroring", help="Eight times faster in 3D, a little less accurate.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace masks that are there.")] = False,
    json: JsonOption = False,
) -> None:
    """Segment scans.

    \b
      pclauto predict new_scan.nii.gz -o out/
      pclauto predict Task05_Prostate/imagesTs -o out/

    A scan that fails does not stop the others; they are listed at the end and the exit code is 1, or where none
    succeeded and all failed alike, the code of that failure (see `pclauto --help`).
    """
    from pcl_auto.cli.progress import counting
    from pcl_auto.cli.terminal import Terminal
    from pcl_auto.predict import find_model
    from pcl_auto.predict import predict as segment
    from pcl_auto.run.workspace import Workspace

    terminal = Terminal()
    folder = find_model(Workspace.find(workspace, os.environ), model, supervised_only=supervised_only)
    terminal.say(f"model: {folder}")
    with counting(terminal, {"predict": "segmenting"}) as listener:
        results = segment(
            inputs,
            output,
            folder,
            device=device,
            mirroring=not no_mirroring,
            overwrite=overwrite,
            listener=listener,
        )
    failed = [result for result in results if result.status == "failed"]
    kept = sum(result.status == "kept" for result in results)
    if json:
        terminal.json(
            {
                "model": str(folder),
                "cases": [result.as_dict() for result in results],
                "done": len(results) - len(failed),
                "failed": len(failed),
            }
        )
    terminal.say(
        f"{len(results) - len(failed)} of {len(results)} masks in {output}" + (f", {kept} from before" if kept else "")
    )
    for result in failed:
        terminal.say(f"failed: {result.id}: {result.error}")
    if failed:
        codes = {result.exit_code for result in failed}
        raise typer.Exit(codes.pop() if len(failed) == len(results) and len(codes) == 1 else 1)
