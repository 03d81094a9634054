"""``pclauto sweep``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pcl_auto.cli.console.options import DeviceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from pcl_auto.benchmark.table import Point
    from pcl_auto.cli.console.terminal import Terminal


def sweep(
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A planned data set, or a decathlon folder. Default: the one planned last."),
    ] = None,
    labeled: Annotated[str, typer.Option("--labeled", "-l", help="Numbers of labeled cases.")] = "1,2,4,8",
    recipe: Annotated[str, typer.Option(help="default, paper, quick, or a TOML file.")] = "default",
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, … of draw and training, so many.", min=1)] = 1,
    test: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of test labels. Default: labelsTs of the task.", file_okay=False),
    ] = None,
    test_images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of test scans. Default: imagesTs of the task.", file_okay=False),
    ] = None,
    test_cases: Annotated[
        int, typer.Option(help="Test on so many labeled cases instead, and keep them out of every training.", min=0)
    ] = 0,
    base_recipe: Annotated[
        str, typer.Option(help="Recipe of optimizer, batch, network and steps, the same for every training.")
    ] = "quick",
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Train so many epochs; the base recipe's parts keep their shares.", min=1),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the results go. Default: benchmarks/DATASET in the workspace.", file_okay=False),
    ] = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs of a planned data set, do none.")] = False,
    json: JsonOption = False,
) -> None:
    """Find out what more labels bring: Dice over their number, for a recipe and for nnU-Net alone.

    \b
      pclauto sweep Task05_Prostate --labeled 1,2,4,8
      pclauto sweep --labeled 2,4 --seeds 3 --test-cases 4

    The cases of a smaller number are among those of a larger one. The runs are those of `pclauto benchmark`, and lie
    with them: what either has done, the other does not do again.
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
    place = Workspace.find(workspace, os.environ)
    done = carry_out(terminal, dataset, request, place, dry_run=dry_run, json=json)
    if done is None:
        return
    study, rows, results = done
    curve = curve_points(rows)
    if json:
        terminal.json({**results, "curve": [point.__dict__ for point in curve]})
    else:
        _render(terminal, curve, study.seeds)
    terminal.print_line(f"results: {study.folder / 'results.json'}, results.csv and results.png beside it")


def _render(terminal: Terminal, curve: list[Point], seeds: tuple[int, ...]) -> None:
    from rich.table import Table

    from pcl_auto.benchmark.table import describe_curve
    from pcl_auto.cli.console.terminal import cell

    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("labels", "nnU-Net alone", *{point.arm: None for point in curve}, "gain"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in curve:
        alone = point.baseline
        known = ["", ""] if alone is None else [f"{alone:.3f}", f"{point.dice - alone:+.3f}"]
        table.add_row(*map(cell, [str(point.labeled), known[0], f"{point.dice:.3f}", known[1]]))
    terminal.out.print(table)
    terminal.out.print(f"\nMean Dice over test cases and {len(seeds)} seed(s).", style="dim", soft_wrap=True)
    for line in describe_curve(curve, max(point.labeled for point in curve)):
        terminal.out.print(cell(line), soft_wrap=True)
