"""``pclauto benchmark``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pcl_auto.cli.interrupt import resumable
from pcl_auto.cli.options import DeviceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import BenchmarkRequest, Study
    from pcl_auto.benchmark.table import Row
    from pcl_auto.cli.terminal import Terminal
    from pcl_auto.run.workspace import DatasetFolder, Workspace


def benchmark(
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A planned data set, or a decathlon folder. Default: the one planned last."),
    ] = None,
    labeled: Annotated[str, typer.Option("--labeled", "-l", help="Numbers of labelled cases: 1,2,8.")] = "2",
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
    budget: Annotated[
        str, typer.Option(help="Recipe of optimiser, batch, network and steps, the same for every arm.")
    ] = "quick",
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Train so many epochs; the budget's parts keep their shares.", min=1),
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
    """Find out whether unlabelled scans help: recipes against nnU-Net on the same cases, steps and images.

    \b
      pclauto benchmark Task05_Prostate --labeled 1,2,8 --seeds 3
      pclauto benchmark --labeled 2 --arms supervised,paper,mine.toml --test labelsTs

    Repeat the command to resume; a finished run is not done again. Arms of one number of labels and one seed that
    augment alike share their supervised start, which is removed when all of them are done; the models stay,
    results.json says where. Test scans are segmented without mirroring unless asked for.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest, resolve_study
    from pcl_auto.cli.terminal import Terminal
    from pcl_auto.run.workspace import Workspace

    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    request = BenchmarkRequest(
        labeled=labeled,
        seeds=seeds,
        arms=arms,
        budget=budget,
        epochs=epochs,
        test_labels=test,
        test_images=test_images,
        configuration=configuration,
        mirroring=mirroring,
        device=device,
        workers=workers,
        folder=folder,
    )
    study = resolve_study(request, _planned(terminal, dataset, request, place, dry_run=dry_run), place)
    _announce(terminal, study)
    if dry_run:
        found = study.recorded()
        for run in study.runs:
            terminal.say(f"  {run.name}{'  done before' if run.name in found else ''}")
        terminal.say("dry run: nothing was written")
        return
    rows, results = _run(terminal, study, place)
    if json:
        terminal.json(results)
    else:
        _render(terminal, rows)
    terminal.say(f"results: {study.folder / 'results.json'}, results.csv and results.png beside it")


def _planned(
    terminal: Terminal, name: str | None, request: BenchmarkRequest, place: Workspace, *, dry_run: bool
) -> DatasetFolder:
    """The data set, planned with the defaults if it was not; a request that cannot be is refused before that."""
    from pcl_auto.benchmark.held_out import folder_problems
    from pcl_auto.benchmark.study import find_planned, request_problems
    from pcl_auto.cli.plan import memory_to_plan_for
    from pcl_auto.cli.progress import counting
    from pcl_auto.data.decathlon import find_task
    from pcl_auto.errors import Problem, StateError, UsageError
    from pcl_auto.planning.plan import PlanSettings
    from pcl_auto.planning.prepare import plan_task

    data = find_planned(name, place)
    if data is not None or name is None:
        return data or place.dataset(None)
    problems = request_problems(request)
    try:
        data_folder = [Path(os.environ["PCLAUTO_DATA"])] if "PCLAUTO_DATA" in os.environ else []
        root = find_task(name, [Path.cwd(), *data_folder, place.raw.parent])
    except UsageError as error:
        raise UsageError([*error.problems, *problems]) from None
    problems += folder_problems(request.test_images or root / "imagesTs", request.test_labels or root / "labelsTs")
    if problems:
        raise UsageError(problems)
    if dry_run:
        raise StateError(
            Problem("the data set has no plan yet", str(root), "run `pclauto plan` first, or leave out --dry-run")
        )
    memory_gb, reason = memory_to_plan_for(None, "default")
    terminal.say(f"planning {root.name} for {memory_gb:g} GB ({reason})")
    with counting(terminal, {"check": "checking files", "preprocess": "preprocessing images"}) as listener:
        outcome = plan_task(root, place, PlanSettings(memory_gb=memory_gb), listener=listener)
    terminal.problems(outcome.warnings, "warning")
    return outcome.data


def _announce(terminal: Terminal, study: Study) -> None:
    schedule = study.budget.schedule
    terminal.say(f"data set   {study.data.name}, {study.configuration}; {len(study.held_out.scans)} test cases")
    terminal.say(
        f"budget     {study.budget.name}: {schedule.epochs} epochs of {schedule.steps_per_epoch} steps for every arm, "
        f"{schedule.supervised_epochs} of them before the rounds"
    )
    for arm in study.arms:
        own = arm.recipe.schedule
        if arm.supervised_only:
            what = "nnU-Net on the labelled cases alone"
        else:
            what = f"{own.rounds} rounds of {own.epochs_per_round} epochs" if own.rounds else "no rounds"
        terminal.say(f"arm        {arm.name}: {what}")
    terminal.say(f"runs       {len(study.runs)}, test scans {'' if study.mirroring else 'not '}mirrored")
    terminal.say(f"folder     {study.folder}")


def _run(terminal: Terminal, study: Study, place: Workspace) -> tuple[list[Row], dict[str, Any]]:
    """Do the runs; the results are written anew after each, so that a study that is cut short has them."""
    from pcl_auto.benchmark.plot import draw
    from pcl_auto.benchmark.study import run_study
    from pcl_auto.benchmark.table import as_csv, as_json, make_rows
    from pcl_auto.cli.progress import TrainingProgress
    from pcl_auto.nnunet.environment import choose_device
    from pcl_auto.run.files import finite, write_json, write_text

    choose_device(study.device)

    def write(found: dict[str, dict[str, Any]]) -> None:
        rows = make_rows(study, found)
        write_json(study.folder / "results.json", finite(as_json(study, found, rows)))
        write_text(study.folder / "results.csv", as_csv(found))
        draw(rows, study.data.name, study.folder / "results.png")

    schedule = study.budget.schedule
    with resumable(terminal), TrainingProgress(terminal) as progress:
        progress.begin(schedule.epochs, schedule.steps_per_epoch)
        found = run_study(study, place, say=terminal.say, listener=progress, after_each=write)
    rows = make_rows(study, found)
    return rows, as_json(study, found, rows)


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

    from pcl_auto.cli.terminal import cell

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
