"""Assess pseudo-labels on label maps of a few voxels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pcl_auto.method.label_maps import Values, mean_dice
from pcl_auto.method.pseudo_labels import (
    LedgerRow,
    assess_pseudo_label,
    drop_disagreeing,
    drop_outside,
    drop_unregistered,
)

CLASSES = {"core": 1, "rim": 2}
LABELED_ML = {"core": np.array([2.0, 4.0]), "rim": np.array([1.0, 1.0])}


def labels(core: int, rim: int) -> np.ndarray:
    """A volume of 4 × 4 × 4 voxels with so many of each class."""
    values = np.zeros(64, dtype=np.int16)
    values[:core] = 1
    values[core : core + rim] = 2
    return values.reshape(4, 4, 4)


def row(core: int, rim: int, last: np.ndarray | None = None, **options: Any) -> LedgerRow:
    known = options.pop("labeled_ml", LABELED_ML)
    return assess_pseudo_label(
        "case", labels(core, rim), last, known, classes=CLASSES, voxel_ml=0.5, margin=options.pop("margin", 2.0)
    )


def slow_dice(first: np.ndarray, second: np.ndarray, value: int) -> float | None:
    """2 |A ∩ B| / (|A| + |B|), voxel by voxel; None where both are empty."""
    both = size = 0
    for a, b in zip(first.flat, second.flat, strict=True):
        size += int(a == value) + int(b == value)
        both += int(a == value and b == value)
    return 2 * both / size if size else None


@pytest.mark.parametrize("seed", range(5))
def test_mean_dice_is_the_mean_of_the_slow_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 3, (2, 3, 4, 5))
    scores = [slow_dice(first, second, value) for value in CLASSES.values()]
    assert mean_dice(first, second, CLASSES) == pytest.approx(np.mean([score for score in scores if score is not None]))
    assert mean_dice(first, second, CLASSES) == mean_dice(second, first, CLASSES)


def test_mean_dice_of_special_maps() -> None:
    assert mean_dice(labels(3, 2), labels(3, 2), CLASSES) == 1.0
    assert mean_dice(labels(0, 0), labels(0, 0), CLASSES) == 1.0
    assert mean_dice(labels(3, 0), labels(0, 3), CLASSES) == 0.0
    # A class that neither holds does not count; one that a single map holds counts as zero.
    assert mean_dice(labels(3, 0), labels(3, 0), CLASSES) == 1.0
    assert mean_dice(labels(3, 2), labels(3, 0), CLASSES) == 0.5


@pytest.mark.parametrize(
    ("core", "remark"),
    [
        (0, "core is absent"),
        (1, "core has 0.5 ml, expected 1 to 8"),
        (2, None),  # 1 ml, half of the smallest
        (6, None),
        (16, None),  # 8 ml, twice the largest
        (17, "core has 8.5 ml, expected 1 to 8"),
    ],
)
def test_volumes_beyond_half_and_twice_the_labeled_ones_are_remarkable(core: int, remark: str | None) -> None:
    assert row(core, 2).remarks == (() if remark is None else (remark,))


def test_every_class_is_judged() -> None:
    assert row(0, 20).remarks == ("core is absent", "rim has 10 ml, expected 0.5 to 2")


def test_a_class_that_some_labeled_cases_lack_may_be_absent() -> None:
    known = {"core": np.array([0.0, 4.0]), "rim": np.array([1.0])}
    assert row(0, 2, labeled_ml=known).remarks == ()


def test_a_class_that_no_labeled_case_holds_is_remarkable_where_it_appears() -> None:
    known = {"core": np.array([0.0, 0.0]), "rim": np.array([1.0])}
    assert row(0, 2, labeled_ml=known).remarks == ()
    assert row(1, 2, labeled_ml=known).remarks == ("core has 0.5 ml, expected 0 to 0",)


def test_change_is_measured_against_the_last_round() -> None:
    assert row(6, 2).change_dice is None
    assert row(6, 2, last=labels(6, 2)).change_dice == 1.0
    assert row(6, 2, last=labels(0, 0)).change_dice == 0.0


def test_a_row_as_it_stands_in_the_ledger() -> None:
    assert row(0, 20, last=labels(0, 20)).as_dict() == {
        "case": "case",
        "volume_ml_core": 0.0,
        "volume_ml_rim": 10.0,
        "components_core": 0,
        "components_rim": 1,
        "dice_to_last_round": 1.0,
        "used": 1,
        "remarks": "core is absent; rim has 10 ml, expected 0.5 to 2",
    }
    assert row(6, 2).as_dict()["dice_to_last_round"] == ""
    assert list(row(6, 2).as_dict()) == list(row(0, 0, last=labels(1, 1)).as_dict())


@pytest.mark.parametrize(("core", "rim", "outside"), [
    (6, 2, (0, 0.0)),
    (1, 2, (0, 1.0)),  # 0.5 ml, a doubling below 1 ml
    (32, 2, (0, 1.0)),  # 16 ml, a doubling above 8 ml
    (0, 2, (1, 0.0)),
    (0, 16, (1, 2.0)),
    (0, 0, (2, 0.0)),
])  # fmt: skip
def test_distance_from_the_labeled_range_is_in_doublings(core: int, rim: int, outside: tuple[int, float]) -> None:
    assert row(core, rim).outside == pytest.approx(outside)


def test_the_margin_widens_the_range() -> None:
    assert row(1, 2, margin=4.0).remarks == ()
    assert row(2, 2, margin=1.0).outside == (0, 1.0)


def test_a_class_that_no_labeled_case_holds_is_outside_from_its_first_voxel() -> None:
    known = {"core": np.array([0.0, 0.0]), "rim": np.array([1.0])}
    assert row(1, 2, labeled_ml=known).outside == (0, 1.0)
    assert row(2, 2, labeled_ml=known).outside == (0, 2.0)


def rows(*sizes: tuple[int, int]) -> list[LedgerRow]:
    return [replace(row(*size), case=f"case{number}") for number, size in enumerate(sizes)]


def test_what_is_outside_is_dropped_and_says_why() -> None:
    judged = drop_outside(rows((6, 2), (0, 2), (17, 2), (2, 2)))
    assert [entry.used for entry in judged] == [True, False, False, True]
    assert judged[1].remarks == ("core is absent", "dropped: outside the labeled range")
    assert judged[0] == rows((6, 2))[0]
    assert [entry.as_dict()["used"] for entry in judged] == [1, 0, 0, 1]


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 1), (7, 1), (8, 2), (9, 2)])
def test_where_all_are_outside_the_nearest_quarter_stays(count: int, kept: int) -> None:
    # The nearest last: a lone absent class is farther than any volume, two are farther still.
    sizes = [(0, 0), (0, 2), (60, 2), (50, 2), (40, 2), (30, 2), (20, 2), (19, 2), (18, 2)][-count:]
    judged = drop_outside(rows(*sizes))
    assert [entry.used for entry in judged] == [False] * (count - kept) + [True] * kept
    assert judged[-1].remarks[-1] == "kept as one of the best: outside the labeled range"


def test_an_absent_class_is_farther_than_any_volume() -> None:
    assert [entry.used for entry in drop_outside(rows((0, 0), (0, 2), (64, 0), (0, 2)))] == [False, True, False, False]


def test_a_round_without_cases_drops_none() -> None:
    assert drop_outside([]) == []


def agreeing(*shares: float, used: bool = True) -> list[LedgerRow]:
    return [LedgerRow(f"case{i}", {}, {}, None, (), agreement=share, used=used) for i, share in enumerate(shares)]


def test_what_agrees_too_little_is_dropped() -> None:
    judged = drop_disagreeing(agreeing(0.95, 0.89, 0.9), 0.9)
    assert [entry.used for entry in judged] == [True, False, True]
    assert judged[1].remarks == ("dropped: transforms disagree",)
    assert judged[1].as_dict()["agreement"] == 0.89


def test_where_nothing_agrees_the_best_quarter_stays() -> None:
    judged = drop_disagreeing(agreeing(0.1, 0.3, 0.2, 0.6, 0.5, 0.4, 0.0, 0.0), 0.9)
    assert [entry.case for entry in judged if entry.used] == ["case3", "case4"]
    assert judged[3].remarks == ("kept as one of the best: transforms disagree",)


def test_the_best_are_chosen_from_what_is_in_use() -> None:
    rows = [*agreeing(0.99, 0.98, used=False), *(replace(row, case="used") for row in agreeing(0.5))]
    assert [entry.used for entry in drop_disagreeing(rows, 0.9)] == [False, False, True]


def test_cases_whose_atlases_disagree_are_dropped() -> None:
    judged = drop_unregistered(agreeing(0.7, 0.5, 0.6, 0.2), 0.6)
    assert [entry.used for entry in judged] == [True, False, True, False]
    assert judged[1].remarks == ("dropped: atlases disagree",)


@pytest.mark.parametrize(("agreed", "works"), [(1, False), (2, True)])
def test_registration_that_works_in_less_than_a_quarter_of_the_cases_is_not_believed(agreed: int, works: bool) -> None:
    judged = drop_unregistered(agreeing(*[0.9] * agreed, *[0.1] * (8 - agreed)), 0.6)
    assert sum(entry.used for entry in judged) == (agreed if works else 0)
    if not works:
        assert {entry.remarks for entry in judged} == {("dropped: registration does not work here",)}


def test_what_was_dropped_before_stays_dropped() -> None:
    rows = [*agreeing(0.9, used=False), *agreeing(0.9, 0.9)]
    assert [entry.used for entry in drop_unregistered(rows, 0.6)] == [False, True, True]


def test_a_ledger_without_the_check_has_no_column_for_it() -> None:
    assert "agreement" not in LedgerRow("case", {}, {}, None, ()).as_dict()


def test_regions_are_judged_as_the_union_of_their_values() -> None:
    values, last = labels(8, 3), labels(4, 3)
    known = {"all": np.array([5.0]), "rim": np.array([1.0])}
    regions: dict[str, Values] = {"all": (1, 2), "rim": 2}
    found = assess_pseudo_label("case", values, last, known, classes=regions, voxel_ml=0.5, margin=1.0)
    assert found.volumes_ml == {"all": 5.5, "rim": 1.5}
    assert found.components == {"all": 1, "rim": 1}
    absent, doublings = found.outside
    assert absent == 0
    assert doublings == pytest.approx(np.log2(5.5 / 5) + np.log2(1.5))
    merged = [slow_dice((values > 0).astype(int), (last > 0).astype(int), 1), slow_dice(values, last, 2)]
    assert found.change_dice == pytest.approx(np.mean([score for score in merged if score is not None]))


@pytest.mark.parametrize(("core", "rim"), [(0, 0), (8, 3), (60, 4)])
def test_without_labeled_volumes_nothing_is_out_of_range(core: int, rim: int) -> None:
    unknown = dict.fromkeys(CLASSES, np.zeros(0))
    found = row(core, rim, labeled_ml=unknown)
    assert (found.outside, found.remarks) == ((0, 0.0), ())
