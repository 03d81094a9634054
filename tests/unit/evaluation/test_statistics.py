"""Statistics against slow references, and what must hold whatever the scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pcl_auto.evaluation.statistics import classify_effect, compare, differences, least_p, mean, paired_p, spread

NAN = math.nan


def slow_wilcoxon(values: list[float]) -> float:
    """Return the exact two-sided p by every assignment of signs; values without ties and zeros."""
    ranks = {abs(value): rank for rank, value in enumerate(sorted(values, key=abs), 1)}
    positive = sum(ranks[abs(value)] for value in values if value > 0)
    center = sum(ranks.values()) / 2
    signs = list(itertools.product((0, 1), repeat=len(values)))
    sums = [sum(rank for rank, sign in zip(ranks.values(), choice, strict=True) if sign) for choice in signs]
    return sum(abs(total - center) >= abs(positive - center) for total in sums) / len(signs)


def scores(seed_values: list[list[float]]) -> dict[int, dict[str, float]]:
    return {
        seed: {f"case{index}": value for index, value in enumerate(values)} for seed, values in enumerate(seed_values)
    }


@pytest.mark.parametrize("seed", range(20))
def test_p_is_that_of_all_assignments_of_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = list(rng.normal(0.3, 1, size=int(rng.integers(1, 10))))
    assert paired_p(values) == pytest.approx(slow_wilcoxon(values))
    assert paired_p([-value for value in values]) == pytest.approx(paired_p(values))


def test_p_without_differences() -> None:
    assert math.isnan(paired_p([]))
    assert paired_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("cases", range(1, 12))
def test_the_least_p(cases: int) -> None:
    assert paired_p([float(value) for value in range(1, cases + 1)]) == pytest.approx(least_p(cases))


def test_means_leave_out_what_is_not_there() -> None:
    assert mean([1.0, NAN, 3.0]) == 2.0
    assert math.isnan(mean([NAN]))
    assert math.isnan(mean([]))


def test_spread_is_over_seeds() -> None:
    values = [[0.1, 0.3, NAN], [0.5, 0.7, 0.9], [0.2, 0.2, 0.2]]
    found = spread(scores(values))
    per_seed = [float(np.nanmean(row)) for row in values]
    assert found.mean == pytest.approx(np.mean(per_seed))
    assert found.sd == pytest.approx(np.std(per_seed, ddof=1))
    assert found.seeds == 3
    assert math.isnan(spread(scores(values[:1])).sd)
    assert math.isnan(spread({}).mean)
    assert spread({0: {"a": NAN}}).seeds == 0


def test_differences_are_of_cases_that_both_have() -> None:
    assert differences({"a": 0.5, "b": 0.2, "c": NAN}, {"a": 0.25, "c": 0.1, "d": 1.0}) == {"a": 0.25}


def test_a_clear_gain_helped_and_closes_the_gap() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0.3, 0.6, size=(3, 12))
    gain = rng.uniform(0.05, 0.15, size=(3, 12))
    found = compare(scores((low + gain).tolist()), scores(low.tolist()), scores((low + 2 * gain).tolist()))
    assert found is not None
    assert found.verdict == "helped"
    assert found.difference == pytest.approx(gain.mean())
    assert found.p == pytest.approx(slow_wilcoxon(list(gain.mean(axis=0))))
    assert (found.seeds, found.cases, found.seeds_better) == (3, 12, 3)
    assert [entry["difference"] for entry in found.per_seed] == pytest.approx(list(gain.mean(axis=1)))
    assert found.gap_closed == pytest.approx(0.5)
    back = compare(scores(low.tolist()), scores((low + gain).tolist()))
    assert back is not None
    assert back.verdict == "did not help"
    assert back.difference == pytest.approx(-found.difference)
    assert back.p == pytest.approx(found.p)


def test_an_arm_against_itself_did_not_help() -> None:
    same = scores([[0.1, 0.5, 0.7]])
    found = compare(same, same, same)
    assert found is not None
    assert (found.verdict, found.difference, found.p, found.seeds_better) == ("did not help", 0.0, 1.0, 0)
    assert math.isnan(found.gap_closed)


def test_a_study_that_is_cut_short_compares_what_both_have() -> None:
    arm, supervised = scores([[0.5, 0.6], [0.9, 0.9]]), scores([[0.4, 0.4]])
    found = compare(arm, supervised, {1: {"case0": 1.0}})
    assert found is not None
    assert found.seeds == 1
    assert found.difference == pytest.approx(0.15)
    assert math.isnan(found.gap_closed)
    assert compare(arm, {}) is None
    assert compare(arm, {0: {"other": 1.0}}) is None


@pytest.mark.parametrize(
    ("difference", "p", "better", "verdict"),
    [
        (0.1, 0.009, 3, "helped"),
        (0.1, 0.01, 3, "no clear difference"),
        (0.1, 0.001, 2, "no clear difference"),
        (0.1, NAN, 3, "no clear difference"),
        (0.0, 1.0, 0, "did not help"),
        (-0.1, 0.001, 1, "did not help"),
    ],
)
def test_verdicts(difference: float, p: float, better: int, verdict: str) -> None:
    assert classify_effect(difference, p, better, 3) == verdict
