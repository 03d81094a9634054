"""Define ``pclauto evaluate``: Dice and HD95."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.terminal import Terminal

# Of the cases that were not scored, in a line.
MAX_NAMED = 5
# Of the cases that were, in a table.
MAX_CASES = 10


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
        _render(terminal, result, class_names(predictions, labels))
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


def class_names(predictions: Path, labels: Path) -> dict[str, str]:
    """Return the names of class values, by the record of the masks or the dataset.json beside the folder of labels."""
    from pcl_auto.data.labels import foreground
    from pcl_auto.evaluation.scores import labels_on_record
    from pcl_auto.workspace.files import read_kept

    named = labels_on_record(predictions)
    if named is None:
        folder = labels if labels.is_dir() else labels.parent
        content = read_kept(folder.resolve().parent / "dataset.json", {"labels": {...: object}, ...: object})
        # A decathlon folder names by value, nnU-Net's values by name.
        found = {} if content is None else content["labels"]
        pairs = [(name, value) if isinstance(name, str) else (value, name) for value, name in found.items()]
        return {str(value): str(name) for name, value in pairs if str(value).isdigit()}
    # Regions are scored under their names already.
    return {str(value): name for name, value in foreground(named).items()}


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _render(terminal: Terminal, result: dict[str, Any], names: Mapping[str, str]) -> None:
    _render_cases(terminal, result)
    rows = []
    for name, entry in result["per_class"].items():
        dice, hd95 = entry["dice"], entry["hd95_mm"]
        scores = (_number(entry[kind], digits) for entry, digits in ((dice, 3), (hd95, 2)) for kind in ("mean", "std"))
        rows.append((names.get(name, name), *scores, str(dice["n"])))
    mean, cases = result["mean"], str(len(result["cases"]))
    rows.append(("mean", _number(mean["dice"], 3), "", _number(mean["hd95_mm"], 2), "", cases))
    columns = ("class", ">Dice", ">± sd", ">HD95 (mm)", ">± sd", ">cases")
    terminal.print_table(columns, rows, bold_row=len(rows) - 1, optional=("± sd", "cases"))
    terminal.print_line("Dice, HD95: means over the cases in which one of the two masks has the class")
    missing = result["undefined"]["hd95_mm"] - result["undefined"]["dice"]
    if missing:
        structures = "1 structure is" if missing == 1 else f"{missing} structures are"
        terminal.print_line(f"{structures} in one mask only: Dice 0, no HD95")
    if result["unscored_values"]:
        terminal.print_line(f"values of no class, counted as background: {result['unscored_values']}")
    for reason in dict.fromkeys(entry["reason"] for entry in result["skipped"]):
        skipped = [entry["id"] for entry in result["skipped"] if entry["reason"] == reason]
        first = ", ".join(skipped[:MAX_NAMED]) + (", …; --json names all" if len(skipped) > MAX_NAMED else "")
        terminal.print_line(f"not scored, {reason}: {len(skipped)} ({first})")


def _render_cases(terminal: Terminal, result: dict[str, Any]) -> None:
    """Print a row per case, the worst first; of many the worst."""

    def mean(values: Mapping[str, float | None]) -> float | None:
        known = [value for value in values.values() if value is not None]
        return sum(known) / len(known) if known else None

    scored = [(mean(case["dice"]), mean(case["hd95_mm"]), case["id"]) for case in result["cases"]]
    scored.sort(key=lambda entry: (entry[0] is None, entry[0] or 0.0, entry[2]))
    rows = [(case, _number(dice, 3), _number(hd95, 2)) for dice, hd95, case in scored[:MAX_CASES]]
    more = f" (worst {MAX_CASES} of {len(scored)}; --json has all)" if len(scored) > MAX_CASES else ""
    terminal.print_table((f"case{more}", ">Dice", ">HD95 (mm)"), rows)
    terminal.print_result()
