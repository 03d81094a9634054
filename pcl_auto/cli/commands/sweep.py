"""Define ``pclauto sweep``: Dice over the number of labels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.study import carry_out
from pcl_auto.cli.console.terminal import Terminal

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import Study
    from pcl_auto.benchmark.table import Row


def sweep(
    dataset: options.Planned = None,
    labeled: Annotated[str, typer.Option("--labeled", "-l", help="Numbers of labeled cases.")] = "1,2,4,8",
    recipe: options.Recipe = "default",
    seeds: options.Seeds = 1,
    test: options.Test = None,
    test_images: options.TestImages = None,
    test_cases: options.TestCases = 0,
    base_recipe: options.BaseRecipe = "quick",
    epochs: options.StudyEpochs = None,
    folder: options.Folder = None,
    workspace_path: options.Workspace = None,
    device: options.Device = "auto",
    dry_run: options.ListRuns = False,
    json: options.Json = False,
) -> None:
    """Find out what more labels bring: Dice over their number, for a recipe and for nnU-Net alone.

    \b
      pclauto sweep Task05_Prostate --labeled 1,2,4,8
      pclauto sweep --labeled 2,4 --seeds 3 --test-cases 4

    \b
    The cases of a smaller number are among those of a larger one.
    The runs are those of `pclauto benchmark`, and lie with them:
    what either has done, the other does not do again.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest

    request = BenchmarkRequest(
        labeled=labeled, draws=seeds, arms=f"nnunet,{recipe}", base_recipe=base_recipe, epochs=epochs,
        test_labels=test, test_images=test_images, test_cases=test_cases, device=device, folder=folder,
    )  # fmt: skip
    carry_out(dataset, request, workspace_path, _render, more=_curve, dry_run=dry_run, json=json)


def _curve(rows: list[Row]) -> dict[str, Any]:
    from pcl_auto.benchmark.table import curve_points

    return {"curve": [asdict(point) for point in curve_points(rows)]}


def _render(terminal: Terminal, study: Study, rows: list[Row]) -> None:
    from pcl_auto.benchmark.table import curve_points, describe_curve

    curve = curve_points(rows)
    lines = []
    for point in curve:
        alone = point.baseline
        known = ("", "") if alone is None else (f"{alone:.3f}", f"{point.dice - alone:+.3f}")
        lines.append((str(point.labeled), known[0], f"{point.dice:.3f}", known[1]))
    columns = ("labels", "nnU-Net alone", *{point.arm: None for point in curve}, "gain")
    terminal.print_table([f">{name}" for name in columns], lines)
    terminal.print_result()
    terminal.print_result(f"Mean Dice over test cases and {len(study.draws)} draw(s) of labeled cases.", style="dim")
    for line in describe_curve(curve, max(point.labeled for point in curve)):
        terminal.print_result(line)
