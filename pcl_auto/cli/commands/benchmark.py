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
    labeled: Annotated[str, typer.Option("--labeled", "-l", help="Numbers of labeled cases: 1,2,8.")] = "2",
    seeds: options.Seeds = 3,
    arms: Annotated[
        str, typer.Option(help="supervised, all-labels, recipes by name or TOML file; separated by commas.")
    ] = "nnunet,nnunet_no_mirroring,nnunet_symmetric,default,all-labels",
    test: options.Test = None,
    test_images: options.TestImages = None,
    test_cases: options.TestCases = 0,
    base_recipe: options.BaseRecipe = "quick",
    epochs: options.StudyEpochs = None,
    configuration: options.Configuration = None,
    mirroring: Annotated[
        bool, typer.Option("--mirroring/--no-mirroring", help="Mirror the test scans: eight times slower in 3D.")
    ] = True,
    folder: options.Folder = None,
    workspace_path: options.Workspace = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    dry_run: options.ListRuns = False,
    json: options.Json = False,
) -> None:
    """Find out whether unlabeled scans help: recipes against nnU-Net on the same cases, steps and images.

    \b
      pclauto benchmark Task05_Prostate --labeled 1,2,8 --seeds 3
      pclauto benchmark --labeled 2 --arms supervised,paper,mine.toml --test labelsTs

    \b
    Repeat the command to resume; a finished run is not done again.
    Arms of one number of labels and one seed that augment alike share
    their supervised start, which is removed when all of them are done;
    the models stay, results.json says where.
    Test scans are segmented without mirroring unless asked for.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest

    request = BenchmarkRequest(
        labeled=labeled, draws=seeds, arms=arms, base_recipe=base_recipe, epochs=epochs, test_labels=test,
        test_images=test_images, test_cases=test_cases, configuration=configuration, mirroring=mirroring,
        device=device, workers=workers, folder=folder,
    )  # fmt: skip
    carry_out(dataset, request, workspace_path, _render, dry_run=dry_run, json=json)


def _number(value: float, digits: int, *, sign: str = "", unit: str = "") -> str:
    return "n/a" if math.isnan(value) else f"{value:{sign}.{digits}f}{unit}"


def _cells(row: Row) -> list[str]:
    from pcl_auto.benchmark.table import p_text

    found = row.comparison
    compared = [""] * 4
    if found is not None:
        compared = [
            _number(found.difference, 3, sign="+"),
            p_text(found.p),
            f"{found.seeds_better}/{found.seeds}",
            _number(100 * found.gap_closed, 0, unit=" %"),
        ]
    return [
        row.arm,
        str(row.labeled),
        f"{_number(row.dice.mean, 3)} ± {_number(row.dice.sd, 3)}",
        _number(row.hd95_mm.mean, 2),
        *compared,
        _number(row.seconds / 60, 1),
        _number(row.memory_mb, 0),
    ]


def _render(terminal: Terminal, _study: Study, rows: list[Row]) -> None:
    # Ten columns fit into 80 characters; a long name of an arm takes more lines.
    columns = ("arm", ">labels", ">Dice ± sd", ">HD95", ">Δ Dice", ">p", ">seeds", ">gap", ">min", ">MB")
    terminal.print_table(columns, map(_cells, rows), gap=1)
    for line in (
        "",
        "Dice, HD95 (mm): means over test cases and seeds, sd over seeds; what one mask lacks has no HD95.",
        "Δ Dice: to supervised with as many labels. p: Wilcoxon over test cases. seeds: better on so many of them.",
        "gap: share of the way to all labels. min: minutes of a training. MB: its peak of memory.",
    ):
        terminal.print_result(line, style="dim")
    for row in rows:
        if row.verdict:
            terminal.print_result(row.verdict)
