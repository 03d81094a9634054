"""Estimate what the runs of a study that are missing will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcl_auto.evaluation.statistics import mean
from pcl_auto.training.dry_run import estimate_training
from pcl_auto.training.request import resolve_run
from pcl_auto.workspace.folders import Workspace

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import BenchmarkRun, Study


@dataclass(frozen=True)
class StudyEstimate:
    """The time of the trainings that are missing, scoring not counted; None where nobody knows.

    ``known_from``: what the estimate rests on, or why there is none.
    """

    seconds: float | None
    known_from: str


def estimate_study(
    study: Study, workspace: Workspace, found: Mapping[str, Mapping[str, Any]], *, timed: bool
) -> StudyEstimate:
    """Estimate the runs of ``study`` that are not in ``found``, by those that are, or if ``timed`` by a few steps.

    Raises:
        PclautoError: see :func:`pcl_auto.training.request.resolve_run`.
    """
    missing = [run for run in study.runs if run.name not in found]
    if not missing:
        return StudyEstimate(0.0, "every run is done")
    if timed:
        return _by_steps(study, workspace, missing)
    seconds = {name: entry["seconds"] for name, entry in found.items() if isinstance(entry.get("seconds"), int | float)}
    if not seconds:
        return StudyEstimate(None, "--time-steps makes a few steps to tell")
    alike: dict[bool, list[float]] = {True: [], False: []}
    for run in study.runs:
        if run.name in seconds:
            alike[run.arm.baseline].append(seconds[run.name])
    per_run = [mean(alike[run.arm.baseline] or list(seconds.values())) for run in missing]
    return StudyEstimate(sum(per_run), "as the runs that are done")


def _by_steps(study: Study, workspace: Workspace, missing: list[BenchmarkRun]) -> StudyEstimate:
    """Time the parts of one run, a joint one if there is any, and count those of all."""
    one = next((run for run in missing if not run.arm.baseline), missing[0])
    request = study.job(one, workspace).request
    forecast = estimate_training(request, resolve_run(request, workspace))
    costs = forecast.costs
    if costs is None:
        return StudyEstimate(None, forecast.unknown)
    schedules = [(run, run.arm.recipe.schedule) for run in missing]
    total = sum(
        (costs.of_baseline() if run.arm.baseline else costs).forecast_s(schedule) for run, schedule in schedules
    )
    return StudyEstimate(total, f"timed here, at a glance, on {one.name}")
