"""Make the arms of a benchmark: recipes that differ in their method and share steps, batch, optimizer and network."""

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
    """A way to train: a recipe cut to the common base recipe, or the baseline on some or on all labels."""

    name: str
    recipe: Recipe
    supervised_only: bool = False
    all_labels: bool = False


def load_base_recipe(name: str, epochs: int | None) -> Recipe:
    """Load the recipe whose optimizer, batch, network and schedule every arm takes, scaled to ``epochs`` if given.

    Raises:
        UsageError: there is no such recipe, or it has no rounds, or too few epochs for them.
    """
    base = load_recipe(name)
    if not base.schedule.rounds:
        what, fix = f"recipe {base.name!r} leaves no time for rounds", "name one with schedule.rounds"
        raise UsageError(Problem("benchmark.budget-without-rounds", what, "--base-recipe", fix))
    return base if epochs is None else replace(base, schedule=base.schedule.scaled_to(epochs))


def make_arms(names: Sequence[str], base: Recipe) -> tuple[list[Arm], list[Problem]]:
    """Make the arms called ``names`` on ``base``, and list what is wrong with the other names."""
    arms: dict[str, Arm] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            arm = _make_arm(name, base)
        except UsageError as error:
            problems += error.problems
            continue
        if arms.setdefault(arm.name, arm) is not arm:
            what, fix = f"two arms called {arm.name!r}", "name each once; a recipe file by its own"
            problems.append(Problem("benchmark.arm-twice", what, "--arms", fix))
    if not names:
        problems.append(Problem("benchmark.no-arm", "no arm", "--arms", f"name some, as --arms {BASELINE_ARM},paper"))
    return list(arms.values()), problems


def _make_arm(name: str, base: Recipe) -> Arm:
    if name in (BASELINE_ARM, ALL_LABELS_ARM):
        # Both under one name: with all labels on either side they are one and the same training.
        recipe = _named(fit_recipe(Recipe(name="", schedule=base.schedule), base), BASELINE_ARM)
        return Arm(name, recipe, supervised_only=True, all_labels=name == ALL_LABELS_ARM)
    shipped = sorted(path.stem for path in recipe_folder().glob("*.toml"))
    if name not in shipped and not Path(name).is_file():
        expected = " | ".join([BASELINE_ARM, ALL_LABELS_ARM, *shipped])
        fix = "take some of these, or give the path of a recipe's TOML file"
        raise UsageError(Problem("benchmark.unknown-arm", f"no arm {name!r}", "--arms", fix, expected))
    recipe = load_recipe(name)
    return Arm(recipe.name, _named(fit_recipe(recipe, base), recipe.name))


def fit_recipe(recipe: Recipe, base: Recipe) -> Recipe:
    """Return the method of ``recipe`` with the optimizer, batch, network and steps of ``base``."""
    return replace(
        recipe,
        schedule=fit_schedule(base.schedule, recipe.schedule.rounds),
        optimizer=base.optimizer,
        batch=base.batch,
        network=base.network,
    )


def fit_schedule(base: Schedule, rounds: int) -> Schedule:
    """Divide the joint epochs of ``base`` into ``rounds`` rounds, or into the most below that which divide them."""
    joint = base.rounds * base.epochs_per_round
    if not rounds:
        return replace(base, supervised_epochs=base.epochs, rounds=0)
    rounds = next(number for number in range(min(rounds, joint), 0, -1) if joint % number == 0)
    return replace(base, rounds=rounds, epochs_per_round=joint // rounds)


def _named(recipe: Recipe, arm: str) -> Recipe:
    """Name a recipe after its content, so that models of other settings are other models."""
    content = {**recipe.as_dict(), "name": "", "description": ""}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]
    return replace(recipe, name=f"bench-{arm}-{digest}")


def parse_labeled(text: str) -> tuple[list[int], list[Problem]]:
    """Read the numbers in ``1,2,8``, ascending, each once, and list the parts of the text that are none."""
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not part.isdecimal() or int(part) < 1]
    what, fix = "not a number of labels", "as --labeled 1,2,8"
    return sorted({int(part) for part in parts if part not in wrong}), [
        Problem("benchmark.labeled-not-a-number", what, "--labeled", fix, "1 or more", repr(part)) for part in wrong
    ]
