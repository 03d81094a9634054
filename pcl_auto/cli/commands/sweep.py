"""``pclauto sweep``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from pcl_auto.cli.console import options

if TYPE_CHECKING:
    from pcl_auto.benchmark.table import Point
    from pcl_auto.cli.console.terminal import Terminal


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
    from pcl_auto.benchmark.arms import BASELINE_ARM
    from pcl_auto.benchmark.study import BenchmarkRequest
    from pcl_auto.benchmark.table import curve_points
    from pcl_auto.cli.commands.study import carry_out
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.workspace.folders import Workspace

    terminal = Terminal()
    request = BenchmarkRequest(
        labeled=labeled, seeds=seeds, arms=f"{BASELINE_ARM},{recipe}", base_recipe=base_recipe, epochs=epochs,
        test_labels=test, test_images=test_images, test_cases=test_cases, device=device, folder=folder,
    )  # fmt: skip
    workspace = Workspace.find(workspace_path, os.environ)
    done = carry_out(terminal, dataset, request, workspace, dry_run=dry_run, json=json)
    if done is None:
        return
    study, rows, results = done
    curve = curve_points(rows)
    if json:
        terminal.json({**results, "curve": [point.__dict__ for point in curve]})
    else:
        _render(terminal, curve, len(study.seeds))
    terminal.print_line(f"results: {study.folder / 'results.json'}, results.csv and results.png beside it")


def _render(terminal: Terminal, curve: list[Point], seeds: int) -> None:
    from pcl_auto.benchmark.table import describe_curve

    columns = ("labels", "nnU-Net alone", *{point.arm: None for point in curve}, "gain")
    rows = []
    for point in curve:
        alone = point.baseline
        known = ("", "") if alone is None else (f"{alone:.3f}", f"{point.dice - alone:+.3f}")
        rows.append((str(point.labeled), known[0], f"{point.dice:.3f}", known[1]))
    terminal.print_table([f">{name}" for name in columns], rows)
    terminal.print_result()
    terminal.print_result(f"Mean Dice over test cases and {seeds} seed(s).", style="dim")
    for line in describe_curve(curve, max(point.labeled for point in curve)):
        terminal.print_result(line)
