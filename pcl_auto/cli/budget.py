"""How a schedule that was fitted to a budget of time is told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pcl_auto.budget import spelled
from pcl_auto.recipe import Schedule

if TYPE_CHECKING:
    from pcl_auto.budget import Fitted


def fitted_lines(fitted: Fitted, *, fresh: bool, joint: bool) -> list[str]:
    """What was timed and chosen, and, for a run that begins, when it should be done."""
    costs, schedule, own = fitted.costs, fitted.schedule, Schedule(**fitted.recipe["schedule"])
    timed = f"timed      {costs.supervised_step_s:.3g} s a step"
    if schedule.rounds:
        timed += f", {costs.joint_step_s:.3g} s a joint step, {costs.round_s:.3g} s a round's pseudo-labels"
    length = f"{schedule.epochs} epochs of {schedule.steps_per_epoch} steps"
    if schedule.rounds:
        length += f", {schedule.supervised_epochs} supervised, then {schedule.rounds} rounds of "
        length += f"{schedule.epochs_per_round}"
    lines = [f"{timed}, {costs.epoch_s:.2g} s a checkpoint", f"budget     {fitted.budget}: {length}"]
    share = schedule.epochs * schedule.steps_per_epoch / (own.epochs * own.steps_per_epoch)
    lines.append(f"           {share:.3g} times the recipe's own {own.epochs * own.steps_per_epoch} steps")
    if schedule.rounds < own.rounds:
        lines.append(f"           {schedule.rounds} rounds instead of {own.rounds}, so that each has steps to learn in")
    if not fresh:
        return [*lines, "           fitted by an earlier command: the same steps, whatever time they take now"]
    whole_s = fitted.forecast_s if joint else fitted.before_s + costs.of_baseline().forecast_s(schedule)
    end = datetime.now() + timedelta(seconds=whole_s - fitted.before_s)  # noqa: DTZ005 (the user's own clock)
    return [*lines, f"forecast   {spelled(whole_s)} in all: done at {end:%H:%M:%S}"]
