"""Shifts of logits that keep classes about as large as labeled ones are those that a plain search finds."""

from __future__ import annotations

import numpy as np
import pytest

from pcl_auto.method import volume_matching
from pcl_auto.method.volume_matching import MAX_SHIFT, case_volumes, expected_voxels, matching_shifts


def some_logits(cases: int, seed: int, shape: tuple[int, ...] = (4, 10, 12)) -> list[np.ndarray]:
    """Return logits (3, z, y, x) of cases in which class 1 is found too often and class 2 hardly at all."""
    rng = np.random.default_rng(seed)
    bias = np.array([0.0, 0.5, -1.5])[:, None, None, None]
    return [(rng.normal(0, 1 + 0.1 * index, (3, *shape)) + bias).astype(np.float32) for index in range(cases)]


def median_volume(logits: list[np.ndarray], shifts: dict[int, float], value: int) -> float:
    """Return the median volume of a class, with all voxels labeled anew."""
    added = np.array([shifts.get(each, 0.0) for each in range(3)])[:, None, None, None]
    return float(np.median([np.count_nonzero((case + added).argmax(0) == value) for case in logits]))


def found_shifts(logits: list[np.ndarray], expected: dict[int, int], margin: float = 1.0) -> dict[int, float]:
    rng = np.random.default_rng(0)
    return matching_shifts([case_volumes(case, rng) for case in logits], expected, margin)


@pytest.mark.parametrize("seed", range(4))
def test_median_volumes_come_to_what_is_expected(seed: int) -> None:
    logits, expected = some_logits(5, seed), {1: 150, 2: 90}
    assert median_volume(logits, {}, 1) > 200 > 60 > median_volume(logits, {}, 2)
    shifts = found_shifts(logits, expected)
    assert all(abs(shift) < MAX_SHIFT for shift in shifts.values())
    for value, voxels in expected.items():
        assert abs(median_volume(logits, shifts, value) - voxels) <= 2


@pytest.mark.parametrize("margin", [1.0, 1.25])
def test_one_class_is_shifted_as_a_plain_search_shifts_it(margin: float) -> None:
    logits = some_logits(3, seed=7)
    tried = np.linspace(0, MAX_SHIFT, 3001)
    volumes = np.array([median_volume(logits, {2: shift}, 2) for shift in tried])
    enough = tried[np.argmax(volumes >= 60 / margin)]
    assert found_shifts(logits, {2: 60}, margin)[2] == pytest.approx(enough, abs=2e-3)


@pytest.mark.parametrize(("expected", "times"), [(200, 1.3), (360, 1 / 1.2)])
def test_what_is_beyond_the_margin_comes_to_its_nearer_end(expected: int, times: float) -> None:
    logits = some_logits(5, seed=3)
    margin = max(times, 1 / times)
    before = median_volume(logits, {}, 1)
    assert not expected / margin <= before <= expected * margin
    assert median_volume(logits, found_shifts(logits, {1: expected}, margin), 1) == pytest.approx(
        expected * times, abs=2
    )


def test_what_is_within_the_margin_stays() -> None:
    logits = some_logits(5, seed=3)
    expected = {value: round(1.15 * median_volume(logits, {}, value)) for value in (1, 2)}
    assert found_shifts(logits, expected, 1.2) == {1: 0.0, 2: 0.0}
    assert found_shifts(logits, expected, 1.1) != {1: 0.0, 2: 0.0}


@pytest.mark.parametrize(("expected", "shift"), [(0, -MAX_SHIFT), (10_000, MAX_SHIFT)])
def test_no_shift_goes_beyond_the_bound(expected: int, shift: float) -> None:
    assert found_shifts(some_logits(3, seed=1), {1: expected})[1] == pytest.approx(shift, abs=1e-3)


def test_what_nothing_is_expected_of_is_not_shifted() -> None:
    assert found_shifts(some_logits(3, seed=1), {}) == {}
    assert found_shifts(some_logits(3, seed=1), {2: 50}).keys() == {2}


def test_a_case_without_a_doubt_keeps_its_volumes() -> None:
    labels = np.random.default_rng(3).integers(0, 3, (4, 5, 6))
    logits = np.where(np.arange(3)[:, None, None, None] == labels, 50.0, 0.0).astype(np.float32)
    found = case_volumes(logits, np.random.default_rng(0))
    assert found.logits.shape == (3, 0)
    assert found.decided.tolist() == np.bincount(labels.ravel(), minlength=3).tolist()


def test_a_sample_tells_nearly_what_all_voxels_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, expected = some_logits(5, seed=2, shape=(10, 40, 40)), {1: 5000, 2: 3000}
    whole = found_shifts(logits, expected)
    monkeypatch.setattr(volume_matching, "SAMPLED_VOXELS", 2000)
    sampled = found_shifts(logits, expected)
    assert sampled != whole
    for value, shift in whole.items():
        assert sampled[value] == pytest.approx(shift, abs=0.1)


def test_a_class_is_expected_to_have_the_mean_of_its_labeled_volumes_if_it_has_a_size() -> None:
    volumes = {
        1: np.array([1.0, 4.0]),  # four times as large at most
        2: np.array([1.0, 4.1]),
        3: np.array([0.0, 4.0]),  # absent from a labeled case
        4: np.array([3.0]),
        5: np.array([]),
    }
    assert expected_voxels(volumes, voxel_ml=0.01) == {1: 200, 4: 300}
