"""Define ``pclauto demo``: the whole way on phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import TrainingProgress
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.recipe.load import load_recipe
from pcl_auto.recipe.time_budget import format_seconds

if TYPE_CHECKING:
    from pcl_auto.benchmark.demo import DemoResult


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Where the data, the models and the masks go.", file_okay=False, metavar="FOLDER")
    ] = Path("pclauto_demo"),
    seed: Annotated[
        int, typer.Option(help="Seed of the phantom and of the training.", min=0, max=options.MAX_SEED, metavar="N")
    ] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make a small data set and go the whole way in minutes.

    \b
      pclauto demo
      pclauto demo my-demo --seed 1

    It plans, trains, predicts and evaluates, which checks the installation, too.
    """
    from pcl_auto.benchmark.demo import RECIPE, run_demo

    terminal = Terminal()
    schedule = load_recipe(RECIPE).schedule
    with resumable(terminal), TrainingProgress(terminal) as progress:
        progress.begin(schedule.epochs, schedule.steps_per_epoch)
        result = run_demo(folder, seed=seed, device=device, print_line=terminal.print_line, listener=progress)
    if json:
        places = {"folder": str(result.folder), "report": str(result.report)}
        terminal.json({**places, "seconds": round(result.seconds), "scores": result.scores})
    else:
        _render(terminal, result)


def _render(terminal: Terminal, result: DemoResult) -> None:
    arms: dict[str, dict[str, Any]] = result.scores
    classes = list(next(iter(arms.values()))["per_class"])
    rows = []
    for arm, scores in arms.items():
        dice = [*(scores["per_class"][name]["dice"]["mean"] for name in classes), scores["mean"]["dice"]]
        hd95 = scores["mean"]["hd95_mm"]
        rows.append([arm, *(f"{value:.3f}" for value in dice), "n/a" if hd95 is None else f"{hd95:.2f}"])
    columns = ["", *(f">{name}" for name in classes), ">mean", ">HD95 (mm)"]
    terminal.print_table(columns, rows, title="Dice on 6 test volumes, 2 labels")
    gain = arms["pclauto"]["mean"]["dice"] - arms["nnU-Net alone"]["mean"]["dice"]
    terminal.print_result(
        f"{gain:+.3f} mean Dice to nnU-Net alone, in {format_seconds(result.seconds)} altogether. One draw of two "
        "labels on a phantom shows that everything runs, not what the unlabeled volumes are worth."
    )
    terminal.print_line(f"data, models and masks: {result.folder}")
    terminal.print_line(f"report: {result.report}")
