"""Fit a recipe's schedule to a time budget, from what the parts of a training take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, ResourceError, StateError, UsageError
from pcl_auto.recipe.load import recorded_recipe
from pcl_auto.recipe.settings import Recipe, Schedule
from pcl_auto.workspace.files import read_json, refusing_nonsense, write_json
from pcl_auto.workspace.shapes import SCHEDULE

SCHEMA_VERSION = 1
# Of the file of a fit, see pcl_auto.workspace.shapes.
_SHAPE = {
    "schema_version": int,
    "budget": str,
    "recipe": {"schedule": SCHEDULE, ...: object},
    "schedule": SCHEDULE,
    "costs": {"held_out?": bool, "folds?": int, ...: float},
    "before_s": float,
    "memory_mb": int,
    "checkpoint_mb": float,
    "round_mb": float,
    "device": str,
    "gpu_memory_mb?": (int, None),
}
# What is planned for; the rest is for a machine that slows down.
AIM = 0.95
# Of the budget that a refusal names, for the next try: a machine that is busier by a fifth, and a longer look at the
# steps of a longer budget.
NAMED_MARGIN = 1.3
# What makes steps shorter, where a recipe has more: below, there are no fewer feature maps and no joint step.
SMALL_WIDTH, FEWEST_PATCHES = 0.25, 2
# A training that takes more than so many times its budget says so.
OVERRUN = 1.1
# From so many seconds on, lengths that people write are whole multiples of so many.
_WRITTEN = ((3600, 900), (600, 60), (120, 30), (0, 10))
# Fewer steps on new pseudo-labels are not worth making them.
MIN_ROUND_STEPS = 25
# Of the time, for the pseudo-labels of all rounds: where they would take more, there are fewer rounds.
MAX_FOR_LABELS = 0.5
# A training that is stopped loses its epoch: that many epochs, if their checkpoints take no more than this share.
MIN_EPOCHS, MAX_FOR_CHECKPOINTS = 20, 0.05
MAX_EPOCHS, MAX_STEPS = 10_000, 100_000
_BUDGET = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?", re.ASCII)


def parse_budget(text: str, where: str = "--budget") -> int:
    """Return the seconds of a time budget like ``2h``, ``90m``, ``1h30m`` or ``45s``.

    Raises:
        UsageError: it means none.
    """
    found = _BUDGET.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if total:
        return total
    fix = "write it like one of these, in this order and without spaces"
    raise UsageError(
        Problem("budget.not-a-time", "not a budget of time", where, fix, "2h | 90m | 1h30m | 45s", repr(text))
    )


def format_duration(seconds: float) -> str:
    """Format seconds as :func:`parse_budget` reads them, to the second: ``1h30m``."""
    whole = round(seconds)
    parts = {"h": whole // 3600, "m": whole // 60 % 60, "s": whole % 60}
    return "".join(f"{value}{unit}" for unit, value in parts.items() if value) or "0s"


def round_up(seconds: float) -> int:
    """Round up to a length that people write: ``40s``, ``2m30s``, ``17m``, ``1h15m``."""
    step = next(step for least, step in _WRITTEN if seconds >= least)
    return step * math.ceil(seconds / step)


def format_seconds(seconds: float) -> str:
    """Format a measured time as people write it: ``0.35 s``, ``4.2 s``, ``35 s``, ``1h30m``."""
    if seconds >= 59.5:
        return format_duration(seconds)
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a training take on this machine, each of ``folds`` networks by itself.

    ``begin_s``: a trainer with its streams and slow first steps. ``epoch_s``: what an epoch takes beside its steps.
    ``round_s``: the pseudo-labels of a round. ``end_s``: all that follows the last epoch of the last fold.
    """

    begin_s: float
    supervised_step_s: float
    joint_step_s: float
    validation_step_s: float
    epoch_s: float
    round_s: float
    end_s: float
    held_out: bool = False
    folds: int = 1

    def of_baseline(self) -> Costs:
        """Return the costs of nnU-Net on the labeled cases alone, for as many steps."""
        return replace(self, joint_step_s=self.supervised_step_s, round_s=0.0)

    def forecast_s(self, schedule: Schedule) -> float:
        """Return the seconds that a training by ``schedule`` takes."""
        beside = self.begin_s + schedule.epochs * self.epoch_s + schedule.rounds * self.round_s
        return self.steps_s(schedule) + self.folds * beside + self.end_s

    def steps_s(self, schedule: Schedule) -> float:
        """Return the seconds of all steps of a training by ``schedule``, those of its validation too."""
        joint = schedule.rounds * schedule.epochs_per_round
        steps = schedule.steps_per_epoch * (
            schedule.supervised_epochs * self.supervised_step_s + joint * self.joint_step_s
        )
        validation = schedule.epochs * schedule.validation_steps(held_out=self.held_out) * self.validation_step_s
        return self.folds * (steps + validation)


def fit(own: Schedule, costs: Costs, seconds: float) -> Schedule | None:
    """Return the longest schedule of ``seconds`` in which every part of ``own`` has its share, or None.

    Rounds are as many as in ``own``, or as many as get :data:`MIN_ROUND_STEPS` steps each.
    """
    if seconds < least_seconds(own, costs):
        return None
    for rounds in range(own.rounds, 0, -1) if own.rounds else [0]:
        if rounds > 1 and costs.folds * rounds * costs.round_s > MAX_FOR_LABELS * seconds:
            continue
        shares = _in_rounds(own, rounds)
        # With so few epochs the parts have other shares: for what is too short for anything else.
        shortest = [_fewest_epochs(shares)] if rounds <= 1 else []
        for epochs in [_epochs(shares, costs, seconds), *shortest]:
            fitted = _filled(_scaled(shares, epochs), costs, seconds)
            if fitted is not None:
                return fitted
    return None


def least_seconds(own: Schedule, costs: Costs) -> float:
    """Return the shortest time for a schedule: one round that is worth its pseudo-labels, and a start in proportion."""
    shares = _in_rounds(own, min(1, own.rounds))
    shortest = _scaled(shares, _fewest_epochs(shares))
    return costs.forecast_s(replace(shortest, steps_per_epoch=_least_steps(shortest)))


def _in_rounds(own: Schedule, rounds: int) -> Schedule:
    """Return the shares of ``own`` with all of its rounds shared out to ``rounds``; its length does not matter."""
    if rounds == own.rounds:
        return own
    return replace(
        own,
        supervised_epochs=own.supervised_epochs * rounds,
        rounds=rounds,
        epochs_per_round=own.rounds * own.epochs_per_round,
    )


def _scaled(shares: Schedule, epochs: int) -> Schedule:
    scaled = shares.scaled_to(epochs)
    # Rounds that begin with a model that is there get no supervised epoch from rounding.
    return scaled if shares.supervised_epochs else replace(scaled, supervised_epochs=0)


def _fewest_epochs(shares: Schedule) -> int:
    return shares.rounds + 1


def _epochs(shares: Schedule, costs: Costs, seconds: float) -> int:
    """Choose how many epochs a training of ``seconds`` should have.

    Epochs as long as the recipe's, or shorter, so that a stop loses little; long enough that their checkpoints do not
    count; and if possible as many as give every part exactly its share.
    """
    fewest = _fewest_epochs(shares)
    step_s = max(costs.supervised_step_s, costs.joint_step_s)
    wanted = max(MIN_EPOCHS, math.ceil(seconds / (costs.folds * step_s * shares.steps_per_epoch)))
    if costs.epoch_s:
        wanted = min(wanted, int(MAX_FOR_CHECKPOINTS * seconds / (costs.folds * costs.epoch_s)))
    wanted = min(max(wanted, fewest), MAX_EPOCHS)
    unit = shares.epochs // math.gcd(shares.supervised_epochs, shares.epochs_per_round) if shares.rounds else 1
    exact = unit * round(wanted / unit)
    return exact if exact >= fewest else wanted


def _filled(schedule: Schedule, costs: Costs, seconds: float) -> Schedule | None:
    """Give ``schedule`` as many steps in an epoch as ``seconds`` allow; None where a round would get too few."""

    def with_steps(steps: int) -> Schedule:
        return replace(schedule, steps_per_epoch=steps)

    steps = _largest(lambda steps: costs.forecast_s(with_steps(steps)) <= seconds, MAX_STEPS)
    return with_steps(steps) if steps >= _least_steps(schedule) else None


def _least_steps(schedule: Schedule) -> int:
    return math.ceil(MIN_ROUND_STEPS / (schedule.epochs_per_round if schedule.rounds else schedule.epochs))


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to ``most`` for which ``holds``, which holds for all below too; 0 if for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Fitted:
    """A schedule that was fitted to a budget, as it lies on file; ``before_s`` had passed before its training began.

    ``memory_mb``, ``checkpoint_mb`` and ``round_mb``, of a round's pseudo-labels, were seen while steps were timed, and
    so was ``gpu_memory_mb`` where there is a GPU.
    """

    budget: str
    recipe: dict[str, Any]
    schedule: Schedule
    costs: Costs
    before_s: float
    memory_mb: int
    checkpoint_mb: float
    round_mb: float
    device: str
    gpu_memory_mb: int | None = None

    @property
    def forecast_s(self) -> float:
        """The whole time of the command that was begun first."""
        return self.before_s + self.costs.forecast_s(self.schedule)

    @property
    def budget_of_own_length_s(self) -> int:
        """The budget, in whole minutes, that has room for the recipe as it is."""
        own_s = self.before_s + self.costs.forecast_s(Schedule(**self.recipe["schedule"]))
        return 60 * math.ceil(own_s / AIM / 60)

    def disk_mb(self, *, joint: bool) -> int:
        """Estimate what stays on the disk, in MB (2^20 bytes)."""
        return round(self.costs.folds * (self.checkpoint_mb + (self.schedule.rounds * self.round_mb if joint else 0)))

    def as_dict(self) -> dict[str, Any]:
        """Return the fit as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Overrun:
    """Time of a training that was to be done in ``budget_s`` seconds: of all, and of its steps with their validation.

    ``timed_s``: what the steps would have taken as they were timed, when the schedule was fitted.
    """

    budget_s: int
    wall_s: float
    steps: int
    steps_s: float
    timed_s: float


def overrun(fitted: Fitted, *, joint: bool, budget_s: int, wall_s: float, epochs_s: Sequence[float]) -> Overrun | None:
    """Return what a training took, if that is well beyond its budget.

    Args:
        fitted: its schedule.
        joint: whether it had rounds; a baseline has none.
        budget_s: what it was to be done in.
        wall_s: what it took.
        epochs_s: what the steps of each epoch took, of all folds.
    """
    if wall_s <= OVERRUN * budget_s or not epochs_s:
        return None
    costs = fitted.costs if joint else fitted.costs.of_baseline()
    # Training may have ended early, after collapsed rounds.
    share = len(epochs_s) / (costs.folds * fitted.schedule.epochs)
    steps = len(epochs_s) * fitted.schedule.steps_per_epoch
    return Overrun(budget_s, wall_s, steps, sum(epochs_s), share * costs.steps_s(fitted.schedule))


def fit_recipe(recipe: Recipe, budget_s: int, costs: Costs, *, before_s: float, planned_patches: int) -> Schedule:
    """Fit the schedule of ``recipe`` to what is left of a budget after ``before_s`` seconds.

    ``planned_patches``: of a step, where the recipe leaves them to the plan.

    Raises:
        ResourceError: the budget is too small; one is named that works on a busier machine too.
    """
    fitted = fit(recipe.schedule, costs, AIM * budget_s - before_s)
    if fitted is not None:
        return fitted
    smallest = round_up(NAMED_MARGIN * (before_s + least_seconds(recipe.schedule, costs)) / AIM)
    shorter = _shorter_steps(recipe, planned_patches)
    raise ResourceError(
        Problem(
            code="budget.too-small",
            what="the budget is too small for a training on this machine",
            where="--budget",
            expected=f"{format_duration(smallest)} or more",
            found=f"{format_duration(budget_s)}; a step takes {format_seconds(costs.joint_step_s)}",
            fix=f"take --budget {format_duration(smallest)}" + (f", or shorter steps: {shorter}" if shorter else ""),
        )
    )


def _shorter_steps(recipe: Recipe, planned_patches: int) -> str:
    """Return the options that make steps shorter than those of ``recipe``; empty where it has nothing to take away."""
    width = f"--set network.width={SMALL_WIDTH:g}" if recipe.network.width > SMALL_WIDTH else ""
    more = (recipe.batch.patches or planned_patches) > FEWEST_PATCHES
    patches = f"--set batch.patches={FEWEST_PATCHES}" if more else ""
    return f"{width} {patches}".strip()


def write_fit(file: Path, fitted: Fitted) -> None:
    """Put a fit on record; runs of the same split, recipe and budget follow it from then on."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    forecast = round(fitted.forecast_s, 1)
    write_json(file, {"schema_version": SCHEMA_VERSION, "time": now, "forecast_s": forecast, **fitted.as_dict()})


def read_fit(file: Path, recipe: Recipe) -> Fitted:
    """Read the fit on record.

    Raises:
        StateError: it was made for another recipe of that name, or by another version.
    """
    content = read_json(file, _SHAPE)
    same = content.get("schema_version") == SCHEMA_VERSION and recorded_recipe(content["recipe"]) == recipe.as_dict()
    if not same:
        raise StateError(
            Problem(
                code="budget.other-recipe",
                what="the schedule on file was fitted for another recipe of that name",
                where=str(file),
                fix="give the recipe another name, or remove the file and train with --restart",
            )
        )
    values = {key: content[key] for key in Fitted.__dataclass_fields__ if key in content}
    with refusing_nonsense(file):
        return Fitted(**{**values, "schedule": Schedule(**values["schedule"]), "costs": Costs(**values["costs"])})
