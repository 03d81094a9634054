"""Choose the cases to label next."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from pcl_auto.method.suggestion import diverse_batch, nearest, reasons, standardized, standing, uncertainty

NAN = float("nan")


@pytest.mark.parametrize("seed", range(8))
def test_batch_is_the_reference_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers: equal distances and weights are common, and exact.
    features = rng.integers(0, 4, (12, 2)).astype(float)
    labeled = rng.integers(0, 4, (3, 2)).astype(float)
    weights = rng.integers(1, 4, 12) / 4
    expected = reference.diverse_batch(features.tolist(), labeled.tolist(), weights.tolist(), 7)
    assert diverse_batch(features, labeled, weights, 7) == expected


def test_five_alike_are_not_chosen() -> None:
    features = np.array([[9.0], [9.1], [9.2], [-3.0], [0.5]])
    weights = np.array([0.98, 0.99, 1.0, 0.5, 0.1])
    assert diverse_batch(features, np.zeros((1, 1)), weights, 2) == [2, 3]
    assert sorted(np.argsort(-weights)[:2]) == [1, 2]


def test_where_all_are_alike_the_uncertain_come_first_then_the_first() -> None:
    alike = standardized(np.full((6, 3), 0.1))
    assert not alike.any()
    assert diverse_batch(alike[:4], alike[4:], np.array([0.5, 1.0, 0.5, 1.0]), 4) == [1, 3, 0, 2]


@pytest.mark.parametrize("number", [4, 5, 100])
def test_each_case_once_where_fewer_are_there_than_asked_for(number: int) -> None:
    features = np.arange(4.0)[:, None]
    assert sorted(diverse_batch(features, np.zeros((1, 1)), np.ones(4), number)) == [0, 1, 2, 3]


@pytest.mark.parametrize("values", [[3.0, 1, 2], [1.0, 1, 1], [2.0, NAN, 2, 1], [NAN, NAN]])
def test_standing_is_the_reference_s(values: list[float]) -> None:
    np.testing.assert_allclose(standing(np.array(values)), reference.standing(values))


def test_what_is_not_known_does_not_count() -> None:
    signs = {"a": np.array([1.0, 2, NAN, NAN]), "b": np.array([5.0, NAN, 7, NAN])}
    np.testing.assert_allclose(uncertainty(signs), [0.5, 1.0, 1.0, 0.5])


def test_features_have_one_scale() -> None:
    found = standardized(np.array([[1.0, 100, 7], [2, 300, 7], [3, 200, 7]]))
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(0), [1, 1, 0])
    for wrong in (NAN, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            standardized(np.array([[1.0], [wrong]]))


def test_distance_to_the_nearest() -> None:
    features, centers = np.array([[0.0, 0], [3, 4], [6, 8]]), np.array([[0.0, 0], [6, 7]])
    np.testing.assert_allclose(nearest(features, centers), [0, np.sqrt(18), 1])


def test_reasons_have_their_numbers() -> None:
    dice = {"rounds disagree": np.array([0.9, 0.71, 0.93, 0.95, 0.99]), "transforms disagree": np.full(5, NAN)}
    remarks = [[], ["a has 1.2 ml, labeled cases 2.1 to 4"], [], [], []]
    distances = np.array([1.0, 5, 4, 3, 2])
    assert reasons(1, dice, remarks, distances) == [
        "rounds disagree: Dice 0.710 (median of all 0.930)",
        "a has 1.2 ml, labeled cases 2.1 to 4",
        "unlike any labeled case: farther than 100% of the others",
    ]
    (only,) = reasons(3, dice, remarks, distances)
    assert only == "no sign stands out: farther from the labeled cases than 50% of the others"


def test_nothing_is_said_of_a_single_case_or_of_equal_ones() -> None:
    same = {"rounds disagree": np.full(3, 0.9)}
    assert "no sign" in reasons(0, same, [[], [], []], np.ones(3))[0]
    assert "no sign" in reasons(0, {"rounds disagree": np.array([0.9])}, [[]], np.ones(1))[0]
