"""Define ``pclauto predict``: masks of scans, or what they would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import counting
from pcl_auto.cli.console.terminal import Terminal, some_of
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.recipe.time_budget import format_duration
from pcl_auto.workspace.files import printable
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.run_record import finished_folds, unfinished_folds

if TYPE_CHECKING:
    from pcl_auto.inference.estimate import MaskEstimate
    from pcl_auto.inference.predict import Prediction

MASKS = "Masks"


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Scans or folders of scans: NIfTI, NRRD, MHA, DICOM series; any names, 3D or 4D.", metavar="SCANS..."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the masks.", file_okay=False, metavar="FOLDER", rich_help_panel=MASKS
        ),
    ],
    model: options.Model = None,
    supervised_only: options.Baseline = False,
    workspace_path: options.Workspace = None,
    device: options.Device = "auto",
    no_mirroring: Annotated[
        bool,
        typer.Option("--no-mirroring", help="Eight times faster in 3D, a little less accurate.", rich_help_panel=MASKS),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview", help="A picture per scan: three planes through the largest structure.", rich_help_panel=MASKS
        ),
    ] = False,
    keep_format: Annotated[
        bool,
        typer.Option(
            "--keep-format",
            help="Masks of NRRD and MHA scans in that format. Default: all in NIfTI.",
            rich_help_panel=MASKS,
        ),
    ] = False,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg", help="A DICOM SEG too for each DICOM series (needs the extra dicom).", rich_help_panel=MASKS
        ),
    ] = False,
    no_quality: Annotated[
        bool,
        typer.Option(
            "--no-quality",
            help="Do not estimate how far each mask is to be trusted: saves time.",
            rich_help_panel=MASKS,
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks that pclauto wrote there.", rich_help_panel=MASKS)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the scans and the masks that would be written, write nothing.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Segment scans.

    \b
      pclauto predict new_scan.nii.gz -o out/
      pclauto predict Task05_Prostate/imagesTs -o out/ --preview
      pclauto predict study_from_the_scanner/ -o out/ --dicom-seg
      pclauto predict study_from_the_scanner/ -o out/ --dry-run

    A folder is searched for volumes, and with its subfolders for DICOM series.
    The channels of a scan are one 4D file, or files or folders of one series
    each that end in _0000, _0001, … in the order of the model's channels.

    A scan that fails does not stop the others; they are listed at the end and
    the exit code is that of the failure, of several the lowest (see
    `pclauto --help`).
    """
    from pcl_auto.data.formats.scans import refuse_missing
    from pcl_auto.inference.predict import Outputs
    from pcl_auto.inference.predict import predict as segment
    from pcl_auto.training.find_model import find_model

    terminal = Terminal()
    refuse_missing(inputs)
    workspace = Workspace.find(workspace_path)
    folder = find_model(workspace, model, supervised_only=supervised_only)
    terminal.print_line(f"workspace: {workspace.describe()}")
    terminal.print_line(f"model: {folder}")
    if unfinished := unfinished_folds(folder):
        folds = len(finished_folds(folder))
        terminal.print_line(
            f"{folds} of {folds + len(unfinished)} folds; not finished, and not asked: {some_of(unfinished)}"
        )
    wanted = Outputs(keep_format=keep_format, preview=preview, dicom_seg=dicom_seg, quality=not no_quality)
    how: dict[str, Any] = {"device": device, "mirroring": not no_mirroring, "overwrite": overwrite}
    if dry_run:
        from pcl_auto.inference.estimate import estimate_prediction, mask_commands

        terminal.print_line("reading the scans, and trying the network with one patch …")
        found = estimate_prediction(inputs, output, folder, wanted, **how)
        commands = mask_commands(folder, output, device=choose_device(device).type, mirroring=not no_mirroring)
        if json:
            terminal.json({"model": str(folder), "cases": [entry.as_dict() for entry in found], "commands": commands})
        _print_estimate(terminal, found, commands)
        _end_with([entry.scan for entry in found])
        return
    with resumable(terminal), counting(terminal, {"predict": "segmenting"}) as count:

        def listener(event: str, values: dict[str, Any]) -> None:
            if event == "device":
                terminal.print_line(f"device: {values['device']}")
            count(event, values)

        results = segment(inputs, output, folder, outputs=wanted, listener=listener, **how)
    made = [result for result in results if result.output]
    if json:
        done = sum(result.status in ("done", "kept") for result in results)
        failed = sum(result.status == "failed" for result in results)
        cases = [result.as_dict() for result in results]
        terminal.json({"model": str(folder), "cases": cases, "done": done, "failed": failed})
    elif made:
        _show_volumes(terminal, made)
    _print_outcome(terminal, results, output)
    _end_with(results)


def _end_with(results: Sequence[Prediction]) -> None:
    """End the command with the exit code of the scans that failed.

    Of several kinds the first in the list of codes; an unexpected fault comes before all of them.
    """
    if failed := [result.exit_code for result in results if result.status == "failed"]:
        raise typer.Exit(min(failed))


def _print_outcome(terminal: Terminal, results: Sequence[Prediction], output: Path) -> None:
    made = [result for result in results if result.output]
    kept = sum(result.status == "kept" for result in made)
    scans = sum(result.status != "skipped" for result in results)
    terminal.print_line(f"{len(made)} of {scans} masks in {output}" + (f", {kept} from before" if kept else ""))
    for result in made:
        if result.slabs > 1:
            what = f"in {result.slabs} slabs, too large for the memory at once; no confidence"
            terminal.print_line(f"{result.id}: {what}")
        if result.quality and result.quality["review"]:
            terminal.print_line(f"review: {result.id}: {some_of(result.quality['reasons'])}")
    for result in results:
        if result.error:
            terminal.print_line(f"{result.status}: {result.id}: {result.error}")


def _print_estimate(terminal: Terminal, found: Sequence[MaskEstimate], commands: Sequence[str]) -> None:
    words = {"done": "would be written", "kept": "is there already", "failed": "refused", "skipped": "skipped"}
    for entry in found:
        scan = entry.scan
        slabs = f" in {scan.slabs} slabs" if scan.slabs > 1 and scan.status == "done" else ""
        terminal.print_line(
            f"{words[scan.status]}{slabs}: {scan.output or scan.id}{f': {scan.error}' if scan.error else ''}"
        )
    if memory_mb := max((entry.memory_mb or 0 for entry in found), default=0):
        wall_s = sum(entry.wall_s or 0 for entry in found)
        terminal.print_line(
            f"memory: {memory_mb} MB at most beside the scan; time: about {format_duration(wall_s)} in the network"
        )
    for command in commands:
        terminal.print_line(f"nnU-Net: {command}")
    terminal.print_line("dry run: nothing was written")


def _confidence(result: Prediction) -> str:
    """Return how far a mask is to be trusted, and whether to review it."""
    if result.quality is None:
        return ""
    confidence = result.quality["confidence"]
    return f"{'review ' if result.quality['review'] else ''}{'–' if confidence is None else f'{confidence:.3f}'}"


def _show_volumes(terminal: Terminal, made: Sequence[Prediction]) -> None:
    """Print a column per class where they fit, else all classes of a scan in one."""
    names = list(next((result.volumes_ml for result in made if result.volumes_ml), {}))
    # Of a mask that a person has changed, none is known.
    known = [result.volumes_ml or {} for result in made]
    rows = [[f"{volumes[name]:.1f}" if name in volumes else "–" for name in names] for volumes in known]
    names = [printable(name) for name in names]
    longest = max(len(printable(result.id)) for result in made)
    wide = longest + 18 + sum(2 + max(len(name), *(len(row[i]) for row in rows)) for i, name in enumerate(names))
    columns = [f">{name}" for name in names]
    if wide > terminal.out.width:
        columns = ["classes"]
        rows = [[", ".join(f"{name} {volume}" for name, volume in zip(names, row, strict=True))] for row in rows]
    if any(result.quality for result in made):
        columns.append(">confidence")
        rows = [[*row, _confidence(result)] for result, row in zip(made, rows, strict=True)]
    cells = [(result.id, *row) for result, row in zip(made, rows, strict=True)]
    terminal.print_table(("scan", *columns), cells, title="volumes in ml")
