"""``pclauto evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pcl_auto.cli.console.options import JsonOption

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal

# Of the cases that were not scored, in a line.
MAX_NAMED = 5


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, or one file.")],
    labels: Annotated[Path, typer.Argument(help="Folder of labels with the same names, or one file.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score the cases that have both, and list the others.")
    ] = False,
    ignore: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Value of label voxels that are not scored. Default: as the model says that made the masks."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Dice and HD95 per class and case.

    \b
      pclauto evaluate out/ Task05_Prostate/labelsTs
      pclauto evaluate out/scan.nii.gz label.nii.gz --json

    A class that neither mask holds is not scored. A class that only one of them holds has Dice 0 and no HD95.
    """
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.evaluation.scores import evaluate_on_record

    terminal = Terminal()
    evaluation, kept = evaluate_on_record(predictions, labels, ignored=ignore, allow_missing=allow_missing)
    result = evaluation.as_dict()
    if json:
        terminal.json(result)
    else:
        _render(terminal, result)
    if kept is not None:
        terminal.print_line(f"kept with the model, for `pclauto report`: {kept}")


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _render(terminal: Terminal, result: dict[str, Any]) -> None:
    from rich.table import Table

    from pcl_auto.cli.console.terminal import cell

    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("class", "Dice", "± sd", "HD95 (mm)", "± sd", "cases"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, entry in result["per_class"].items():
        dice, hd95 = entry["dice"], entry["hd95_mm"]
        table.add_row(
            cell(name),
            _number(dice["mean"], 3),
            _number(dice["std"], 3),
            _number(hd95["mean"], 2),
            _number(hd95["std"], 2),
            str(dice["n"]),
        )
    mean = result["mean"]
    table.add_row(
        "mean", _number(mean["dice"], 3), "", _number(mean["hd95_mm"], 2), "", str(len(result["cases"])), style="bold"
    )
    terminal.out.print(table)
    missing = result["undefined"]["hd95_mm"] - result["undefined"]["dice"]
    if missing:
        terminal.print_line(f"{missing} structures are in one mask only: Dice 0, no HD95")
    if result["unscored_values"]:
        terminal.print_line(f"values that no label holds, counted as background: {result['unscored_values']}")
    for reason in dict.fromkeys(entry["reason"] for entry in result["skipped"]):
        cases = [entry["id"] for entry in result["skipped"] if entry["reason"] == reason]
        names = ", ".join(cases[:MAX_NAMED]) + (", …; --json names all" if len(cases) > MAX_NAMED else "")
        terminal.print_line(f"not scored, {reason}: {len(cases)} ({names})")
