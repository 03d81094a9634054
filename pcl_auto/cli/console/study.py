"""Carry out a study, from its data set to its results, for ``pclauto benchmark`` and ``pclauto sweep``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pcl_auto.cli.console.estimates import rounds_in_words
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import TrainingProgress, counting
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.planning.plan import PlanSettings, memory_to_plan_for
from pcl_auto.recipe.time_budget import format_duration
from pcl_auto.workspace.folders import DatasetFolder, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pcl_auto.benchmark.study import BenchmarkRequest, Study
    from pcl_auto.benchmark.table import Row


def carry_out(
    dataset: str | None,
    request: BenchmarkRequest,
    workspace_path: Path | None,
    render: Callable[[Terminal, Study, list[Row]], None],
    *,
    more: Callable[[list[Row]], dict[str, Any]] = lambda _rows: {},
    dry_run: bool,
    time_steps: bool,
    json: bool,
) -> None:
    """Settle a study, do its runs and show the results; for a dry run list the runs.

    The results are written anew after each run, so that a study that is cut short has them.

    Args:
        dataset: a planned data set, or one that is to be planned; None for the one planned last.
        request: what the study compares.
        workspace_path: as the option has it.
        render: prints the results.
        more: what JSON has beside the results.
        dry_run: whether the runs are listed only.
        time_steps: whether a few steps are made for that, to tell how long the runs will take.
        json: whether JSON is printed instead.

    Raises:
        PclautoError: what does not fit, before anything is done; what stops a run.
    """
    from pcl_auto.benchmark.check_test_cases import check_test_cases
    from pcl_auto.benchmark.plot import write_results
    from pcl_auto.benchmark.study import resolve_study, run_study

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    study = resolve_study(request, _planned(terminal, dataset, request, workspace, dry_run=dry_run), workspace)
    terminal.print_line(f"workspace  {workspace.describe()}")
    _announce(terminal, study)
    if len(study.recorded()) < len(study.runs):
        terminal.problems(check_test_cases(study.held_out, study.plan, study.data), "warning")
    if dry_run:
        _list_runs(terminal, study, workspace, timed=time_steps, json=json)
        return
    choose_device(study.device)
    schedule = study.base_recipe.schedule
    with resumable(terminal), TrainingProgress(terminal) as progress:
        progress.begin(schedule.epochs, schedule.steps_per_epoch)
        found = run_study(
            study,
            workspace,
            print_line=terminal.print_line,
            listener=progress,
            after_each=lambda done: write_results(study, done),
        )
    rows, results = write_results(study, found)
    if json:
        terminal.json({**results, **more(rows)})
    else:
        render(terminal, study, rows)
    terminal.print_line(f"results: {study.folder / 'results.json'}, results.csv and results.png beside it")


def _planned(
    terminal: Terminal, name: str | None, request: BenchmarkRequest, workspace: Workspace, *, dry_run: bool
) -> DatasetFolder:
    """Return the data set, planned with the defaults if it was not."""
    from pcl_auto.benchmark.study import find_planned, find_unplanned
    from pcl_auto.planning.make_plan import plan_task

    data = find_planned(name, workspace)
    if data is not None or name is None:
        return data or workspace.dataset(None)
    root = find_unplanned(name, request, workspace.data_folders())
    if dry_run:
        fix = "run `pclauto plan` first, or leave out --dry-run"
        raise StateError(Problem("plan.missing", "the data set has no plan yet", str(root), fix))
    memory_gb, reason = memory_to_plan_for(None, "default")
    terminal.print_line(f"planning {root.name} for {memory_gb:g} GB ({reason})")
    with counting(terminal, {"check": "checking files", "preprocess": "preprocessing images"}) as listener:
        outcome = plan_task(root, workspace, PlanSettings(memory_gb=memory_gb), listener=listener)
    terminal.problems(outcome.warnings, "warning")
    return outcome.data


def _announce(terminal: Terminal, study: Study) -> None:
    from pcl_auto.evaluation.statistics import MIN_DRAWS, explain_no_verdict

    schedule = study.base_recipe.schedule
    terminal.print_line(
        f"data set   {study.data.name}, {study.configuration}; {len(study.held_out.scans)} test cases"
        + (", labeled ones that no arm learns from" if study.held_out.of_pool else "")
    )
    terminal.print_line(
        f"base       {study.base_recipe.name}: {schedule.epochs} epochs of {schedule.steps_per_epoch} steps, every arm"
    )
    if study.changes:
        terminal.print_line(f"set        {', '.join(study.changes)}; in the base and in every recipe")
    for arm in study.arms:
        own = arm.recipe.schedule
        if arm.baseline:
            cases = "all labeled cases" if arm.all_labels else "the labeled cases alone"
            what = f"nnU-Net on {cases}, mirroring: {arm.recipe.augmentation.mirroring}"
        else:
            start = f"{own.supervised_epochs} supervised epochs"
            what = f"{start}, then {rounds_in_words(own)}" if own.rounds else "no rounds"
        terminal.print_line(f"arm        {arm.name}: {what}")
    shown = "that together show every class" if study.every_class else "whatever classes they show"
    few = f"; {explain_no_verdict(len(study.draws))}" if len(study.draws) < MIN_DRAWS else ""
    terminal.print_line(f"draws      {len(study.draws)} of labeled cases {shown}, each the same in every arm{few}")
    terminal.print_line(f"runs       {len(study.runs)}, test scans {'' if study.mirroring else 'not '}mirrored")
    terminal.print_line(f"folder     {study.folder}")


def _list_runs(terminal: Terminal, study: Study, workspace: Workspace, *, timed: bool, json: bool) -> None:
    from pcl_auto.benchmark.study_estimate import estimate_study

    found = study.recorded()
    for run in study.runs:
        terminal.print_line(f"  {run.name}{'  done before' if run.name in found else ''}")
    if timed:
        terminal.print_line("timing     a few steps on this machine, if the images are preprocessed …")
    forecast = estimate_study(study, workspace, found, timed=timed)
    about = "unknown" if forecast.seconds is None else f"about {format_duration(forecast.seconds)} of training"
    terminal.print_line(f"time       {about}: {forecast.known_from}; then {len(study.held_out.scans)} test cases a run")
    if json:
        runs = [
            {"name": run.name, "arm": run.arm.name, "labeled": run.labeled, "draw": run.draw, "done": run.name in found}
            for run in study.runs
        ]
        terminal.json({"folder": str(study.folder), "runs": runs, "forecast": asdict(forecast)})
    terminal.print_line("dry run: nothing was written")
