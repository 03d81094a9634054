"""``pclauto report``: a run on one page that needs nothing but itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pcl_auto.report.baseline import compare_to_baseline
from pcl_auto.report.figures import COLORS, Series, curves
from pcl_auto.report.overlays import MAX_CHANNELS, MAX_SLICES, color
from pcl_auto.report.scans import evaluated_panels, labeled_panels, pseudo_label_panels
from pcl_auto.report.sections import fold_scores, forecast_rows, over_folds
from pcl_auto.training.request import JOINT_TRAINER
from pcl_auto.training.run_facts import (
    JUDGMENTS,
    RunFacts,
    default_recipe,
    heading,
    read_confidences,
    read_run,
    recipe_lines,
    run_folder,
)
from pcl_auto.workspace.files import printable, write_text
from pcl_auto.workspace.folders import DatasetFolder, Workspace

REPORT = "report.html"
MAX_BYTES = 15_000_000


@dataclass(frozen=True)
class Extent:
    """How much of a run a page shows: slices of a plane, rounds of the ledger (the last ones) and rows of each."""

    slices: int = MAX_SLICES
    rounds: int | None = None
    rows: int | None = None


# From all of it to what always fits; the first page that is small enough is taken.
_EXTENTS = (Extent(), Extent(slices=12), Extent(slices=12, rounds=1), Extent(slices=4, rounds=1), Extent(1, 1, 2000))


def write_report(model: Path, workspace: Workspace, target: Path | None = None) -> Path:
    """Write the report of the run in ``model`` to ``target``, by default into the run's own folder.

    Returns:
        where it was written.

    Raises:
        StateError: there is no run, or its files are damaged.
    """
    folder = run_folder(model)
    target = folder / REPORT if target is None else target
    run = read_run(folder)
    write_text(target, render(run, workspace))
    return target


def render(run: RunFacts, workspace: Workspace, most_bytes: int = MAX_BYTES) -> str:
    """The page of a run, as HTML of at most ``most_bytes``; what it leaves out for that, it says."""
    *larger, smallest = _EXTENTS
    for extent in larger:
        page = _render(run, workspace, extent, most_bytes)
        if len(page.encode()) <= most_bytes:
            return page
    return _render(run, workspace, smallest, most_bytes)


def _render(run: RunFacts, workspace: Workspace, extent: Extent, most_bytes: int) -> str:
    data = DatasetFolder(workspace.preprocessed / run.identity["dataset"])
    verdict = compare_to_baseline(run, workspace)
    baseline = None if verdict.baseline is None else read_run(verdict.baseline / run.folder.name)
    shown_round, pseudo = pseudo_label_panels(run, extent.slices)
    environment = Environment(
        loader=PackageLoader("pcl_auto.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names may hold what steers a reader, such as changes of the direction of text.
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    page = environment.get_template("page.html").render(
        run=run,
        ledgers=run.rounds[-extent.rounds :] if extent.rounds else run.rounds,
        most_rows=extent.rows,
        folds=fold_scores(run.folder.parent),
        over_folds=over_folds,
        confidences=read_confidences(run.folder),
        identity=run.identity,
        record=run.record,
        split=run.split,
        split_file=data.split_file(run.split.name),
        plan_file=data.plan_file,
        configuration=run.configuration,
        verdict=verdict,
        figures=_figures(run, baseline),
        shown_round=shown_round,
        pseudo=pseudo,
        labeled=labeled_panels(run, data, extent.slices),
        evaluated=evaluated_panels(run, verdict.scores, extent.slices),
        class_names=_class_names(run),
        most_channels=MAX_CHANNELS,
        colors=["#{:02x}{:02x}{:02x}".format(*color(place)) for place in range(len(run.classes))],
        recipe=recipe_lines(_settings(run.identity["recipe"]), default_recipe()),
        notes=[*_notes(run), *_left_out(extent, most_bytes)],
        costs=forecast_rows(run.record),
        command=shlex.join(map(str, run.record["command"])),
        joint=JOINT_TRAINER,
        place=partial(_place, run),
        number=_number,
        heading=heading,
        cell=_cell,
        style=_inline("page.css"),
        script=_inline("page.js"),
    )
    return str(page)


def _place(run: RunFacts, path: Path) -> str:
    """Where a file is, seen from the run's folder if it belongs to the run's model."""
    return os.path.relpath(path, run.folder) if Path(path).is_relative_to(run.folder.parent) else str(path)


def _inline(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))  # noqa: S704 (a file of this package)


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in ("name", "description")}


def _class_names(run: RunFacts) -> dict[str, str]:
    """Names of the classes by what an evaluation calls them: their names, or their values."""
    return {**{str(value): name for name, value in run.classes.items()}, **{name: name for name in run.classes}}


def _figures(run: RunFacts, baseline: RunFacts | None) -> list[dict[str, Any]]:
    """The curves: every loss, the Dice of each class on patches, and the change between rounds.

    Of validation cases that of the ``baseline`` too, which is for as many steps.
    """
    epochs = run.epochs
    starts = {number: start - 0.5 for number, start in run.round_starts().items()}
    figures = []
    losses = list(dict.fromkeys(name for event in epochs for name in event["losses"]))
    for name in losses:
        points = [(event["epoch"], event["losses"].get(name)) for event in epochs]
        title = "Loss" if name == "loss" else f"Loss: {name}"
        figures.append(_figure(title, [Series(name, points)], x_name="epoch", boundaries=starts))
    dice = _patch_dice(run)
    of = next((event["patch_dice_of"] for event in reversed(epochs)), "")
    if baseline is not None and run.split.validation and not run.steps_before:
        # Its epochs may have another number of steps.
        share = baseline.steps_per_epoch / run.steps_per_epoch
        dice += [replace(series, name=f"{series.name}, baseline") for series in _patch_dice(baseline, share)]
    title = f"Dice on patches of {of}"
    figures.append(_figure(title, dice, x_name="epoch", boundaries=starts, y_range=(0.0, 1.0)))
    changes = [(event["round"], event["dice_to_last_round"]) for event in run.happened("pseudo_labels")]
    title = "Dice of pseudo-labels to those of the round before"
    figures.append(_figure(title, [Series("mean over cases", changes)], x_name="round", y_range=None))
    return [figure for figure in figures if figure["svg"]]


def _patch_dice(run: RunFacts, epoch: float = 1.0) -> list[Series]:
    return [
        Series(name, [(epoch * event["epoch"], event["patch_dice"][place]) for event in run.epochs])
        for place, name in enumerate(run.classes)
    ]


def _figure(title: str, series: list[Series], **options: Any) -> dict[str, Any]:
    keys = [(place % COLORS, place >= COLORS, one.name) for place, one in enumerate(series)]
    return {"title": title, "svg": curves(series, title=title, **options), "keys": keys}


def _notes(run: RunFacts) -> list[str]:
    """What happened on the way that a reader should know."""
    notes = [f"Resumed after epoch {event['epoch']}." for event in run.happened("resumed")]
    notes += [
        f"Round {event['round']} was rolled back after epoch {event['epoch']}: {'; '.join(map(str, event['reasons']))}."
        for event in run.happened("rolled_back")
    ]
    notes += [
        f"Round {event['round']} trained on labels alone, its pseudo-labels would have spoiled it: "
        f"{'; '.join(map(str, event.get('reasons', ['all background'])))}."
        for event in run.happened("degenerate")
    ]
    if not run.happened("trained"):
        notes.append("The training has not ended yet.")
    return notes


def _left_out(extent: Extent, most_bytes: int) -> list[str]:
    if extent == Extent():
        return []
    shown = [f"{extent.slices} {'slice' if extent.slices == 1 else 'slices'} of each plane"]
    shown += ["the ledger of the last round"] if extent.rounds else []
    shown += [f"{extent.rows} rows of it at most"] if extent.rows else []
    return [f"Only {', '.join(shown)}: the page stays below {most_bytes / 1e6:g} MB. The files have the rest."]


def _cell(column: str, value: str) -> str:
    """A value of the ledger as it is shown, with as many decimals as the others of its column."""
    if column == "used":
        return "yes" if value == "1" else "no"
    digits = 3 if column.startswith("volume_ml_") else 4 if column in JUDGMENTS else None
    return value if digits is None or not value else _number(float(value), digits)


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
