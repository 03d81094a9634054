"""Define ``pclauto benchmark``: recipes against nnU-Net alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.study import carry_out
from pcl_auto.cli.console.terminal import Terminal

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import Study
    from pcl_auto.benchmark.table import Row


def benchmark(
    dataset: options.Planned = None,
    labeled: Annotated[
        str,
        typer.Option(
            "--labeled",
            "-l",
            help="Numbers of labeled cases: 1,2,8.",
            metavar="NUMBERS",
            rich_help_panel=options.WHAT_TO_COMPARE,
        ),
    ] = "2",
    draws: options.Draws = 6,
    every_class: options.EveryClass = True,
    arms: Annotated[
        str,
        typer.Option(
            help="nnunet, nnunet_no_mirroring, nnunet_symmetric (the baselines), all-labels (each baseline again with "
            "all labels), recipes by name or TOML file; separated by commas.",
            metavar="ARMS",
            rich_help_panel=options.WHAT_TO_COMPARE,
        ),
    ] = "nnunet,nnunet_no_mirroring,nnunet_symmetric,default,all-labels",
    test: options.Test = None,
    test_images: options.TestImages = None,
    test_cases: options.TestCases = 0,
    base_recipe: options.BaseRecipe = "quick",
    settings: options.StudySettings = None,
    epochs: options.StudyEpochs = None,
    pretrained: Annotated[
        str,
        typer.Option(
            help="Begin every run with these weights, baselines too: a checkpoint, its folder, hf://OWNER/NAME, or "
            "auto, made of the images that are no test cases. Recipes may name their own.",
            metavar="SOURCE",
            rich_help_panel=options.RECIPE_AND_LENGTH,
        ),
    ] = "",
    configuration: options.Configuration = None,
    mirroring: Annotated[
        bool,
        typer.Option(
            "--mirroring/--no-mirroring",
            help="Mirror the test scans along the axes that a model was trained to mirror along, as it would be used. "
            "Without, they take up to an eighth of the time.",
            rich_help_panel=options.TEST_CASES,
        ),
    ] = True,
    folder: options.Folder = None,
    workspace_path: options.Workspace = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    dry_run: options.ListRuns = False,
    time_steps: options.TimeSteps = False,
    json: options.Json = False,
) -> None:
    """Find out whether a recipe beats nnU-Net alone.

    \b
      pclauto benchmark Task05_Prostate --labeled 1,2,8
      pclauto benchmark --labeled 2 --arms nnunet,paper,mine.toml --test labelsTs

    All arms have the same cases, steps and patches, over draws of labeled cases.

    \b
    Baselines: nnU-Net as it is, never mirrored, and mirrored as the
    default recipe mirrors. The best with all labels is the ceiling.
    A recipe is better than a baseline if p (paired t-test over draws,
    Holm over recipes) is below .05 and two intervals exclude 0.

    \b
    Repeat the command to resume; a finished run is not done again.
    Arms of one number of labels and one draw that augment alike share
    their supervised start, which is removed when all of them are done;
    the models stay, results.json says where.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest

    request = BenchmarkRequest(
        labeled=labeled, draws=draws, every_class=every_class, arms=arms, base_recipe=base_recipe,
        settings=tuple(settings or ()), epochs=epochs, test_labels=test, test_images=test_images,
        test_cases=test_cases, configuration=configuration, mirroring=mirroring, device=device, workers=workers,
        folder=folder, pretrained=pretrained,
    )  # fmt: skip
    carry_out(dataset, request, workspace_path, _render, dry_run=dry_run, time_steps=time_steps, json=json)


def table_cells(row: Row) -> list[str]:
    """Return the cells of a row of the table, narrow enough that all of them fit into 80 characters."""
    from pcl_auto.benchmark.table import decimals, p_text

    found, difference, p = row.to_best, "", ""
    if found is not None:
        low, high = found.t_interval.low, found.t_interval.high
        interval = "" if math.isnan(low) else f" [{decimals(low, '+')}, {decimals(high, '+')}]"
        difference, p = f"{decimals(found.difference, '+')}{interval}", p_text(found.p_holm)
    sd = "" if math.isnan(row.dice.sd) else f" ± {decimals(row.dice.sd)}"
    hd95 = "n/a" if math.isnan(row.hd95_mm.mean) else f"{row.hd95_mm.mean:.2f}"
    return [
        row.arm, str(row.labeled), str(row.dice.draws), f"{decimals(row.dice.mean)}{sd}", hd95, difference, p
    ]  # fmt: skip


def _render(terminal: Terminal, _study: Study, rows: list[Row]) -> None:
    from pcl_auto.benchmark.table import find_ceiling

    columns = ("arm", ">labels", ">draws", ">Dice ± sd", ">HD95", ">Δ to best baseline", ">p")
    terminal.print_table(columns, map(table_cells, rows), gap=1)
    for line in (
        "",
        "Dice, HD95 (mm): means over test cases and draws, sd over draws; what one mask lacks has no HD95.",
        "Δ: difference in Dice to the baseline with the highest mean Dice at as many labels, with its",
        "95 % t-interval over draws. p: paired t-test over draws, adjusted (Holm) for the recipes. A verdict",
        "also asks for a bootstrap over draws and test cases: results.json has it, and minutes and memory.",
    ):
        terminal.print_result(line, style="dim")
    if ceiling := find_ceiling(rows):
        terminal.print_result(f"ceiling: {ceiling.arm} with all {ceiling.labeled} labels")
    for row in rows:
        if row.sentence:
            terminal.print_result(row.sentence)
