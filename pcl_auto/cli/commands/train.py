"""``pclauto train``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.options import DeviceOption, JsonOption, WorkspaceOption
from pcl_auto.cli.launcher import start_ranks

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.training.continuation import Continuation
    from pcl_auto.training.dry_run import TrainingEstimate
    from pcl_auto.training.request import Run, TrainRequest
    from pcl_auto.workspace.folders import Workspace


def _recipes() -> list[str]:
    """What a shell completes; a file is completed by the shell itself."""
    return ["default", "paper", "quick"]


def train(
    dataset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A planned data set by name or number. Default: the one planned last."),
    ] = None,
    labeled: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--labeled", "-l", help="Use the labels of so many cases, drawn by --seed. Default: all.", min=1),
    ] = None,
    labeled_cases: Annotated[str, typer.Option(help="Use the labels of these cases: a,b,c.")] = "",
    split: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help='Use this split: JSON with "labeled" and, if wanted, "validation".', dir_okay=False),
    ] = None,
    validation: Annotated[
        int, typer.Option(help="Hold out so many labeled cases to choose the model with.", min=0)
    ] = 0,
    folds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Cross-validate over the labeled cases; predict with all of these models.", min=2),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of the training.", min=0)] = 0,
    recipe: Annotated[
        str, typer.Option(help="default, paper, quick, or a TOML file.", autocompletion=_recipes)
    ] = "default",
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Train so many epochs; the recipe's parts keep their shares.", min=1),
    ] = None,
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Be done in this time, 2h or 1h30m: the recipe is fitted to it, for --supervised-only with it.",
            metavar="TIME",
        ),
    ] = None,
    configuration: Annotated[Optional[str], typer.Option(help="A planned configuration. Default: the plan's.")] = None,  # noqa: UP045
    pretrained: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Begin the rounds with this model, nnU-Net's or ours: a checkpoint or its folder.", exists=True
        ),
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the masks that were corrected after `pclauto review`.")
    ] = False,
    corrected: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="With --continue: the review's folder, where it was moved since.", file_okay=False, exists=True
        ),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With --continue: the model to go on from. Default: as in `pclauto predict`."),
    ] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="The baseline: nnU-Net on the labeled cases, as many steps.")
    ] = False,
    device: DeviceOption = "auto",
    gpus: Annotated[
        int, typer.Option(help="Train on so many GPUs of this machine; each takes its share of every step.", min=1)
    ] = 1,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Processes that augment data, 0 for none. Default: one per core.", min=0),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same command, same bytes, on a CPU; slower.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an earlier run of these settings.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard too, into the run's folder.")
    ] = False,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Write split, plans and data for stock nnU-Net; train nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, write nothing.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Train on a few labels and all images; repeat the command to resume.

    \b
      pclauto train --labeled 2
      pclauto train --labeled 2 --supervised-only
      pclauto train --labeled 2 --recipe quick --device cpu
      pclauto train --labeled 2 --budget 2h
      pclauto train --continue
    """
    from pcl_auto.cli.console.progress import TrainingProgress
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.nnunet.environment import choose_device
    from pcl_auto.training.request import TrainRequest, resolve_runs
    from pcl_auto.training.train import train as train_run
    from pcl_auto.workspace.folders import Workspace
    from pcl_auto.workspace.processes import started_ranks

    if gpus > 1 and started_ranks() == 1:
        _require_gpus(device)
        start_ranks(gpus, sys.argv[1:])
    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    request = TrainRequest(
        dataset=dataset,
        labeled=labeled,
        labeled_cases=tuple(filter(None, (name.strip() for name in labeled_cases.split(",")))),
        split_file=split,
        validation=validation,
        seed=seed,
        recipe=recipe,
        epochs=epochs,
        budget=budget,
        configuration=configuration,
        device=device,
        workers=workers,
        supervised_only=supervised_only,
        deterministic=deterministic,
        folds=folds,
        pretrained=pretrained,
        tensorboard=tensorboard,
        restart=restart,
        prepare_only=prepare_only,
    )
    if go_on or corrected is not None or model is not None:
        _refuse_with_continue(
            go_on=go_on,
            dataset=dataset,
            settled=[labeled, labeled_cases, split, validation, folds, pretrained, budget, configuration, seed],
            others=[supervised_only, prepare_only, recipe != "default"],
        )
        found = _continued(terminal, request, place, model, corrected, write=not dry_run)
        if dry_run:
            _foresee_continuation(terminal, found, json=json)
            return
        request = found.request
    run = resolve_runs(request, place)[-1]
    _announce(terminal, run, str(choose_device(device)), supervised_only=supervised_only)
    if folds is not None:
        terminal.print_line(f"folds      {folds}, each a model that does not learn from its part of the labeled cases")
    forecast = _foresee(terminal, request, run) if dry_run else None
    if forecast is None:
        with resumable(terminal), TrainingProgress(terminal) as progress:
            progress.begin(run.recipe.schedule.epochs, run.recipe.schedule.steps_per_epoch)
            run = train_run(request, place, progress)
        _say_done(terminal, run, place, prepare_only=prepare_only)
    if json:
        terminal.json({**_as_json(run), **({} if forecast is None else {"forecast": asdict(forecast)})})


def _refuse_with_continue(*, go_on: bool, dataset: str | None, settled: list[Any], others: list[bool]) -> None:
    """What the run that is gone on from has settled cannot be asked for again."""
    from pcl_auto.errors import Problem, UsageError

    if not go_on:
        raise UsageError(
            Problem(
                "run.options-need-continue",
                "--corrected and --model belong to --continue",
                "pclauto train",
                "add --continue",
            )
        )
    if dataset is not None or any(settled) or any(others):
        fix = (
            "leave out everything but --epochs, --device, --workers, --restart, --tensorboard, --model and --corrected"
        )
        raise UsageError(
            Problem("run.settled-by-continue", "the corrected run has settled its cases and recipe", "--continue", fix)
        )


def _continued(
    terminal: Terminal,
    request: TrainRequest,
    place: Workspace,
    model: str | None,
    corrected: Path | None,
    *,
    write: bool,
) -> Continuation:
    from pcl_auto.training.continuation import continuation
    from pcl_auto.training.models import find_model

    found = continuation(find_model(place, model), place, request, corrected=corrected, write=write)
    terminal.print_line(f"going on   from {found.model}")
    if found.folds > 1:
        terminal.print_line(
            f"           {found.folds} folds: from the network of the first, on all labeled cases, to one model"
        )
    for case, mask in found.masks.items():
        terminal.print_line(f"corrected  {case}: {mask}")
    return found


def _foresee_continuation(terminal: Terminal, found: Continuation, *, json: bool) -> None:
    from pcl_auto.recipe.time_budget import format_duration

    schedule, split = found.recipe.schedule, found.split
    terminal.print_line(f"labeled   {len(split.labeled)}, unlabeled {len(split.unlabeled)}")
    terminal.print_line(
        f"length     {schedule.epochs} epochs of {schedule.steps_per_epoch} steps, {schedule.rounds} rounds of "
        f"{schedule.epochs_per_round}"
    )
    told = (
        "unknown"
        if found.wall_s is None
        else f"{format_duration(found.wall_s)} if it goes as the last epochs of that run"
    )
    terminal.print_line(f"time       {told}")
    terminal.print_line("dry run: nothing was written")
    if json:
        terminal.json(
            {
                "model": str(found.model),
                "corrected": {case: str(mask) for case, mask in found.masks.items()},
                "recipe": found.recipe.as_dict(),
                "split": split.as_dict(),
                "wall_s": found.wall_s,
            }
        )


def _foresee(terminal: Terminal, request: TrainRequest, run: Run) -> TrainingEstimate:
    from pcl_auto.cli.console.estimates import training_lines
    from pcl_auto.nnunet.environment import choose_device
    from pcl_auto.training.dry_run import estimate_training

    terminal.print_line("timing     a few steps on this machine, if the images are preprocessed …")
    forecast = estimate_training(request, run)
    for line in training_lines(forecast, on_gpu=choose_device(request.device).type == "cuda"):
        terminal.print_line(line)
    terminal.print_line("dry run: nothing was written")
    return forecast


def _say_done(terminal: Terminal, run: Run, place: Workspace, *, prepare_only: bool) -> None:
    from pcl_auto.training.models import options

    if prepare_only:
        stock = f"nnUNetv2_train {run.data.id} {run.configuration} all -p {run.plans_name}"
        terminal.print_line(f"stock nnU-Net on the labeled cases: {stock}")
    else:
        terminal.print_line(f"model: {run.model}")
        if terminal.is_interactive:
            _report(terminal, run, place)
        which = options(place, run.model, baseline=True)
        terminal.print_line(f"next: pclauto predict NEW_SCAN.nii.gz -o out/{which}")


def _report(terminal: Terminal, run: Run, place: Workspace) -> None:
    """The run's report; whatever is wrong with it, the training is done and its model good."""
    from pcl_auto.report.page import write_report

    try:
        terminal.print_line(f"report: {write_report(run.folder, place)}")
    except Exception as error:  # noqa: BLE001
        terminal.print_line(f"warning: no report: {error}; `pclauto report` tries again")


def _require_gpus(device: str) -> None:
    """--gpus without a GPU is a mistake; with --device cpu it is a test."""
    from pcl_auto.errors import Problem, UsageError
    from pcl_auto.nnunet.environment import choose_device

    if choose_device(device).type != "cuda" and device != "cpu":
        raise UsageError(Problem("device.no-gpu", "no GPU on this machine", "--gpus", "leave it out"))


def _announce(terminal: Terminal, run: Run, device: str, *, supervised_only: bool) -> None:
    split, schedule = run.split, run.recipe.schedule
    terminal.print_line(f"data set   {run.data.name}, {run.configuration}, on {device}")
    terminal.print_line(
        f"labeled   {len(split.labeled)}: {', '.join(split.labeled[:8])}{' …' if len(split.labeled) > 8 else ''}"
    )
    if split.validation:
        terminal.print_line(f"validation {len(split.validation)}: {', '.join(split.validation)}")
    hidden = f", {len(split.hidden)} of them with labels that stay closed" if split.hidden else ""
    terminal.print_line(f"unlabeled {len(split.unlabeled)}{hidden}")
    terminal.print_line(f"split      {run.data.split_file(split.name)} (seed {split.seed})")
    if run.budget_s is not None and run.fitted is None:
        terminal.print_line(f"recipe     {run.recipe.name}, its length fitted to the budget once steps have been timed")
        return
    length = f"{schedule.epochs} epochs of {schedule.steps_per_epoch} steps"
    if supervised_only:
        terminal.print_line(f"recipe     {run.recipe.name}, nnU-Net on the labeled cases alone: {length}")
    elif not split.unlabeled:
        terminal.print_line(
            f"recipe     {run.recipe.name}; no unlabeled cases, so nnU-Net on the labeled ones: {length}"
        )
    else:
        terminal.print_line(
            f"recipe     {run.recipe.name}: {length}, {schedule.supervised_epochs} supervised, "
            f"then {schedule.rounds} rounds of {schedule.epochs_per_round}"
        )


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
    }
