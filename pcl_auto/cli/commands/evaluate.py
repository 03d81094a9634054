"""Define ``pclauto evaluate``: Dice and HD95."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal

# Of the cases that were not scored, in a line.
MAX_NAMED = 5


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, or one file.", metavar="MASKS")],
    labels: Annotated[
        Path, typer.Argument(help="Folder of labels with the same names, or one file.", metavar="LABELS")
    ],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score the cases that have both, and list the others.")
    ] = False,
    ignore: Annotated[
        int | None,
        typer.Option(
            help="Value of label voxels that are not scored. Default: as the record of the masks says.", metavar="VALUE"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Score masks: Dice and HD95 per class and case.

    \b
      pclauto evaluate out/ Task05_Prostate/labelsTs
      pclauto evaluate out/scan.nii.gz label.nii.gz --json

    A class that neither mask holds is not scored. A class that only one of them holds has Dice 0 and no HD95.
    """
    from pcl_auto.evaluation.scores import evaluate_on_record, has_record, labels_on_record, masks_of_others
    from pcl_auto.inference.mask_record import RECORD

    terminal = Terminal()
    evaluation, kept = evaluate_on_record(predictions, labels, ignored=ignore, allow_missing=allow_missing)
    result = evaluation.as_dict()
    if json:
        terminal.json(result)
    else:
        _render(terminal, result)
    terminal.problems(evaluation.warnings, "warning")
    if has_record(predictions) and labels_on_record(predictions) is None:
        terminal.print_line(
            f"warning: every value was scored as a class of its own: {RECORD} does not say which are regions or "
            "ignored, and its model is gone or has changed"
        )
    changed = [] if kept else masks_of_others(predictions, [case.id for case in evaluation.cases])
    if changed and (predictions / RECORD).is_file():
        names = ", ".join(changed[:MAX_NAMED]) + (", …" if len(changed) > MAX_NAMED else "")
        terminal.print_line(f"not kept with the model, which did not make these masks as they are now: {names}")
    if kept is not None:
        terminal.print_line(f"kept with the model, for `pclauto report`: {kept}")


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _render(terminal: Terminal, result: dict[str, Any]) -> None:
    rows = []
    for name, entry in result["per_class"].items():
        dice, hd95 = entry["dice"], entry["hd95_mm"]
        scores = (_number(entry[kind], digits) for entry, digits in ((dice, 3), (hd95, 2)) for kind in ("mean", "std"))
        rows.append((name, *scores, str(dice["n"])))
    mean, cases = result["mean"], str(len(result["cases"]))
    rows.append(("mean", _number(mean["dice"], 3), "", _number(mean["hd95_mm"], 2), "", cases))
    columns = ("class", ">Dice", ">± sd", ">HD95 (mm)", ">± sd", ">cases")
    terminal.print_table(columns, rows, bold_row=len(rows) - 1)
    missing = result["undefined"]["hd95_mm"] - result["undefined"]["dice"]
    if missing:
        terminal.print_line(f"{missing} structures are in one mask only: Dice 0, no HD95")
    if result["unscored_values"]:
        terminal.print_line(f"values of no class, counted as background: {result['unscored_values']}")
    for reason in dict.fromkeys(entry["reason"] for entry in result["skipped"]):
        skipped = [entry["id"] for entry in result["skipped"] if entry["reason"] == reason]
        names = ", ".join(skipped[:MAX_NAMED]) + (", …; --json names all" if len(skipped) > MAX_NAMED else "")
        terminal.print_line(f"not scored, {reason}: {len(skipped)} ({names})")
