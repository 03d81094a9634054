"""Write the report of a run (``pclauto report``): one HTML page that needs no other file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from pcl_auto.data.palette import COLORS, color
from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.nnunet.pretrained.find import HUB
from pcl_auto.recipe.time_budget import format_duration, format_seconds
from pcl_auto.report.baseline import BaselineComparison, compare_to_baseline, damaged_evaluations
from pcl_auto.report.commands import shell_path
from pcl_auto.report.curves import run_curves
from pcl_auto.report.find_baseline import mirroring_in_words
from pcl_auto.report.overlays import MAX_CHANNELS, MAX_SLICES
from pcl_auto.report.rounds import RoundUse, round_uses, why_unused
from pcl_auto.report.scans import evaluated_panels, labeled_panels, pseudo_label_panels
from pcl_auto.report.summary import story, tiles
from pcl_auto.report.tables import default_recipe, heading, ledger_rows, recipe_lines
from pcl_auto.report.validation import mean_over_folds, read_fold_scores
from pcl_auto.report.verdict import judge, model_uses
from pcl_auto.training.request import JOINT_TRAINER
from pcl_auto.training.run_facts import (
    JUDGMENTS,
    RunFacts,
    read_confidences,
    read_run,
    read_unchanged_run,
    run_folder,
)
from pcl_auto.workspace.files import printable, refusing_nonsense, write_text
from pcl_auto.workspace.folders import DatasetFolder, Workspace, require_writable
from pcl_auto.workspace.run_record import REPORT

# Of all reports since version 0.1.
_TITLE_END, _MAX_HEAD_BYTES = b": pclauto report</title>", 2**16
MAX_BYTES = 15_000_000
_COSTS = {"wall_s": "time", "memory_mb": "memory", "gpu_memory_mb": "GPU memory", "disk_mb": "disk"}


@dataclass(frozen=True)
class Extent:
    """Limits of a page: slices of a plane, last rounds of the ledger, and rows of each round; None for all."""

    slices: int = MAX_SLICES
    rounds: int | None = None
    rows: int | None = None


# From everything to what always fits; the first that gives a page small enough is taken.
_EXTENTS = (Extent(), Extent(slices=12), Extent(slices=12, rounds=1), Extent(slices=4, rounds=1), Extent(1, 1, 2000))


def write_report(model: Path, workspace: Workspace, target: Path | None = None) -> Path:
    """Write the report of the run in ``model`` to ``target``, by default into the run's own folder.

    Returns:
        The file.

    Raises:
        StateError: there is no run, or its files are damaged or changed.
        UsageError: something that is no report of ours has the name of ``target``.
    """
    folder = run_folder(model)
    target = folder / REPORT if target is None else target
    _refuse_another_file(target)
    require_writable(target.parent, "choose another place with -o")
    run = read_unchanged_run(folder)
    # A page shows nearly all of a run's files: what makes no sense in one of them is found as it is drawn.
    try:
        with refusing_nonsense(folder):
            page = render(run, workspace)
    except UndefinedError as error:
        fix = "restore the run's files, or train again with --restart"
        problem = Problem(
            "run.incomplete", "files of the run lack what a report shows", str(folder), fix, found=str(error)
        )
        raise StateError(problem) from error
    write_text(target, page)
    return target


def _refuse_another_file(target: Path) -> None:
    """Refuse to write over what no report of ours is, such as a label."""
    if not os.path.lexists(target):
        return
    if target.is_file():
        with target.open("rb") as file:
            if _TITLE_END in file.read(_MAX_HEAD_BYTES):
                return
    what, fix = "a file that is no report of pclauto has this name", "choose another name with -o"
    raise UsageError(Problem("output.not-ours", what, str(target), fix))


def report_of_training(folder: Path, workspace: Workspace) -> tuple[Path | None, str]:
    """Write the report of a run that has just been trained; whatever is wrong with it, the model is good.

    Returns:
        The file, or None; and why there is none, or an empty string.
    """
    try:
        return write_report(folder, workspace), ""
    except Exception as error:  # noqa: BLE001
        return None, f"no report: {error}; `pclauto report` tries again"


def render(run: RunFacts, workspace: Workspace, max_bytes: int = MAX_BYTES) -> str:
    """Return the page of a run as HTML of at most ``max_bytes``; a note says what was left out for that."""
    page = ""
    for extent in _EXTENTS:
        page = _render(run, workspace, extent, max_bytes)
        if len(page.encode()) <= max_bytes:
            break
    return page


def _render(run: RunFacts, workspace: Workspace, extent: Extent, max_bytes: int) -> str:
    identity, recipe = run.identity, run.identity["recipe"]
    data = DatasetFolder(workspace.preprocessed / identity["dataset"])
    folds = read_fold_scores(run.folder.parent)
    comparison = compare_to_baseline(run, workspace)
    baseline = None if comparison.baseline is None else read_run(comparison.baseline / run.folder.name)
    uses, uses_of_model = round_uses(run), model_uses(run)
    shown_round, pseudo = pseudo_label_panels(run, data, extent.slices)
    environment = Environment(
        loader=PackageLoader("pcl_auto.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names may hold characters that mislead a reader, such as changes of the direction of text.
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    page = environment.get_template("page.html").render(
        run=run,
        ledgers=_ledgers(run, uses, extent),
        folds=folds,
        mean_over_folds=mean_over_folds(folds),
        confidences=read_confidences(run.folder),
        identity=identity,
        record=run.record,
        pretrained=_pretrained(run.record),
        split=run.split,
        configuration=run.configuration,
        comparison=comparison,
        mirroring=mirroring_in_words(run.folder.parent, identity),
        verdict=judge(run, comparison),
        story=story(run, comparison, uses_of_model),
        tiles=tiles(run, comparison, uses_of_model),
        uses={use.number: use for use in uses},
        other_fold=next((shell_path(fold.folder) for fold in folds if fold.folder != run.folder), ""),
        figures=run_curves(run, baseline),
        shown_round=shown_round,
        pseudo=pseudo,
        labeled=labeled_panels(run, data, extent.slices),
        evaluated=evaluated_panels(run, comparison.scores, extent.slices),
        # An evaluation has the name of a class, or its value where it was given no names.
        class_names={
            **{str(value): name for name, value in run.classes.items()},
            **{name: name for name in run.classes},
        },
        max_channels=MAX_CHANNELS,
        colors=[color(index) for index in range(len(run.classes))],
        recipe=recipe_lines(
            {key: value for key, value in recipe.items() if key not in ("name", "description")}, default_recipe()
        ),
        notes=[*_notes(run), *_left_out(extent, max_bytes)],
        costs=forecast_rows(run.record),
        files=_files(run, data, comparison),
        command=shlex.join(["pclauto", *map(str, run.record["command"][1:])]),
        joint=JOINT_TRAINER,
        number=_number,
        heading=heading,
        cell=_cell,
        seconds=format_seconds,
        style=inline_file("page.css") + _color_rules(),
        script=inline_file("page.js"),
    )
    return str(page)


def _ledgers(run: RunFacts, uses: Sequence[RoundUse], extent: Extent) -> list[dict[str, Any]]:
    """Return the ledger of each round that is shown: its number, its rows, and how many of all were used."""
    shown = []
    for entry in run.rounds[-extent.rounds :] if extent.rounds else run.rounds:
        rows = ledger_rows(entry, why_unused(uses, entry.number))
        count = sum(row["used"] == "1" for row in rows)
        shown.append({"number": entry.number, "rows": rows[: extent.rows], "cases": len(rows), "used": count})
    return shown


def _files(run: RunFacts, data: DatasetFolder, comparison: BaselineComparison) -> list[tuple[str, str]]:
    """List the files behind the page, each once: paths show the names of users, and stand nowhere else on it."""
    scores = comparison.scores or {}
    files: dict[str, Path | None] = {
        "run": run.folder,
        "data set": data.path,
        "split": data.split_file(run.split.name),
        "scores": comparison.scores_file,
        "masks that were scored": Path(scores["predictions"]) if scores else None,
        "labels that they were scored by": Path(scores["labels"]) if scores else None,
        "nnU-Net alone": comparison.baseline,
        "pretrained weights": Path(run.record["pretrained"]["file"]) if "pretrained" in run.record else None,
    }
    return [(name, str(file)) for name, file in files.items() if file is not None]


def _pretrained(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's weights began as, with their name: paths show the names of users; empty without any."""
    found = record.get("pretrained")
    if not found:
        return {}
    source = str(found["source"])
    return {**found, "name": source if source.startswith(HUB) else Path(source).name}


def _color_rules() -> Markup:
    """Return the rules of the style sheet that give curves, keys and swatches the colors of their class."""
    rules = [
        f".c{index} {{ color: {value}; }} .series.c{index} {{ stroke: {value}; }} circle.c{index} {{ fill: {value}; }}"
        for index, value in enumerate(COLORS)
    ]
    return Markup("\n".join(rules))  # noqa: S704 (constants of this package)


def inline_file(name: str) -> Markup:
    """Return a file of this folder as it stands in a page."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))  # noqa: S704 (a file of this package)


def forecast_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return each cost of a finished run as (name, forecast, measured); none where neither is known."""
    forecast, measured = record.get("forecast", {}), record.get("measured")
    if measured is None:
        return []
    return [
        (name, _cost(key, forecast.get(key)), _cost(key, measured.get(key)))
        for key, name in _COSTS.items()
        # nnU-Net's estimate says nothing of a run without a GPU.
        if measured.get(key) is not None or (key != "gpu_memory_mb" and forecast.get(key) is not None)
    ]


def _cost(key: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return format_duration(value) if key.endswith("_s") else f"{value:.0f} MB"


def _notes(run: RunFacts) -> list[str]:
    """List what happened on the way that a reader should know and that no table of the page has."""
    notes = [f"Resumed after epoch {event['epoch']}." for event in run.happened("resumed")]
    damaged = damaged_evaluations(run.folder.parent)
    notes += [f"An evaluation cannot be read and is left out: {file.name}." for file in damaged]
    if not run.happened("trained"):
        notes.append("The training has not ended yet.")
    return notes


def _left_out(extent: Extent, max_bytes: int) -> list[str]:
    if extent == Extent():
        return []
    shown = [f"{extent.slices} {'slice' if extent.slices == 1 else 'slices'} of each plane"]
    shown += ["the ledger of the last round"] if extent.rounds else []
    shown += [f"{extent.rows} rows of it at most"] if extent.rows else []
    return [f"Only {', '.join(shown)}: the page stays below {max_bytes / 1e6:g} MB. The files have the rest."]


def _cell(column: str, value: str) -> str:
    """Format a value of the ledger: numbers of decimals with two of them."""
    if column == "used":
        return "yes" if value == "1" else "no"
    return _number(float(value), 2) if value and (column.startswith("volume_ml_") or column in JUDGMENTS) else value


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
