"""The collapse guard: its rules against slow ones, and what is no collapse."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from pcl_auto.method.collapse import collapse, validation_collapse

LABELED_ML = {"core": np.array([2.0, 4.0]), "rim": np.array([1.0, 1.5])}


def volumes(core: list[float], rim: list[float] | None = None) -> dict[str, dict[str, float]]:
    rims = [1.0] * len(core) if rim is None else rim
    return {f"case{n}": {"core": a, "rim": b} for n, (a, b) in enumerate(zip(core, rims, strict=True))}


def slow(before: list[float], after: list[float], known: list[float], margin: float) -> bool:
    """The rules for one class, case by case."""
    had = lost = 0
    for earlier, now in zip(before, after, strict=True):
        if earlier > 0:
            had += 1
            if now == 0:
                lost += 1
    vanished = max(known) > 0 and had > 0 and lost / had > 0.5
    low, high = min(known) / margin, max(known) * margin
    was_within = low <= statistics.median(before) <= high
    is_within = low <= statistics.median(after) <= high
    return vanished or (was_within and not is_within)


def test_the_rules_are_the_slow_ones() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        count = int(rng.integers(1, 7))
        before, after = (rng.choice([0, 0, 0.9, 1, 3, 8, 8.1, 20], count).tolist() for _ in range(2))
        known = rng.choice([0, 2, 4], 2).tolist()
        expected = slow(before, after, known, 2.0)
        labeled = {"core": np.array(known)}
        assert bool(collapse(volumes(before), volumes(after), labeled, margin=2.0)) == expected
        seen.add(expected)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([3, 3, 3], [0, 0, 0], "core has vanished everywhere"),
        ([3, 3, 3], [0, 0, 3], "core has vanished in 2 of the 3 cases that had it"),
        ([3, 3, 3, 3], [0, 0, 3, 3], None),  # half is not more than half
        ([3, 0, 0], [0, 0, 3], "core has vanished in 1 of the 1 cases that had it"),
        ([0, 0, 0], [0, 0, 0], None),  # it never had it: going back would not help
        ([3, 3, 3], [9, 9, 3], "the median volume of core went from 3 to 9 ml, labeled cases 2 to 4"),
        ([3, 3, 3], [0.9, 0.9, 3], "the median volume of core went from 3 to 0.9 ml, labeled cases 2 to 4"),
        ([3, 3, 3], [8, 8, 8], None),
        ([9, 9, 9], [20, 20, 20], None),  # it was outside before
        ([9, 9, 9], [3, 3, 3], None),
    ],
)
def test_reasons_in_words(before: list[float], after: list[float], reason: str | None) -> None:
    found = collapse(volumes(before), volumes(after), LABELED_ML, margin=2.0)
    assert found == ([] if reason is None else [reason])


def test_every_class_is_guarded() -> None:
    found = collapse(volumes([3], [1]), volumes([0], [9]), LABELED_ML, margin=2.0)
    assert [reason.split(" ml")[0] for reason in found] == [
        "core has vanished everywhere",
        "the median volume of rim went from 1 to 9",
    ]


def test_only_the_cases_segmented_again_count() -> None:
    assert collapse(volumes([3, 0, 0, 0]), volumes([3]), LABELED_ML, margin=2.0) == []
    assert collapse(volumes([3]), {}, LABELED_ML, margin=2.0) == []


def test_a_class_that_no_labeled_case_holds_may_go_and_not_come() -> None:
    labeled = {"core": np.array([0.0, 0.0])}
    assert collapse(volumes([3]), volumes([0]), labeled, margin=2.0) == []
    assert collapse(volumes([0]), volumes([3]), labeled, margin=2.0) != []


def test_the_validation_dice_is_compared_over_five_epochs() -> None:
    dice = [0.1, 0.7, 0.7, 0.7, 0.7, 0.7, *[0.1] * 4, *[0.55] * 5]
    assert validation_collapse(dice, 6, 6, 15, drop=0.1) == ["the validation Dice fell from 0.700 to 0.550"]
    assert validation_collapse(dice, 6, 6, 15, drop=0.2) == []
    # Never beyond the round's own epochs.
    assert validation_collapse([0.9, 0.9, 0.3, 0.5], 2, 2, 4, drop=0.45) == [
        "the validation Dice fell from 0.900 to 0.400"
    ]
    # A second try begins where the first one did.
    assert validation_collapse([0.9, 0.0, 0.5], 1, 2, 3, drop=0.1) == ["the validation Dice fell from 0.900 to 0.500"]
    assert validation_collapse([0.5, 0.9], 1, 1, 2, drop=0.0) == []


@pytest.mark.filterwarnings("error")
def test_of_a_network_from_another_training_no_earlier_dice_is_known() -> None:
    assert validation_collapse([0.2, 0.1], 0, 0, 2, drop=0.1) == []


def test_without_labeled_volumes_a_class_can_only_vanish() -> None:
    unknown = {"core": np.zeros(0)}
    assert collapse(volumes([3, 3]), volumes([90, 0.1]), unknown, margin=2.0) == []
    assert collapse(volumes([3, 3]), volumes([0, 0]), unknown, margin=2.0) == ["core has vanished everywhere"]
