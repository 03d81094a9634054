"""What ``pclauto benchmark`` and ``pclauto sweep`` have in common: a study, from its data set to its results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pcl_auto.cli.console.interrupt import resumable

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import BenchmarkRequest, Study
    from pcl_auto.benchmark.table import Row
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.workspace.folders import DatasetFolder, Workspace


def carry_out(
    terminal: Terminal, dataset: str | None, request: BenchmarkRequest, place: Workspace, *, dry_run: bool, json: bool
) -> tuple[Study, list[Row], dict[str, Any]] | None:
    """Settle a study, show it and do its runs; list them for a dry run, as JSON too if asked, and return None.

    Raises:
        PclautoError: what does not fit, before anything is done; what stops a run.
    """
    from pcl_auto.benchmark.study import resolve_study

    study = resolve_study(request, _planned(terminal, dataset, request, place, dry_run=dry_run), place)
    _announce(terminal, study)
    if dry_run:
        found = study.recorded()
        for run in study.runs:
            terminal.print_line(f"  {run.name}{'  done before' if run.name in found else ''}")
        if json:
            runs = [
                {"name": run.name, "arm": run.arm.name, "labeled": run.labeled, "seed": run.seed,
                 "done": run.name in found}
                for run in study.runs
            ]  # fmt: skip
            terminal.json({"folder": str(study.folder), "runs": runs})
        terminal.print_line("dry run: nothing was written")
        return None
    return study, *_run(terminal, study, place)


def _planned(
    terminal: Terminal, name: str | None, request: BenchmarkRequest, place: Workspace, *, dry_run: bool
) -> DatasetFolder:
    """The data set, planned with the defaults if it was not; a request that cannot be is refused before that."""
    from pcl_auto.benchmark.study import find_planned, request_problems
    from pcl_auto.benchmark.test_cases import folder_problems
    from pcl_auto.cli.console.progress import counting
    from pcl_auto.data.dataset.decathlon import find_task
    from pcl_auto.errors import Problem, StateError, UsageError
    from pcl_auto.planning.make_plan import plan_task
    from pcl_auto.planning.plan import PlanSettings, memory_to_plan_for

    data = find_planned(name, place)
    if data is not None or name is None:
        return data or place.dataset(None)
    problems = request_problems(request)
    try:
        root = find_task(name, place.data_folders(os.environ))
    except UsageError as error:
        raise UsageError([*error.problems, *problems]) from None
    if not request.test_cases:
        problems += folder_problems(request.test_images or root / "imagesTs", request.test_labels or root / "labelsTs")
    if problems:
        raise UsageError(problems)
    if dry_run:
        raise StateError(
            Problem(
                "plan.missing",
                "the data set has no plan yet",
                str(root),
                "run `pclauto plan` first, or leave out --dry-run",
            )
        )
    memory_gb, reason = memory_to_plan_for(None, "default")
    terminal.print_line(f"planning {root.name} for {memory_gb:g} GB ({reason})")
    with counting(terminal, {"check": "checking files", "preprocess": "preprocessing images"}) as listener:
        outcome = plan_task(root, place, PlanSettings(memory_gb=memory_gb), listener=listener)
    terminal.problems(outcome.warnings, "warning")
    return outcome.data


def _announce(terminal: Terminal, study: Study) -> None:
    schedule = study.base_recipe.schedule
    terminal.print_line(
        f"data set   {study.data.name}, {study.configuration}; {len(study.held_out.scans)} test cases"
        + (", labeled ones that no arm learns from" if study.held_out.of_pool else "")
    )
    terminal.print_line(
        f"base       {study.base_recipe.name}: {schedule.epochs} epochs of {schedule.steps_per_epoch} steps for "
        f"every arm, {schedule.supervised_epochs} of them before the rounds"
    )
    for arm in study.arms:
        own = arm.recipe.schedule
        if arm.supervised_only:
            what = "nnU-Net on the labeled cases alone"
        else:
            what = f"{own.rounds} rounds of {own.epochs_per_round} epochs" if own.rounds else "no rounds"
        terminal.print_line(f"arm        {arm.name}: {what}")
    terminal.print_line(f"runs       {len(study.runs)}, test scans {'' if study.mirroring else 'not '}mirrored")
    terminal.print_line(f"folder     {study.folder}")


def _run(terminal: Terminal, study: Study, place: Workspace) -> tuple[list[Row], dict[str, Any]]:
    """Do the runs; the results are written anew after each, so that a study that is cut short has them."""
    from pcl_auto.benchmark.plot import draw
    from pcl_auto.benchmark.study import run_study
    from pcl_auto.benchmark.table import as_csv, as_json, make_rows
    from pcl_auto.cli.console.progress import TrainingProgress
    from pcl_auto.nnunet.environment import choose_device
    from pcl_auto.workspace.files import finite, write_json, write_text

    choose_device(study.device)

    def write(found: dict[str, dict[str, Any]]) -> None:
        rows = make_rows(study, found)
        write_json(study.folder / "results.json", finite(as_json(study, found, rows)))
        write_text(study.folder / "results.csv", as_csv(found))
        draw(rows, study.data.name, study.folder / "results.png")

    schedule = study.base_recipe.schedule
    with resumable(terminal), TrainingProgress(terminal) as progress:
        progress.begin(schedule.epochs, schedule.steps_per_epoch)
        found = run_study(study, place, say=terminal.print_line, listener=progress, after_each=write)
    rows = make_rows(study, found)
    return rows, as_json(study, found, rows)
