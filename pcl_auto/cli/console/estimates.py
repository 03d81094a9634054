"""Put forecasts into lines: a schedule that was fitted to a time budget, and what a dry run estimates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pcl_auto.recipe.settings import Schedule
from pcl_auto.recipe.time_budget import format_duration, format_seconds

if TYPE_CHECKING:
    from pcl_auto.planning.plan import PlanEstimate
    from pcl_auto.recipe.time_budget import Costs, Fitted, Overrun
    from pcl_auto.training.dry_run import TrainingEstimate

# A training below this share of the recipe's own length gets a warning.
SHORT = 0.5


def rounds_in_words(schedule: Schedule) -> str:
    """Return how many rounds there are, and of how many epochs."""
    return f"{_rounds(schedule.rounds)} of {schedule.epochs_per_round}"


def _rounds(number: int) -> str:
    return f"{number} round{'' if number == 1 else 's'}"


def fitted_lines(fitted: Fitted, *, fresh: bool, joint: bool) -> list[str]:
    """Return what was timed and chosen and, for a run that begins, when it should be done."""
    costs, schedule, own = fitted.costs, fitted.schedule, Schedule(**fitted.recipe["schedule"])
    # Of a baseline too the joint steps are what was timed and fitted.
    timed = f"timed      {_timed(costs, rounds=schedule.rounds > 0)}"
    length = _length(schedule, rounds=joint and schedule.rounds > 0, to_be_fitted=False)
    lines = [f"{timed}, {format_seconds(costs.epoch_s)} a checkpoint", f"budget     {fitted.budget}: {length}"]
    share = schedule.epochs * schedule.steps_per_epoch / (own.epochs * own.steps_per_epoch)
    lines.append(f"           {share:.3g} times the recipe's own {own.epochs * own.steps_per_epoch} steps")
    if joint and schedule.rounds < own.rounds:
        rounds = _rounds(schedule.rounds)
        lines.append(f"           {rounds} instead of {own.rounds}, so that each has steps to learn in")
    if joint and schedule.rounds and share < SHORT:
        lines += [
            "           a short start makes poor pseudo-labels: compare with --supervised-only, or take",
            f"           --budget {format_duration(fitted.budget_of_own_length_s)}, which fits the recipe's own length",
        ]
    if not fresh:
        on = f"on {fitted.device} by an earlier command"
        return [*lines, f"           fitted {on}: the same steps, whatever time they take now"]
    whole_s = fitted.forecast_s if joint else fitted.before_s + costs.of_baseline().forecast_s(schedule)
    end = datetime.now() + timedelta(seconds=whole_s - fitted.before_s)  # noqa: DTZ005 (the user's own clock)
    return [*lines, f"forecast   {format_duration(whole_s)} in all: done at {end:%H:%M:%S}"]


def overrun_lines(found: Overrun) -> list[str]:
    """Return how far a training went beyond its budget, and where the time went."""
    over = f"{format_duration(found.wall_s - found.budget_s)} more than the budget of {format_duration(found.budget_s)}"
    step, timed = (format_seconds(seconds / found.steps) for seconds in (found.steps_s, found.timed_s))
    steps = f"{format_seconds(found.steps_s)} ({step} each, timed as {timed})"
    return [
        f"took       {format_duration(found.wall_s)}, {over}: the length was fitted once, before it began",
        f"           steps took {steps}, all else {format_seconds(found.wall_s - found.steps_s)}",
    ]


def pretrained_lines(matched: Mapping[str, Any]) -> list[str]:
    """Return what of a network comes from pretrained weights, stage by stage, and how the data differ from theirs."""
    source, kind, license_ = (matched[key] for key in ("source", "format", "license"))
    shares = [f"{matched[f'matched_fraction_of_{part}']:.0%} of the {part}" for part in ("encoder", "decoder")]
    lines = [
        f"pretrained {source} ({kind}; license: {license_})",
        f"           {' and '.join(shares)}: {matched['tensors']} tensors, {matched['parameters']:,} weights",
        f"           taken: {_stages_in_words(stage['name'] for stage in matched['stages'] if stage['taken'])}",
    ]
    lines += [
        f"           not taken: {stage['name']} ({stage['reason']})"
        for stage in matched["stages"]
        if not stage["taken"]
    ]
    lines += [f"           {text}" for text in [matched["adapted"], *matched["differences"]] if text]
    if matched["matched_fraction_of_encoder"] < 1:
        lines.append(f"           all of it would match after `pclauto plan TASK --for {source}`")
    return [*lines, *(f"           cite: {citation}" for citation in matched["citations"])]


def _stages_in_words(names: Iterable[str]) -> str:
    """Return "encoder stage 1", "encoder stage 2", … in short: "encoder stages 1 to 2"."""
    runs: list[tuple[str, list[str]]] = []
    for name in names:
        part, _, number = name.rpartition(" ")
        if runs and runs[-1][0] == part and number.isdigit() and int(number) == int(runs[-1][1][-1]) + 1:
            runs[-1][1].append(number)
        else:
            runs.append((part, [number]))
    return ", ".join(
        f"{part} {numbers[0]}" if len(numbers) == 1 else f"{part}s {numbers[0]} to {numbers[-1]}"
        for part, numbers in runs
    )


def training_lines(forecast: TrainingEstimate, *, on_gpu: bool) -> list[str]:
    """Return what a training would take, ``on_gpu`` or not; what nobody knows is in one line, with the reason."""
    schedule, costs = forecast.schedule, forecast.costs
    rounds = schedule.rounds > 0 and forecast.unlabeled_patches > 0
    patches = f"{forecast.labeled_patches} labeled"
    if forecast.unlabeled_patches:
        patches += f" and {forecast.unlabeled_patches} unlabeled in the rounds"
    lines = [
        f"patch      {'×'.join(map(str, forecast.patch_voxels))} voxels; {patches}",
        f"network    {len(forecast.features)} stages of {', '.join(map(str, forecast.features))} feature maps",
        f"length     {_length(schedule, rounds=rounds, to_be_fitted=forecast.to_be_fitted)}",
    ]
    if forecast.pretrained:
        lines += pretrained_lines(forecast.pretrained)
    if forecast.store_mb:
        lines.append(f"stored     {_mb(forecast.store_mb)} of preprocessed images are there")
    if on_gpu and forecast.gpu_memory_mb is not None:
        lines.append(f"GPU memory {_mb(forecast.gpu_memory_mb)}")
    if forecast.memory_mb is not None:
        lines.append(f"memory     {_mb(forecast.memory_mb)}")
    if forecast.disk_mb is not None and forecast.disk_meanwhile_mb is not None:
        meanwhile = f"{_mb(forecast.disk_meanwhile_mb)} more until the end"
        lines.append(f"disk       {_mb(forecast.disk_mb)}, and {meanwhile}")
    if costs is None or forecast.wall_s is None:
        lines.append(f"unknown    time, memory and disk: {forecast.unknown}")
    else:
        timed = f"{_timed(costs, rounds=rounds)}; timed here, at a glance"
        lines.append(f"time       {format_duration(forecast.wall_s)} ({timed})")
    return [*lines, *_commands(forecast.commands)]


def plan_lines(forecast: PlanEstimate) -> list[str]:
    """Return what a plan's preprocessing would take, and the command that does it in stock nnU-Net."""
    room = f"disk       {_mb(forecast.store_mb)} at most for the preprocessed images; time unknown before they are read"
    return [room, *_commands(forecast.commands)]


def _timed(costs: Costs, *, rounds: bool) -> str:
    """Return what the parts of a training take each."""
    text = f"{format_seconds(costs.supervised_step_s)} a step"
    if rounds:
        text += f", {format_seconds(costs.joint_step_s)} a joint step"
        text += f", {format_seconds(costs.round_s)} a round's pseudo-labels"
    return text


def _length(schedule: Schedule, *, rounds: bool, to_be_fitted: bool) -> str:
    if to_be_fitted:
        return "fitted to the budget once steps have been timed"
    length = f"{schedule.epochs} epochs of {schedule.steps_per_epoch} steps"
    return f"{length}, {schedule.supervised_epochs} supervised, then {rounds_in_words(schedule)}" if rounds else length


def _mb(value: float) -> str:
    return f"{value:.0f} MB" if value < 10_000 else f"{value / 1024:.1f} GB"


def _commands(commands: Sequence[str]) -> list[str]:
    return [f"nnU-Net    {command}" for command in commands]
