"""Which pseudo-labels to look at first, and what follows a correction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcl_auto.recipe import Recipe, Schedule
from pcl_auto.review import remaining, worst_first

RECIPE = Recipe(name="mine", schedule=Schedule(steps_per_epoch=10, supervised_epochs=4, rounds=3, epochs_per_round=2))


def row(case: str, used: str, remarks: str, dice: str) -> dict[str, str]:
    return {"case": case, "used": used, "remarks": remarks, "dice_to_last_round": dice}


def test_the_worst_come_first() -> None:
    rows = [
        row("steady", "1", "", "0.99"), row("shaky", "1", "", "0.6"), row("odd", "1", "a is absent", "0.98"),
        row("dropped", "0", "transforms disagree", "0.9"), row("worst", "0", "a is absent", "0.2"),
    ]  # fmt: skip
    assert worst_first(rows) == ["worst", "dropped", "odd", "shaky", "steady"]
    first_round = [{"case": case, "used": "1", "remarks": ""} for case in ("b", "a")]
    assert worst_first(first_round) == ["a", "b"]


@pytest.mark.parametrize(
    ("done", "left"),
    # In step one and in the first round three are left; after the last one they begin again.
    [(2, 3), (5, 3), (6, 2), (7, 2), (8, 1), (9, 1), (10, 3)],
)
def test_the_rounds_that_are_left(done: int, left: int) -> None:
    found = remaining(RECIPE, done, None)
    assert found.schedule == replace(RECIPE.schedule, supervised_epochs=0, rounds=left)
    assert (found.name, found.contrast.restart_head) == ("mine", False)


@pytest.mark.parametrize(("epochs", "rounds", "each"), [(12, 3, 4), (2, 2, 1)])
def test_as_long_as_asked_for(epochs: int, rounds: int, each: int) -> None:
    found = remaining(RECIPE, 10, epochs)
    assert (found.schedule.rounds, found.schedule.epochs_per_round, found.name) == (rounds, each, f"mine_e{epochs}")
