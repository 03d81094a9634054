"""Define ``pclauto sweep``: Dice over the number of labels."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.study import carry_out
from pcl_auto.cli.console.terminal import Terminal

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import Study
    from pcl_auto.benchmark.table import Row


class Baseline(str, Enum):
    """The baselines that a sweep can be given; those of :data:`pcl_auto.benchmark.arms.BASELINE_ARMS`."""

    NNUNET = "nnunet"
    NO_MIRRORING = "nnunet_no_mirroring"
    SYMMETRIC = "nnunet_symmetric"


def sweep(
    dataset: options.Planned = None,
    labeled: Annotated[
        str,
        typer.Option(
            "--labeled",
            "-l",
            help="Numbers of labeled cases.",
            metavar="NUMBERS",
            rich_help_panel=options.WHAT_TO_COMPARE,
        ),
    ] = "1,2,4,8",
    recipe: options.Recipe = "default",
    baseline: Annotated[
        Baseline,
        typer.Option(
            help="nnunet, nnunet_no_mirroring or nnunet_symmetric: as it is, never mirrored, or mirrored as default.",
            metavar="ARM",
            rich_help_panel=options.WHAT_TO_COMPARE,
        ),
    ] = Baseline.NNUNET,
    draws: options.Draws = 1,
    every_class: options.EveryClass = True,
    test: options.Test = None,
    test_images: options.TestImages = None,
    test_cases: options.TestCases = 0,
    base_recipe: options.BaseRecipe = "quick",
    settings: options.StudySettings = None,
    epochs: options.StudyEpochs = None,
    folder: options.Folder = None,
    workspace_path: options.Workspace = None,
    device: options.Device = "auto",
    dry_run: options.ListRuns = False,
    time_steps: options.TimeSteps = False,
    json: options.Json = False,
) -> None:
    """Find out what more labels bring.

    \b
      pclauto sweep Task05_Prostate --labeled 1,2,4,8
      pclauto sweep --labeled 2,4 --draws 6 --test-cases 4

    It draws Dice over the number of labels, for a recipe and for nnU-Net alone.

    \b
    The cases of a smaller number are among those of a larger one.
    The runs are those of `pclauto benchmark`, and lie with them:
    what either has done, the other does not do again.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest

    request = BenchmarkRequest(
        labeled=labeled, draws=draws, every_class=every_class, arms=f"{baseline.value},{recipe}",
        base_recipe=base_recipe, settings=tuple(settings or ()), epochs=epochs, test_labels=test,
        test_images=test_images, test_cases=test_cases, device=device, folder=folder,
    )  # fmt: skip
    carry_out(dataset, request, workspace_path, _render, more=_curve, dry_run=dry_run, time_steps=time_steps, json=json)


def _curve(rows: list[Row]) -> dict[str, Any]:
    from pcl_auto.benchmark.sweep_curve import curve_points

    return {"curve": [asdict(point) for point in curve_points(rows)]}


def _render(terminal: Terminal, study: Study, rows: list[Row]) -> None:
    from pcl_auto.benchmark.sweep_curve import curve_points, describe_curve
    from pcl_auto.benchmark.table import decimals
    from pcl_auto.evaluation.statistics import draws_in_words

    curve = curve_points(rows)
    lines = []
    for point in curve:
        alone = point.baseline_dice
        known = ("", "") if alone is None else (decimals(alone), decimals(point.dice - alone, "+"))
        lines.append((str(point.labeled), known[0], decimals(point.dice), known[1]))
    arms = dict.fromkeys(arm.name for arm in sorted(study.arms, key=lambda arm: not arm.baseline))
    terminal.print_table([f">{name}" for name in ("labels", *arms, "Δ")], lines)
    terminal.print_result()
    terminal.print_result(f"Mean Dice over test cases and {draws_in_words(len(study.draws))}.", style="dim")
    for line in [*(row.sentence for row in rows if row.sentence), *describe_curve(curve, max(study.labeled))]:
        terminal.print_result(line)
