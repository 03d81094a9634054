"""Budgets of time: how they are written, and the schedules that are fitted to them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from pairs import in_pairs
from reference import training_seconds
from refusal import refused

from pcl_auto.cli.console.estimates import fitted_lines, overrun_lines
from pcl_auto.errors import ResourceError, StateError, UsageError
from pcl_auto.recipe.load import load_recipe
from pcl_auto.recipe.settings import Schedule
from pcl_auto.recipe.time_budget import (
    AIM,
    MAX_FOR_CHECKPOINTS,
    MAX_FOR_LABELS,
    MIN_ROUND_STEPS,
    Costs,
    Fitted,
    fit,
    fit_recipe,
    format_duration,
    least_seconds,
    overrun,
    parse_budget,
    read_fit,
    round_up,
    write_fit,
)
from pcl_auto.training.estimate import MAX_TIMING_S, TIMING_SHARE

DEFAULT, QUICK, PAPER = (load_recipe(name).schedule for name in ("default", "quick", "paper"))
ODD = Schedule(steps_per_epoch=100, supervised_epochs=37, rounds=3, epochs_per_round=13)
ALONE = Schedule(steps_per_epoch=100, supervised_epochs=30, rounds=0)
STARTED = replace(DEFAULT, supervised_epochs=0)
SCHEDULES = [DEFAULT, QUICK, PAPER, ODD, ALONE, STARTED]

CPU = Costs(
    begin_s=2.0,
    supervised_step_s=0.3,
    joint_step_s=0.35,
    validation_step_s=0.1,
    epoch_s=0.4,
    round_s=5.0,
    end_s=4.0,
)
SLOW_LABELS = replace(CPU, round_s=400.0)
SLOW_DISK = replace(CPU, epoch_s=20.0)
FOLDS = replace(CPU, held_out=True, folds=3)
MACHINES = [CPU, SLOW_LABELS, SLOW_DISK, FOLDS]


# --- how a budget is written ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("10m", 600), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1h2m3s", 3723), ("1h5s", 3605)],
)
def test_budgets(text: str, seconds: int) -> None:
    assert parse_budget(text) == seconds
    assert parse_budget(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "2", "2 h", "h", "0s", "0h0m", "-1h", "30m1h", "1.5h", "2d", "1h1h", "2H", "²h", "2h\n", "quick"]
)
def test_what_is_no_budget_is_refused_with_the_forms_that_are(text: str) -> None:
    with refused(UsageError, "budget.not-a-time") as refusal:
        parse_budget(text)
    assert "1h30m" in refusal.problem.expected
    assert refusal.problem.found == repr(text)


def test_the_same_time_is_spelled_in_one_way() -> None:
    assert [format_duration(parse_budget(text)) for text in ("90m", "1h30m", "5400s")] == ["1h30m"] * 3
    assert format_duration(0.2) == "0s"


# --- what a training takes ---


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("costs", MACHINES)
def test_a_forecast_adds_up_every_step(schedule: Schedule, costs: Costs) -> None:
    short = replace(schedule, steps_per_epoch=7)
    assert costs.forecast_s(short) == pytest.approx(training_seconds(short, costs))


def test_a_baseline_has_no_joint_step_and_no_pseudo_labels() -> None:
    schedule = replace(QUICK, steps_per_epoch=20)
    alone = Schedule(20, supervised_epochs=schedule.epochs, rounds=0)
    assert CPU.of_baseline().forecast_s(schedule) == pytest.approx(CPU.forecast_s(alone))


# --- the schedule that fits ---


@in_pairs(own=SCHEDULES, costs=MACHINES, seconds=[600.0, 1800.0, 7200.0, 86_400.0])
def test_a_fitted_schedule_fills_the_time(own: Schedule, costs: Costs, seconds: float) -> None:
    fitted = fit(own, costs, seconds)
    if fitted is None:
        assert least_seconds(own, costs) > seconds
        return
    assert training_seconds(fitted, costs) <= seconds + 1e-6
    longer = replace(fitted, steps_per_epoch=fitted.steps_per_epoch + 1)
    assert training_seconds(longer, costs) > seconds
    assert 1 <= fitted.rounds <= own.rounds or fitted.rounds == own.rounds == 0
    assert (fitted.supervised_epochs > 0) == (own.supervised_epochs > 0)
    if fitted.rounds:
        assert fitted.steps_per_epoch * fitted.epochs_per_round >= MIN_ROUND_STEPS
    if fitted.rounds > 1:
        assert costs.folds * fitted.rounds * costs.round_s <= MAX_FOR_LABELS * seconds


@pytest.mark.parametrize("own", [DEFAULT, QUICK, PAPER])
@pytest.mark.parametrize("seconds", [1800.0, 7200.0, 86_400.0])
def test_every_part_keeps_exactly_its_share(own: Schedule, seconds: float) -> None:
    fitted = fit(own, CPU, seconds)
    assert fitted is not None
    assert fitted.rounds == own.rounds
    assert fitted.supervised_epochs * own.epochs == own.supervised_epochs * fitted.epochs


def test_epochs_are_short_enough_that_a_stop_loses_little() -> None:
    fitted = fit(QUICK, CPU, 3600.0)
    assert fitted is not None
    assert fitted.epochs >= 20
    assert fitted.steps_per_epoch <= 1.1 * QUICK.steps_per_epoch


def test_checkpoints_take_a_small_share() -> None:
    fitted = fit(QUICK, SLOW_DISK, 7200.0)
    assert fitted is not None
    assert fitted.epochs * SLOW_DISK.epoch_s <= 1.5 * MAX_FOR_CHECKPOINTS * 7200


def test_fewer_rounds_where_pseudo_labels_would_take_the_time() -> None:
    fitted = fit(QUICK, SLOW_LABELS, 3600.0)
    assert fitted is not None
    assert fitted.rounds == 4  # 4 × 400 s are less than half an hour, 5 × 400 s are more
    joint = fitted.rounds * fitted.epochs_per_round / fitted.epochs
    assert joint == pytest.approx(9 / 12)


def test_a_budget_longer_than_the_recipe_is_filled() -> None:
    own_s = CPU.forecast_s(QUICK)
    fitted = fit(QUICK, CPU, 10 * own_s)
    assert fitted is not None
    assert fitted.epochs * fitted.steps_per_epoch > 9 * QUICK.epochs * QUICK.steps_per_epoch


# --- too small a budget ---


@pytest.mark.parametrize("own", SCHEDULES)
@pytest.mark.parametrize("costs", MACHINES)
def test_the_least_time_works_and_less_does_not(own: Schedule, costs: Costs) -> None:
    least = least_seconds(own, costs)
    assert fit(own, costs, least) is not None
    assert fit(own, costs, least - 0.01) is None


@pytest.mark.parametrize("name", ["default", "quick", "paper"])
def test_too_small_a_budget_is_refused_with_the_smallest_that_works(name: str) -> None:
    recipe = load_recipe(name)
    with refused(ResourceError, "budget.too-small") as refusal:
        fit_recipe(recipe, 20, CPU, before_s=15.0, planned_patches=4)
    smallest = parse_budget(refusal.problem.expected.split()[0])
    fitted = fit_recipe(recipe, smallest, CPU, before_s=15.0, planned_patches=4)
    assert 15.0 + CPU.forecast_s(fitted) <= AIM * smallest
    assert f"--budget {format_duration(smallest)}" in refusal.problem.fix


@pytest.mark.parametrize("costs", MACHINES)
def test_the_named_budget_works_on_a_machine_that_has_become_busier(costs: Costs) -> None:
    recipe = load_recipe("quick")
    with refused(ResourceError, "budget.too-small") as refusal:
        fit_recipe(recipe, 20, costs, before_s=15.0, planned_patches=4)
    named = parse_budget(refusal.problem.expected.split()[0])
    times = ("begin_s", "supervised_step_s", "joint_step_s", "validation_step_s", "epoch_s", "round_s", "end_s")
    busier = replace(costs, **{name: 1.2 * getattr(costs, name) for name in times})
    # Steps, joint steps and pseudo-labels are looked at for a share of the budget each, validation for a quarter.
    looked_s = 3.25 * min(TIMING_SHARE * named, MAX_TIMING_S)
    schedule = fit_recipe(recipe, named, busier, before_s=1.2 * 15.0 + looked_s, planned_patches=4)
    assert schedule.epochs * schedule.steps_per_epoch >= MIN_ROUND_STEPS


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(3, "10s"), (51, "1m"), (111, "2m"), (121, "2m30s"), (190, "3m30s"), (601, "11m"), (3601, "1h15m"), (7200, "2h")],
)
def test_a_length_is_rounded_up_to_one_that_people_write(seconds: float, written: str) -> None:
    assert format_duration(round_up(seconds)) == written


@pytest.mark.parametrize(
    ("width", "patches", "planned", "suggested"),
    [
        (1.0, 0, 4, ["network.width=0.25", "batch.patches=2"]),
        (0.5, 2, 4, ["network.width=0.25"]),
        (0.25, 0, 4, ["batch.patches=2"]),
        (0.25, 0, 2, []),
        (0.25, 2, 4, []),
        (0.1, 3, 2, ["batch.patches=2"]),
    ],
)
def test_a_refusal_suggests_only_what_is_smaller_than_what_the_run_has(
    width: float, patches: int, planned: int, suggested: list[str]
) -> None:
    recipe = load_recipe("quick")
    recipe = replace(recipe, network=replace(recipe.network, width=width), batch=replace(recipe.batch, patches=patches))
    with refused(ResourceError, "budget.too-small") as refusal:
        fit_recipe(recipe, 20, CPU, before_s=15.0, planned_patches=planned)
    words = refusal.problem.fix.replace(",", " ").split()
    assert [word for word in words if "=" in word] == suggested
    assert words.count("--set") == len(suggested)


# --- on file ---


def fitted_on_file(folder: Path) -> tuple[Path, Fitted]:
    recipe = load_recipe("quick")
    schedule = fit_recipe(recipe, 600, CPU, before_s=30.0, planned_patches=4)
    fitted = Fitted("10m", recipe.as_dict(), schedule, CPU, 30.0, 900, 30.0, 1.1, "cpu")
    write_fit(folder / "budgets" / "fit.json", fitted)
    return folder / "budgets" / "fit.json", fitted


def test_a_fit_is_read_as_it_was_written(tmp_path: Path) -> None:
    file, fitted = fitted_on_file(tmp_path)
    assert read_fit(file, load_recipe("quick")) == fitted
    assert math.isclose(json.loads(file.read_text())["forecast_s"], fitted.forecast_s, abs_tol=0.1)


def test_a_fit_of_another_recipe_of_that_name_is_refused(tmp_path: Path) -> None:
    file, _ = fitted_on_file(tmp_path)
    recipe = load_recipe("quick")
    with refused(StateError, "budget.other-recipe"):
        read_fit(file, replace(recipe, batch=replace(recipe.batch, patches=8)))


def test_what_was_chosen_is_told(tmp_path: Path) -> None:
    _, fitted = fitted_on_file(tmp_path)
    told = "\n".join(fitted_lines(fitted, fresh=True, joint=True))
    schedule = fitted.schedule
    assert "0.3 s a step, 0.35 s a joint step" in told
    assert f"10m: {schedule.epochs} epochs of {schedule.steps_per_epoch} steps" in told
    assert f"forecast   {format_duration(fitted.forecast_s)} in all" in told
    assert "earlier command" in "\n".join(fitted_lines(fitted, fresh=False, joint=True))
    baseline = fitted_lines(fitted, fresh=True, joint=False)[-1].split()[1]
    assert parse_budget(baseline) < fitted.forecast_s


def test_a_short_training_is_told_the_budget_of_the_recipe_s_own_length(tmp_path: Path) -> None:
    _, fitted = fitted_on_file(tmp_path)
    assert "--budget" not in "\n".join(fitted_lines(fitted, fresh=True, joint=True))
    own = load_recipe("quick").schedule
    third = own.epochs * own.steps_per_epoch // (3 * fitted.schedule.epochs)
    short = replace(fitted, schedule=replace(fitted.schedule, steps_per_epoch=third))
    (named,) = (
        line.split()[1].rstrip(",") for line in fitted_lines(short, fresh=True, joint=True) if "--budget" in line
    )
    assert parse_budget(named) == fitted.budget_of_own_length_s
    longer = fit(own, CPU, AIM * fitted.budget_of_own_length_s - fitted.before_s)
    assert longer is not None
    steps = longer.epochs * longer.steps_per_epoch
    assert 0.95 <= steps / (own.epochs * own.steps_per_epoch) <= 1.5  # to the minute


# --- what it took ---


@pytest.mark.parametrize(("joint", "costs"), [(True, CPU), (True, FOLDS), (False, CPU)])
def test_a_training_beyond_its_budget_tells_what_steps_took_and_were_timed_as(
    tmp_path: Path, joint: bool, costs: Costs
) -> None:
    fitted = replace(fitted_on_file(tmp_path)[1], costs=costs)
    of_this = costs if joint else costs.of_baseline()
    epochs = costs.folds * fitted.schedule.epochs
    timed_s = of_this.steps_s(fitted.schedule) / epochs
    found = overrun(fitted, joint=joint, budget_s=600, wall_s=700.0, epochs_s=[1.5 * timed_s] * epochs)
    assert found is not None
    assert found.steps_s / found.timed_s == pytest.approx(1.5)
    # Of a training that ended early, no more than the epochs that it had.
    early = overrun(fitted, joint=joint, budget_s=600, wall_s=700.0, epochs_s=[1.5 * timed_s] * (epochs // 2))
    assert early is not None
    assert early.steps_s / early.timed_s == pytest.approx(1.5)
    told = "\n".join(overrun_lines(found))
    assert "took       11m40s, 1m40s more than the budget of 10m" in told
    step, timed = (f"{seconds / found.steps:.2g} s" for seconds in (found.steps_s, found.timed_s))
    assert f"{step} each, timed as {timed}" in told


def test_a_training_within_its_budget_or_a_little_beyond_tells_nothing(tmp_path: Path) -> None:
    _, fitted = fitted_on_file(tmp_path)
    for wall_s in (400.0, 600.0, 660.0):
        assert overrun(fitted, joint=True, budget_s=600, wall_s=wall_s, epochs_s=[1.0] * 20) is None
    assert overrun(fitted, joint=True, budget_s=600, wall_s=700.0, epochs_s=[]) is None  # it was trained before
