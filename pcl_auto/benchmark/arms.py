"""The arms of a benchmark: what differs between them, and what none of them may have more of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.errors import Problem, UsageError
from pcl_auto.recipe.load import load_recipe, recipe_folder
from pcl_auto.recipe.settings import Recipe, Schedule

BASELINE_ARM, ALL_LABELS_ARM = "supervised", "all-labels"


@dataclass(frozen=True)
class Arm:
    """A way to train: a recipe cut to the common budget, or the baseline on some or on all labels."""

    name: str
    recipe: Recipe
    supervised_only: bool = False
    all_labels: bool = False


def load_base_recipe(name: str, epochs: int | None) -> Recipe:
    """The recipe whose optimizer, batch, network and schedule every arm takes, scaled to ``epochs`` if given.

    Raises:
        UsageError: there is no such recipe, or it has no rounds, or too few epochs for them.
    """
    budget = load_recipe(name)
    if not budget.schedule.rounds:
        raise UsageError(
            Problem(
                "benchmark.budget-without-rounds",
                f"recipe {budget.name!r} leaves no time for rounds",
                "--base-recipe",
                "name one with schedule.rounds",
            )
        )
    return budget if epochs is None else replace(budget, schedule=budget.schedule.scaled_to(epochs))


def make_arms(names: Sequence[str], budget: Recipe) -> tuple[list[Arm], list[Problem]]:
    """The arms called ``names`` under ``budget``, and what is wrong with the other names."""
    arms: list[Arm] = []
    problems: list[Problem] = []
    for name in names:
        try:
            arm = _make_arm(name, budget)
        except UsageError as error:
            problems += error.problems
            continue
        if arm.name in [other.name for other in arms]:
            problems.append(
                Problem(
                    "benchmark.arm-twice",
                    f"two arms called {arm.name!r}",
                    "--arms",
                    "name each once; a recipe file by its own",
                )
            )
        else:
            arms.append(arm)
    if not names:
        problems.append(Problem("benchmark.no-arm", "no arm", "--arms", f"name some, as --arms {BASELINE_ARM},paper"))
    return arms, problems


def _make_arm(name: str, budget: Recipe) -> Arm:
    if name in (BASELINE_ARM, ALL_LABELS_ARM):
        # Both under one name: with all labels on either side they are one and the same training.
        baseline = Recipe(
            name="", schedule=budget.schedule, optimizer=budget.optimizer, batch=budget.batch, network=budget.network
        )
        return Arm(name, _named(baseline, BASELINE_ARM), supervised_only=True, all_labels=name == ALL_LABELS_ARM)
    shipped = sorted(path.stem for path in recipe_folder().glob("*.toml"))
    if name not in shipped and not Path(name).is_file():
        raise UsageError(
            Problem(
                code="benchmark.unknown-arm",
                what=f"no arm {name!r}",
                where="--arms",
                expected=" | ".join([BASELINE_ARM, ALL_LABELS_ARM, *shipped]),
                fix="take some of these, or give the path of a recipe's TOML file",
            )
        )
    recipe = load_recipe(name)
    return Arm(recipe.name, _named(within(recipe, budget), recipe.name))


def within(recipe: Recipe, budget: Recipe) -> Recipe:
    """``recipe``'s method for ``budget``'s steps and images; all but the four tables here is the recipe's own."""
    return replace(
        recipe,
        schedule=fit_schedule(budget.schedule, recipe.schedule.rounds),
        optimizer=budget.optimizer,
        batch=budget.batch,
        network=budget.network,
    )


def fit_schedule(budget: Schedule, rounds: int) -> Schedule:
    """``budget`` with its joint epochs in ``rounds`` rounds, or in the most below that which divide them."""
    joint = budget.rounds * budget.epochs_per_round
    if not rounds:
        return replace(budget, supervised_epochs=budget.epochs, rounds=0)
    rounds = next(number for number in range(min(rounds, joint), 0, -1) if joint % number == 0)
    return replace(budget, rounds=rounds, epochs_per_round=joint // rounds)


def _named(recipe: Recipe, arm: str) -> Recipe:
    """``recipe`` under a name of its own content: models of other settings are other models."""
    content = {**recipe.as_dict(), "name": "", "description": ""}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]
    return replace(recipe, name=f"bench-{arm}-{digest}")


def parse_labeled(text: str) -> tuple[list[int], list[Problem]]:
    """The numbers in ``1,2,8``, ascending, each once; and what of the text is none."""
    numbers: set[int] = set()
    problems = []
    for part in (part.strip() for part in text.split(",")):
        if part.isdecimal() and int(part) > 0:
            numbers.add(int(part))
        else:
            problems.append(
                Problem(
                    "benchmark.labeled-not-a-number",
                    "not a number of labels",
                    "--labeled",
                    "as --labeled 1,2,8",
                    "1 or more",
                    repr(part),
                )
            )
    return sorted(numbers), problems
