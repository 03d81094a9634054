"""``pclauto benchmark``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pcl_auto.cli.console.options import DeviceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from pcl_auto.benchmark.table import Row
    from pcl_auto.cli.console.terminal import Terminal


def benchmark(
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A planned data set, or a decathlon folder. Default: the one planned last."),
    ] = None,
    labeled: Annotated[str, typer.Option("--labeled", "-l", help="Numbers of labeled cases: 1,2,8.")] = "2",
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, … of draw and training, so many.", min=1)] = 3,
    arms: Annotated[
        str, typer.Option(help="supervised, all-labels, recipes by name or TOML file; separated by commas.")
    ] = "supervised,paper,default,all-labels",
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
        str, typer.Option(help="Recipe of optimizer, batch, network and steps, the same for every arm.")
    ] = "quick",
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Train so many epochs; the base recipe's parts keep their shares.", min=1),
    ] = None,
    configuration: Annotated[Optional[str], typer.Option(help="A planned configuration. Default: the plan's.")] = None,  # noqa: UP045
    mirroring: Annotated[
        bool, typer.Option("--mirroring/--no-mirroring", help="Mirror the test scans: eight times slower in 3D.")
    ] = False,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the results go. Default: benchmarks/DATASET in the workspace.", file_okay=False),
    ] = None,
    workspace: WorkspaceOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Processes that augment data, 0 for none. Default: one per core.", min=0),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs of a planned data set, do none.")] = False,
    json: JsonOption = False,
) -> None:
    """Find out whether unlabeled scans help: recipes against nnU-Net on the same cases, steps and images.

    \b
      pclauto benchmark Task05_Prostate --labeled 1,2,8 --seeds 3
      pclauto benchmark --labeled 2 --arms supervised,paper,mine.toml --test labelsTs

    Repeat the command to resume; a finished run is not done again. Arms of one number of labels and one seed that
    augment alike share their supervised start, which is removed when all of them are done; the models stay,
    results.json says where. Test scans are segmented without mirroring unless asked for.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest
    from pcl_auto.cli.commands.study import carry_out
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.workspace.folders import Workspace

    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    request = BenchmarkRequest(
        labeled=labeled,
        seeds=seeds,
        arms=arms,
        base_recipe=base_recipe,
        epochs=epochs,
        test_labels=test,
        test_images=test_images,
        test_cases=test_cases,
        configuration=configuration,
        mirroring=mirroring,
        device=device,
        workers=workers,
        folder=folder,
    )
    done = carry_out(terminal, dataset, request, place, dry_run=dry_run, json=json)
    if done is None:
        return
    study, rows, results = done
    if json:
        terminal.json(results)
    else:
        _render(terminal, rows)
    terminal.print_line(f"results: {study.folder / 'results.json'}, results.csv and results.png beside it")


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


def _render(terminal: Terminal, rows: list[Row]) -> None:
    from rich.table import Table

    from pcl_auto.cli.console.terminal import cell

    # Ten columns fit into 80 characters; a long name of an arm takes more lines.
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for column in ("labels", "Dice ± sd", "HD95", "Δ Dice", "p", "seeds", "gap", "min", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(cell, _cells(row)))
    terminal.out.print(table)
    terminal.out.print(
        "\nDice, HD95 (mm): means over test cases and seeds, sd over seeds; what one mask lacks has no HD95."
        "\nΔ Dice: to supervised with as many labels. p: Wilcoxon over test cases. seeds: better on so many of them."
        "\ngap: share of the way to all labels. min: minutes of a training. MB: its peak of memory.",
        style="dim",
        soft_wrap=True,
    )
    for row in rows:
        if row.verdict:
            terminal.out.print(cell(row.verdict), soft_wrap=True)
