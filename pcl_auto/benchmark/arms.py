"""Make the arms of a benchmark: recipes that differ in their method and share steps, batch, optimizer and network.

The baselines are nnU-Net alone, mirrored in each way that a user can have it: as it is, not at all, and along the axes
that the default recipe mirrors along. A gain over one of them that mirroring alone would bring is not the method's.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.errors import OldNameWarning, Problem, UsageError
from pcl_auto.recipe.changes import change_recipe, load_changed
from pcl_auto.recipe.load import load_recipe, shipped_recipes
from pcl_auto.recipe.settings import Augmentation, Mirroring, Pretrained, Pretraining, Recipe, Schedule

# How each of them mirrors its patches, and the scans that it segments.
BASELINE_ARMS: dict[str, Mirroring] = {
    "nnunet": "all",
    "nnunet_no_mirroring": "none",
    "nnunet_symmetric": "symmetric",
}
# Each baseline among the arms with all labels too; the best of them is the ceiling.
ALL_LABELS = "all-labels"
OLD_BASELINE = "supervised"


@dataclass(frozen=True)
class Arm:
    """A way to train: a recipe cut to the common base recipe, or nnU-Net alone on some or on all labels."""

    name: str
    recipe: Recipe
    baseline: bool = False
    all_labels: bool = False


def load_base_recipe(name: str, epochs: int | None, changes: Sequence[str] = ()) -> Recipe:
    """Load the recipe whose optimizer, batch, network and schedule every arm takes, scaled to ``epochs`` if given.

    Raises:
        UsageError: there is no such recipe, or it has no rounds, or too few epochs for them; the changes are wrong.
    """
    base = load_changed(name, changes)
    if not base.schedule.rounds:
        what, fix = f"recipe {base.name!r} leaves no time for rounds", "name one with schedule.rounds"
        raise UsageError(Problem("benchmark.budget-without-rounds", what, "--base-recipe", fix))
    return base if epochs is None else replace(base, schedule=base.schedule.scaled_to(epochs))


def make_arms(names: Sequence[str], base: Recipe, changes: Sequence[str] = ()) -> tuple[list[Arm], list[Problem]]:
    """Make the arms called ``names`` on ``base``, and list what is wrong with the other names.

    ``changes`` are those of ``base``, "table.key=value", which all recipes take.
    """
    arms: dict[str, Arm] = {}
    problems: list[Problem] = []
    names = [_current_name(name) for name in names]
    for name in names:
        if name == ALL_LABELS:
            continue
        try:
            arm = _make_arm(name, base, changes)
        except UsageError as error:
            problems += error.problems
            continue
        if arms.setdefault(arm.name, arm) is not arm:
            what, fix = f"two arms called {arm.name!r}", "name each once; a recipe file by its own"
            problems.append(Problem("benchmark.arm-twice", what, "--arms", fix))
    if not names:
        fix = f"name some, as --arms {','.join(BASELINE_ARMS)},paper"
        problems.append(Problem("benchmark.no-arm", "no arm", "--arms", fix))
    made = list(arms.values())
    if ALL_LABELS in names:
        baselines = [arm for arm in made if arm.baseline] or [_make_arm(name, base) for name in BASELINE_ARMS]
        made += [replace(arm, all_labels=True) for arm in baselines]
    return made, problems


def _current_name(name: str) -> str:
    if name != OLD_BASELINE:
        return name
    warnings.warn(f"arm {OLD_BASELINE} is called nnunet; the old name is read until version 0.3", OldNameWarning, 2)
    return "nnunet"


def _make_arm(name: str, base: Recipe, changes: Sequence[str] = ()) -> Arm:
    if name in BASELINE_ARMS:
        # Trained without rounds; their part of the schedule lets it share its start with arms that mirror alike.
        plain = Recipe("", schedule=base.schedule, augmentation=Augmentation(mirroring=BASELINE_ARMS[name]))
        return Arm(name, _named(fit_recipe(plain, base), name), baseline=True)
    shipped = shipped_recipes()
    if name not in shipped and not Path(name).is_file():
        expected = " | ".join([*BASELINE_ARMS, ALL_LABELS, *shipped])
        fix = "take some of these, or give the path of a recipe's TOML file"
        raise UsageError(Problem("benchmark.unknown-arm", f"no arm {name!r}", "--arms", fix, expected))
    recipe = load_recipe(name)
    if recipe.name in (*BASELINE_ARMS, ALL_LABELS):
        what, fix = f"recipe called {recipe.name!r} as an arm that is none", "give its file, or its name, another name"
        raise UsageError(Problem("benchmark.arm-named-as-baseline", what, name, fix))
    fitted = fit_recipe(recipe, base)
    if changes:  # numbers of epochs are meant on the scale of the base recipe
        fitted = fit_recipe(change_recipe(fitted, changes), base)
    return Arm(recipe.name, _named(fitted, recipe.name))


def fit_recipe(recipe: Recipe, base: Recipe) -> Recipe:
    """Return the method of ``recipe`` with the optimizer, batch, network and steps of ``base``, of pre-training too.

    Where in a run the rounds begin, and where the learning rate begins to decay, belongs to the method.
    """
    return replace(
        recipe,
        schedule=fit_schedule(base.schedule, recipe.schedule),
        optimizer=replace(base.optimizer, flat_share=recipe.optimizer.flat_share),
        batch=base.batch,
        network=base.network,
        # Of arms that begin with no weights of their own these are no settings.
        pretrained=recipe.pretrained if recipe.pretrained.source else Pretrained(),
        pretraining=replace(base.pretraining, method=recipe.pretraining.method)
        if recipe.pretrained.source
        else Pretraining(),
    )


def begin_with(source: str, arm: Arm, base: Recipe) -> Arm:
    """Return an arm that begins with pretrained weights as ``base`` says, if its recipe names none of its own.

    ``source``: ``auto`` for weights made of its own images, empty for such as every run is given.
    """
    if arm.recipe.pretrained.source:
        return arm
    begun = replace(arm.recipe, pretrained=replace(base.pretrained, source=source), pretraining=base.pretraining)
    return replace(arm, recipe=_named(begun if source else replace(begun, pretraining=Pretraining()), arm.name))


def fit_schedule(base: Schedule, own: Schedule) -> Schedule:
    """Divide the epochs of ``base`` as ``own`` divides its own; into fewer rounds where there are too few epochs."""
    if not own.rounds:
        return replace(base, supervised_epochs=base.epochs, rounds=0)
    rounds = min(own.rounds, base.epochs - 1)
    own = replace(own, rounds=rounds, epochs_per_round=own.rounds * own.epochs_per_round // rounds)
    return replace(own.scaled_to(base.epochs), steps_per_epoch=base.steps_per_epoch)


def _named(recipe: Recipe, arm: str) -> Recipe:
    """Name a recipe after its content, so that models of other settings are other models."""
    content = {**recipe.as_dict(), "name": "", "description": ""}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]
    return replace(recipe, name=f"bench-{arm}-{digest}")


_NUMBER = re.compile(r"[0-9]{1,9}")


def parse_labeled(text: str) -> tuple[list[int], list[Problem]]:
    """Read the numbers in ``1,2,8``, ascending, each once, and list the parts of the text that are none."""
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not _NUMBER.fullmatch(part) or int(part) < 1]
    what, fix = "not a number of labels", "as --labeled 1,2,8"
    return sorted({int(part) for part in parts if part not in wrong}), [
        Problem("benchmark.labeled-not-a-number", what, "--labeled", fix, "1 or more", repr(part)) for part in wrong
    ]
