"""Define ``pclauto train``, and what ``pclauto continue`` shares with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.estimates import rounds_in_words
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import TrainingProgress
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.cli.console.verdict import show_verdict
from pcl_auto.cli.gpu_processes import start_ranks
from pcl_auto.errors import Problem, UsageError
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.processes import started_ranks
from pcl_auto.workspace.run_record import REPORT, read_record

if TYPE_CHECKING:
    from pcl_auto.training.dry_run import TrainingEstimate
    from pcl_auto.training.request import Run, TrainRequest

LEARN_FROM = "What to learn from"
# More steps than anybody waits for without a GPU.
LONG_ON_A_CPU = 50_000


def train(
    dataset: Annotated[
        str | None,
        typer.Argument(help="A planned data set by name or number. Default: the one planned last.", metavar="DATASET"),
    ] = None,
    labeled: Annotated[
        int | None,
        typer.Option(
            "--labeled",
            "-l",
            help="Use the labels of so many cases, drawn by --seed. Default: all.",
            min=1,
            max=options.MAX_CASES,
            metavar="N",
            rich_help_panel=LEARN_FROM,
        ),
    ] = None,
    labeled_cases: Annotated[
        str, typer.Option(help="Use the labels of these cases: a,b,c.", metavar="CASES", rich_help_panel=LEARN_FROM)
    ] = "",
    split: Annotated[
        Path | None,
        typer.Option(
            help='Use this split: JSON with "labeled" and, if wanted, "validation" and "unlabeled".',
            dir_okay=False,
            metavar="FILE",
            rich_help_panel=LEARN_FROM,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the draw and of the training.",
            min=0,
            max=options.MAX_SEED,
            metavar="N",
            rich_help_panel=LEARN_FROM,
        ),
    ] = 0,
    supervised_only: Annotated[
        bool,
        typer.Option(
            "--supervised-only",
            help="Train the baseline: nnU-Net on the labeled cases, for as many steps.",
            rich_help_panel=LEARN_FROM,
        ),
    ] = False,
    validation: Annotated[
        int,
        typer.Option(
            help="Hold out so many labeled cases to choose the model with.",
            min=0,
            max=options.MAX_CASES,
            metavar="N",
            rich_help_panel=LEARN_FROM,
        ),
    ] = 0,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validate over the labeled cases; predict with all of these models.",
            min=2,
            max=options.MAX_CASES,
            metavar="N",
            rich_help_panel=LEARN_FROM,
        ),
    ] = None,
    pretrained: options.Pretrained = "",
    start_from: Annotated[
        Path | None,
        typer.Option(
            help="Begin the rounds with this model of the same classes: a checkpoint or its folder.",
            exists=True,
            metavar="PATH",
            rich_help_panel=LEARN_FROM,
        ),
    ] = None,
    initial_pseudo_labels: Annotated[
        Path | None,
        typer.Option(
            help="Begin with the masks CASE.nii.gz of unlabeled cases in this folder, made by any other tool.",
            exists=True,
            file_okay=False,
            metavar="FOLDER",
            rich_help_panel=LEARN_FROM,
        ),
    ] = None,
    recipe: options.Recipe = "default",
    settings: options.Settings = None,
    epochs: options.Epochs = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Be done in this time: 2h, 1h30m. The recipe's length is fitted to it.",
            metavar="TIME",
            rich_help_panel=options.RECIPE_AND_LENGTH,
        ),
    ] = None,
    device: options.Device = "auto",
    gpus: options.Gpus = 1,
    workers: options.Workers = None,
    workspace_path: options.Workspace = None,
    configuration: options.Configuration = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Same command, same bytes: on a machine of one kind, with the same versions and threads; slower.",
            rich_help_panel=options.ADVANCED,
        ),
    ] = False,
    tensorboard: options.Tensorboard = False,
    prepare_only: Annotated[
        bool,
        typer.Option(
            "--prepare-only",
            help="Write split, plans and data for stock nnU-Net; train nothing.",
            rich_help_panel=options.ADVANCED,
        ),
    ] = False,
    restart: options.Restart = False,
    dry_run: options.DryRun = False,
    time_steps: options.TimeSteps = False,
    json: options.Json = False,
) -> None:
    """Train on a few labels and all images; repeat the command to resume.

    \b
      pclauto train --labeled 2
      pclauto train --labeled 2 --supervised-only
      pclauto train --labeled 2 --recipe quick --device cpu
      pclauto train --labeled 2 --budget 2h
      pclauto train --labeled 2 --set contrast.weight=0.2
      pclauto train --labeled 2 --pretrained weights/ResEncL
    """
    from pcl_auto.training.request import TrainRequest

    start_on(gpus, device)
    request = TrainRequest(
        dataset=dataset,
        labeled=labeled,
        labeled_cases=options.split_names(labeled_cases),
        split_file=split,
        validation=validation,
        seed=seed,
        recipe=recipe,
        settings=tuple(settings or ()),
        epochs=epochs,
        budget=budget,
        configuration=configuration,
        device=device,
        workers=workers,
        supervised_only=supervised_only,
        deterministic=deterministic,
        folds=folds,
        pretrained=pretrained,
        start_from=start_from,
        initial_pseudo_labels=initial_pseudo_labels,
        tensorboard=tensorboard,
        restart=restart,
        prepare_only=prepare_only,
    )
    carry_out(Terminal(), request, Workspace.find(workspace_path), dry_run=dry_run, time_steps=time_steps, json=json)


def start_on(gpus: int, device: str) -> None:
    """Go on in a process for each of several GPUs, and end with them; return where this is such a process.

    Raises:
        UsageError: several GPUs where there is none; with --device cpu it is a test.
    """
    if gpus == 1 or started_ranks() > 1:
        return
    if choose_device(device).type != "cuda" and device != "cpu":
        raise UsageError(Problem("device.no-gpu", "no GPU on this machine", "--gpus", "leave it out"))
    start_ranks(gpus, sys.argv[1:])


def carry_out(
    terminal: Terminal,
    request: TrainRequest,
    workspace: Workspace,
    *,
    dry_run: bool = False,
    time_steps: bool = False,
    json: bool,
    warnings: Sequence[Problem] = (),
) -> None:
    """Show what is trained, train it and name the model; or for a dry run show what that would take.

    A dry run takes no time but with ``time_steps``.

    ``warnings`` have been shown; they join those of the run in its JSON.
    """
    from pcl_auto.training.request import resolve_runs
    from pcl_auto.training.train import train_runs

    runs = resolve_runs(request, workspace)
    run = runs[-1]
    done = all(each.finished for each in runs) and not (request.restart or request.prepare_only or dry_run)
    # To look at the devices takes torch, whose import takes longer than the check of a finished training.
    _announce(terminal, run, request, workspace, "" if done else str(choose_device(request.device)))
    if done:
        terminal.print_line("already trained: it is checked that nothing has changed since (--restart trains anew)")
    forecast = _estimate(terminal, request, run, timed=time_steps) if dry_run else None
    if forecast is None:
        with resumable(terminal), TrainingProgress(terminal) as progress:
            progress.begin(run.recipe.schedule.epochs, run.recipe.schedule.steps_per_epoch)
            run = train_runs(runs, request, workspace, progress)
        _print_next(terminal, run, workspace, prepare_only=request.prepare_only, done=done)
    if json:
        found = _as_json(run)
        if run.pretrained is not None:
            found["pretrained"] = forecast.pretrained if forecast else read_record(run.folder).get("pretrained")
        found["warnings"] = [*(problem.as_dict() for problem in warnings), *found["warnings"]]
        terminal.json({**found, **({} if forecast is None else {"forecast": asdict(forecast)})})


def _estimate(terminal: Terminal, request: TrainRequest, run: Run, *, timed: bool) -> TrainingEstimate:
    from pcl_auto.cli.console.estimates import training_lines
    from pcl_auto.training.dry_run import estimate_training

    if run.finished and not request.restart:
        terminal.print_line("already trained: the command would only check it; this is what --restart would take")
    if timed:
        terminal.print_line("timing     a few steps on this machine, if the images are preprocessed …")
    forecast = estimate_training(request, run, timed=timed)
    for line in training_lines(forecast, on_gpu=choose_device(request.device).type == "cuda"):
        terminal.print_line(line)
    terminal.print_line("dry run: nothing was written")
    return forecast


def _print_next(terminal: Terminal, run: Run, workspace: Workspace, *, prepare_only: bool, done: bool) -> None:
    from pcl_auto.training.find_model import model_options

    if prepare_only:
        stock = f"nnUNetv2_train {run.data.id} {run.configuration} all -p {run.plans_name}"
        terminal.print_line(f"stock nnU-Net on the labeled cases: {stock}")
        return
    terminal.print_line(f"model: {run.model}")
    if terminal.is_interactive:
        _report(terminal, run, workspace, done=done)
    which = model_options(workspace, run.model, baseline=True)
    terminal.print_line(f"next: pclauto predict NEW_SCAN.nii.gz -o out/{which}")


def _report(terminal: Terminal, run: Run, workspace: Workspace, *, done: bool) -> None:
    """Write the run's report and name it, or warn of what is wrong with it; say what the run shows.

    If the run was ``done`` before, the report that it left is named: to draw its scans takes torch.
    """
    report: Path | None = run.folder / REPORT
    if done and (run.folder / REPORT).is_file():
        terminal.print_line(f"report: {report}, of before (`pclauto report` writes it anew)")
    else:
        from pcl_auto.report.page import report_of_training

        report, why_none = report_of_training(run.folder, workspace)
        terminal.print_line(f"report: {report}" if report else f"warning: {why_none}")
    if report:
        show_verdict(terminal, run.folder, workspace)


def _announce(terminal: Terminal, run: Run, request: TrainRequest, workspace: Workspace, device: str) -> None:
    split = run.split
    terminal.print_line(f"workspace  {workspace.describe()}")
    on = f", on {device}" if device else ""
    terminal.print_line(f"data set   {run.data.name}, {run.configuration}{on}")
    terminal.print_line(
        f"labeled    {len(split.labeled)}: {', '.join(split.labeled[:8])}{' …' if len(split.labeled) > 8 else ''}"
    )
    if split.validation:
        terminal.print_line(f"validation {len(split.validation)}: {', '.join(split.validation)}")
    hidden = f", {len(split.hidden)} of them with labels that stay closed" if split.hidden else ""
    terminal.print_line(f"unlabeled  {len(split.unlabeled)}{hidden}")
    if run.initial.files:
        terminal.print_line(f"begins with {len(run.initial.files)} masks of unlabeled cases as pseudo-labels")
    terminal.print_line(f"split      {run.data.split_file(split.name)} (seed {split.seed})")
    terminal.print_line(f"recipe     {run.recipe.name}{_length(run, supervised_only=request.supervised_only)}")
    if request.settings:
        terminal.print_line(f"set        {', '.join(request.settings)}")
    terminal.problems(run.warnings, "warning")
    steps = run.recipe.schedule.epochs * run.recipe.schedule.steps_per_epoch
    if device == "cpu" and steps > LONG_ON_A_CPU and run.budget_s is None:
        terminal.print_line(f"warning: {steps} steps take days to months on a CPU; see --recipe quick and --budget")
    if request.folds is not None:
        terminal.print_line(
            f"folds      {request.folds}, each a model that does not learn from its part of the labeled cases"
        )


def _length(run: Run, *, supervised_only: bool) -> str:
    """Return what follows the recipe's name: how long the training is, and what it learns from."""
    schedule = run.recipe.schedule
    if run.budget_s is not None and run.fitted is None:
        return ", its length fitted to the budget once steps have been timed"
    length = f"{schedule.epochs} epochs of {schedule.steps_per_epoch} steps"
    if supervised_only:
        return f", nnU-Net on the labeled cases alone: {length}"
    if not run.split.unlabeled:
        return f"; no unlabeled cases, so nnU-Net on the labeled ones: {length}"
    rounds = f"then {rounds_in_words(schedule)}"
    return f": {length}, {schedule.supervised_epochs} supervised, {rounds}"


def _as_json(run: Run) -> dict[str, Any]:
    return {
        "dataset": run.data.name,
        "configuration": run.configuration,
        "trainer": run.trainer,
        "plans": run.plans_name,
        "recipe": run.recipe.as_dict(),
        "split": run.split.as_dict(),
        "split_file": str(run.data.split_file(run.split.name)),
        "model": str(run.model),
        "finished": run.finished,
        "warnings": [problem.as_dict() for problem in run.warnings],
    }
