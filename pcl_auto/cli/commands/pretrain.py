"""Define ``pclauto pretrain``: learn from images alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import TrainingProgress
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.run_record import REPORT

if TYPE_CHECKING:
    from pcl_auto.training.pretrain import PretrainingRun
    from pcl_auto.training.pretrain_request import PretrainRequest

# More steps than anybody waits for without a GPU.
LONG_ON_A_CPU = 10_000


def pretrain(
    dataset: Annotated[
        str | None,
        typer.Argument(help="A planned data set by name or number. Default: the one planned last.", metavar="DATASET"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="masked (fill in what is hidden) or contrastive. Default: the recipe's, masked.",
            metavar="METHOD",
            rich_help_panel=options.RECIPE_AND_LENGTH,
        ),
    ] = None,
    recipe: options.Recipe = "default",
    settings: options.Settings = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Pre-train so many epochs. Default: the recipe's.",
            min=1,
            max=options.MAX_EPOCHS,
            metavar="N",
            rich_help_panel=options.RECIPE_AND_LENGTH,
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            help="Learn from the images of this split's cases alone, so that test cases stay out. Default: all images.",
            dir_okay=False,
            metavar="FILE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the pre-training.", min=0, max=options.MAX_SEED, metavar="N")] = 0,
    device: options.Device = "auto",
    workspace_path: options.Workspace = None,
    configuration: options.Configuration = None,
    restart: options.Restart = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Let the network learn from all images of a data set, without any label.

    \b
      pclauto pretrain
      pclauto pretrain --method contrastive --epochs 100
      pclauto pretrain --recipe quick --device cpu
      pclauto train --labeled 2 --pretrained auto

    Give training the same recipe: it decides the network. Repeat the command to resume.
    """
    from pcl_auto.report.pretraining_page import write_pretraining_report
    from pcl_auto.training.pretrain import pretrain as pretrain_run
    from pcl_auto.training.pretrain_request import PretrainRequest, resolve_pretraining

    terminal, workspace = Terminal(), Workspace.find(workspace_path)
    request = PretrainRequest(
        dataset=dataset,
        method=method,
        recipe=recipe,
        settings=tuple(settings or ()),
        epochs=epochs,
        split_file=split,
        seed=seed,
        configuration=configuration,
    )
    run = resolve_pretraining(request, workspace)
    done = run.finished and not (restart or dry_run)
    _announce(terminal, run, workspace, "" if done else choose_device(device).type)
    if done:
        terminal.print_line("already done: it is checked that nothing has changed since (--restart begins anew)")
    if dry_run:
        terminal.print_line("dry run: nothing was written")
    else:
        with resumable(terminal), TrainingProgress(terminal) as progress:
            progress.begin(run.settings.epochs, run.settings.steps_per_epoch)
            run = pretrain_run(run, workspace, progress, device=device, restart=restart)
        terminal.print_line(f"weights: {run.folder}")
        if terminal.is_interactive and not (done and (run.folder / REPORT).is_file()):
            terminal.print_line(f"report: {write_pretraining_report(run.folder)}")
        terminal.print_line(f"next: {_train_command(run, request)}{workspace.option}")
    if json:
        terminal.json(_as_json(run))


def _announce(terminal: Terminal, run: PretrainingRun, workspace: Workspace, device: str) -> None:
    settings, chosen = run.settings, run.chosen
    patch = "×".join(str(int(size)) for size in chosen["patch_size"])
    on = f", on {device}" if device else ""
    terminal.print_line(f"workspace  {workspace.describe()}")
    terminal.print_line(f"data set   {run.data.name}, {run.configuration}{on}")
    whose = "of the plan" if run.split == "all" else f"of split {run.split}"
    terminal.print_line(f"images     {len(run.cases)} {whose}, no label")
    length = f"{settings.epochs} epochs of {settings.steps_per_epoch} steps"
    patches = f"{settings.patches or chosen['batch_size']} patches of {patch} voxels"
    terminal.print_line(f"recipe     {run.recipe.name}: {settings.method}, {length} of {patches}")
    if device == "cpu" and settings.epochs * settings.steps_per_epoch > LONG_ON_A_CPU:
        terminal.print_line("warning: so many steps take days to weeks on a CPU; see --recipe quick and --epochs")


def _train_command(run: PretrainingRun, request: PretrainRequest) -> str:
    """Return the training that begins with the weights: of the same network, on the same cases."""
    labeled = sum(case.label is not None for case in run.plan.cases.values())
    which = ["--labeled", str(min(2, labeled))] if labeled < len(run.plan.cases) else []
    words = [
        *(which if request.split_file is None else ["--split", str(request.split_file)]),
        *(["--recipe", str(request.recipe)] if request.recipe != "default" else []),
        # Those of the pre-training are none of a training's.
        *(word for change in request.settings if not change.startswith("pretraining.") for word in ("--set", change)),
        *(["--configuration", run.configuration] if run.configuration != run.plan.configuration else []),
    ]
    return shlex.join(["pclauto", "train", *words, "--pretrained", "auto"])


def _as_json(run: PretrainingRun) -> dict[str, Any]:
    return {
        "dataset": run.data.name,
        "configuration": run.configuration,
        "method": run.settings.method,
        "recipe": run.recipe.as_dict(),
        "split": run.split,
        "cases": list(run.cases),
        "seed": run.seed,
        "folder": str(run.folder),
        "finished": run.finished,
    }
