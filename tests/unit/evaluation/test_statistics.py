"""Statistics against slow references, and what must hold whatever the scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, stats

from pcl_auto.evaluation.statistics import (
    MIN_DRAWS,
    Interval,
    Verdict,
    bootstrap_interval,
    classify_against_all,
    classify_difference,
    compare_arms,
    draws_in_words,
    explain_no_verdict,
    gap_closed,
    holm,
    mean,
    paired_differences,
    sample_sd,
    spread,
    t_interval,
    t_test_p,
    wilcoxon_p,
)

NAN = math.nan
# Quantiles .975 of Student's t, from a printed table, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303, 4: 2.776, 5: 2.571, 7: 2.365}


def scores(draw_values: list[list[float]]) -> dict[int, dict[str, float]]:
    return {
        draw: {f"case{index}": value for index, value in enumerate(values)} for draw, values in enumerate(draw_values)
    }


def shifted(gains: list[float], cases: int = 12, seed: int = 0) -> tuple[dict[int, dict[str, float]], ...]:
    """Return an arm and its baseline, with these gains on average by draw."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0.3, 0.6, size=(len(gains), cases))
    noise = rng.normal(0, 0.01, size=low.shape)
    noise -= noise.mean(axis=1, keepdims=True)
    return scores((low + noise + np.array(gains)[:, None]).tolist()), scores(low.tolist())


def slow_wilcoxon(values: list[float]) -> float:
    """Return the exact two-sided p by every assignment of signs; values without ties and zeros."""
    ranks = {abs(value): rank for rank, value in enumerate(sorted(values, key=abs), 1)}
    positive = sum(ranks[abs(value)] for value in values if value > 0)
    center = sum(ranks.values()) / 2
    signs = list(itertools.product((0, 1), repeat=len(values)))
    sums = [sum(rank for rank, sign in zip(ranks.values(), choice, strict=True) if sign) for choice in signs]
    return sum(abs(total - center) >= abs(positive - center) for total in sums) / len(signs)


def slow_holm(p_values: list[float]) -> list[float]:
    """Return Holm's adjustment as closed testing: the largest Bonferroni p of any set of hypotheses with this one."""
    every = range(len(p_values))
    sets = [chosen for size in every for chosen in itertools.combinations(every, size + 1)]
    return [max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets if index in s) for index in every]


def slow_bootstrap(table: npt.NDArray[np.float64], resamples: int, seed: int) -> Interval:
    """Return the bootstrap interval by plain loops over the same resampled indices."""
    rng = np.random.default_rng(seed)
    draws, cases = table.shape
    drawn_draws = rng.integers(draws, size=(resamples, draws)).tolist()
    drawn_cases = rng.integers(cases, size=(resamples, cases)).tolist()
    means = []
    for rows, columns in zip(drawn_draws, drawn_cases, strict=True):
        per_draw = []
        for row in rows:
            values = [table[row, column] for column in columns if not math.isnan(table[row, column])]
            if values:
                per_draw.append(sum(values) / len(values))
        if per_draw:
            means.append(sum(per_draw) / len(per_draw))
    return Interval(*(float(np.quantile(means, share)) for share in (0.025, 0.975)))


@pytest.mark.parametrize("seed", range(20))
def test_wilcoxon_is_that_of_all_assignments_of_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = list(rng.normal(0.3, 1, size=int(rng.integers(1, 10))))
    assert wilcoxon_p(values) == pytest.approx(slow_wilcoxon(values))
    assert wilcoxon_p([-value for value in values]) == pytest.approx(wilcoxon_p(values))


def test_p_without_differences() -> None:
    assert math.isnan(wilcoxon_p([]))
    assert wilcoxon_p([0.0, 0.0]) == 1.0
    assert math.isnan(t_test_p([0.1]))
    assert t_test_p([0.0, 0.0]) == 1.0
    assert t_test_p([0.5, 0.5]) == 0.0


def test_means_leave_out_what_is_not_there() -> None:
    assert mean([1.0, NAN, 3.0]) == 2.0
    assert math.isnan(mean([NAN]))
    assert math.isnan(mean([]))


@pytest.mark.parametrize("freedom", T_TABLE)
def test_the_t_interval_by_hand(freedom: int) -> None:
    values = np.random.default_rng(freedom).normal(0.05, 0.03, size=freedom + 1)
    reach = T_TABLE[freedom] * math.sqrt(sum((values - values.mean()) ** 2) / freedom / (freedom + 1))
    found = t_interval(values.tolist())
    assert found.low == pytest.approx(values.mean() - reach, abs=1e-4)
    assert found.high == pytest.approx(values.mean() + reach, abs=1e-4)


@pytest.mark.parametrize("number", [2, 3, 6, 8])
def test_p_is_the_area_under_students_t(number: int) -> None:
    values = np.random.default_rng(number).normal(0.03, 0.03, size=number)
    t, freedom = abs(values.mean()) / (values.std(ddof=1) / math.sqrt(number)), number - 1
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    area, _ = integrate.quad(lambda x: scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2), -t, t)
    assert t_test_p(values.tolist()) == pytest.approx(1 - area, abs=1e-7)
    assert t_test_p(values.tolist()) == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue))


def test_p_and_the_t_interval_say_the_same() -> None:
    for seed in range(50):
        values = np.random.default_rng(seed).normal(0.03, 0.03, size=6).tolist()
        assert (t_test_p(values) < 0.05) == t_interval(values).excludes_zero


def test_one_draw_has_no_interval() -> None:
    for found in (t_interval([0.1]), t_interval([]), bootstrap_interval(np.array([[0.1, 0.2]]))):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert not found.excludes_zero
    assert math.isnan(sample_sd([0.1]))


@pytest.mark.parametrize(
    ("interval", "excludes"), [((0.01, 0.1), True), ((-0.1, -0.01), True), ((-0.1, 0.1), False), ((0.0, 0.1), False)]
)
def test_an_interval_excludes_zero(interval: tuple[float, float], excludes: bool) -> None:
    assert Interval(*interval).excludes_zero is excludes


@pytest.mark.parametrize("holes", [False, True])
def test_the_bootstrap_is_that_of_plain_loops(holes: bool) -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(0.05, 0.1, size=(5, 4))
    if holes:
        table[0, :] = [0.1, NAN, NAN, NAN]
        table[3, 2] = NAN
    found, slow = bootstrap_interval(table, resamples=500, seed=7), slow_bootstrap(table, 500, 7)
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))


def test_the_bootstrap_is_as_wide_as_draws_and_cases_make_it() -> None:
    # Effects of draws and cases that add up: the variance of a resample's mean is the sum of both variances of a mean.
    rng = np.random.default_rng(0)
    of_draws, of_cases = rng.normal(0, 0.2, size=40), rng.normal(0, 0.3, size=50)
    found = bootstrap_interval(of_draws[:, None] + of_cases[None, :])
    sd = math.sqrt(of_draws.var() / 40 + of_cases.var() / 50)
    assert found.high - found.low == pytest.approx(2 * 1.96 * sd, rel=0.04)
    assert (found.high + found.low) / 2 == pytest.approx(of_draws.mean() + of_cases.mean(), abs=0.05 * sd)


def test_the_bootstrap_keeps_the_pairing() -> None:
    # The same gain everywhere, on scores that vary a lot: no resample can have another gain.
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.9, size=(6, 20))
    found = compare_arms({"arm": scores((low + 0.1).tolist())}, scores(low.tolist()))["arm"]
    assert (found.bootstrap_interval.low, found.bootstrap_interval.high) == pytest.approx((0.1, 0.1))
    assert found.verdict == "better"


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_closed_testing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p_values = rng.uniform(0, 0.2, size=int(rng.integers(1, 7))).round(2).tolist()  # rounded: with ties
    assert holm(p_values) == pytest.approx(slow_holm(p_values))


def test_holm_counts_only_what_was_tested() -> None:
    assert holm([0.02, NAN, 0.03]) == pytest.approx([0.04, NAN, 0.04], nan_ok=True)
    assert holm([]) == []


def test_spread_is_over_draws() -> None:
    values = [[0.1, 0.3, NAN], [0.5, 0.7, 0.9], [0.2, 0.2, 0.2]]
    found = spread(scores(values))
    per_draw = [float(np.nanmean(row)) for row in values]
    assert found.mean == pytest.approx(np.mean(per_draw))
    assert found.sd == pytest.approx(np.std(per_draw, ddof=1))
    assert found.draws == 3
    assert found.interval == t_interval(per_draw)
    assert math.isnan(spread(scores(values[:1])).sd)
    assert math.isnan(spread({}).mean)
    assert spread({0: {"a": NAN}}).draws == 0


def test_differences_are_of_draws_and_cases_that_both_have() -> None:
    arm = {0: {"a": 0.5, "b": 0.2, "c": NAN}, 1: {"a": 1.0}, 2: {"a": NAN}}
    assert paired_differences(arm, {0: {"a": 0.25, "c": 0.1, "d": 1.0}, 2: {"a": 1.0}}) == {0: {"a": 0.25}}


def test_a_clear_gain_is_better_and_its_mirror_image_worse() -> None:
    gains = [0.05, 0.07, 0.06, 0.04, 0.08, 0.06]
    arm, baseline = shifted(gains)
    found = compare_arms({"arm": arm}, baseline)["arm"]
    assert (found.verdict, found.draws, found.cases, found.draws_better) == ("better", 6, 12, 6)
    assert found.difference == pytest.approx(np.mean(gains))
    assert found.sd == pytest.approx(np.std(gains, ddof=1))
    assert found.per_draw == pytest.approx(dict(enumerate(gains)))
    reach = 2.5706 * np.std(gains, ddof=1) / math.sqrt(6)
    assert (found.t_interval.low, found.t_interval.high) == pytest.approx((0.06 - reach, 0.06 + reach), rel=1e-4)
    assert found.p == found.p_holm == pytest.approx(float(stats.ttest_1samp(gains, 0).pvalue))
    back = compare_arms({"arm": baseline}, arm)["arm"]
    assert back.verdict == "worse"
    assert back.difference == pytest.approx(-found.difference)
    assert back.p == pytest.approx(found.p)
    assert back.draws_better == 0


def test_wilcoxon_over_cases_is_of_cases_averaged_over_draws_and_decides_nothing() -> None:
    rng = np.random.default_rng(0)
    low, gain = rng.uniform(0.3, 0.6, size=(2, 10)), rng.uniform(0.05, 0.15, size=(2, 10))
    found = compare_arms({"arm": scores((low + gain).tolist())}, scores(low.tolist()))["arm"]
    assert found.wilcoxon_over_cases_p == pytest.approx(slow_wilcoxon(list(gain.mean(axis=0))))
    assert found.wilcoxon_over_cases_p < 0.01
    assert found.verdict == "no verdict"


def test_p_is_adjusted_for_the_arms_that_are_compared() -> None:
    first, baseline = shifted([0.05, 0.07, 0.06, 0.04, 0.08, 0.06])
    rng = np.random.default_rng(1)
    arms = {"first": first}
    for name in ("second", "third"):
        arms[name] = {
            draw: {c: v + float(rng.normal(0, 0.01)) for c, v in cases.items()} for draw, cases in baseline.items()
        }
    found = compare_arms({**arms, "not run yet": {}}, baseline)
    assert list(found) == list(arms)
    assert [c.p_holm for c in found.values()] == pytest.approx(slow_holm([c.p for c in found.values()]))
    assert found["first"].p_holm == pytest.approx(3 * found["first"].p)


def test_what_p_alone_allows_falls_with_the_number_of_arms() -> None:
    gains = [0.01, 0.05, 0.02, 0.06, 0.0, 0.03]
    arm, baseline = shifted(gains)
    assert 1 / 60 < compare_arms({"arm": arm}, baseline)["arm"].p < 0.05
    assert compare_arms({"arm": arm}, baseline)["arm"].verdict == "better"
    found = compare_arms({"arm": arm, "again": arm, "once more": arm}, baseline)
    assert {comparison.verdict for comparison in found.values()} == {"no clear difference"}


def test_three_draws_allow_no_verdict() -> None:
    gains = [0.03, 0.06, 0.09 + 0.0005]
    arm, baseline = shifted(gains, cases=60)
    found = compare_arms({"arm": arm}, baseline)["arm"]
    assert round(found.p, 2) == 0.07
    assert found.bootstrap_interval.excludes_zero
    assert found.verdict == "no verdict"
    assert explain_no_verdict(found.draws).startswith("no verdict: three draws")


def test_an_arm_against_itself_is_no_clear_difference() -> None:
    same = scores([[0.1, 0.5, 0.7]] * 6)
    found = compare_arms({"arm": same}, same)["arm"]
    assert (found.verdict, found.difference, found.p, found.draws_better) == ("no clear difference", 0.0, 1.0, 0)
    assert math.isnan(gap_closed(same, same, same))


def test_a_study_that_is_cut_short_compares_what_both_have() -> None:
    arm, baseline = scores([[0.5, 0.6], [0.9, 0.9]]), scores([[0.4, 0.4]])
    found = compare_arms({"arm": arm}, baseline)["arm"]
    assert found.draws == 1
    assert found.difference == pytest.approx(0.15)
    assert math.isnan(found.p_holm)
    assert math.isnan(found.t_interval.low)
    assert explain_no_verdict(1).startswith("no verdict: one draw, which has no interval")
    assert math.isnan(gap_closed(arm, baseline, {1: {"case0": 1.0}}))
    assert compare_arms({"arm": arm}, {}) == {}
    assert compare_arms({"arm": arm}, {0: {"other": 1.0}}) == {}


def test_the_gap_is_that_of_what_all_three_have() -> None:
    arm, baseline = {0: {"a": 0.6, "b": 0.9}, 1: {"a": 0.7}}, {0: {"a": 0.5, "b": 0.1}, 1: {"a": 0.5}}
    assert gap_closed(arm, baseline, {0: {"a": 0.9, "b": NAN}}) == pytest.approx(0.1 / 0.4)
    assert gap_closed(arm, baseline, {0: {"a": 0.9}, 1: {"a": 0.9}}) == pytest.approx(0.15 / 0.4)
    assert math.isnan(gap_closed(arm, baseline, {0: {"a": 0.4}}))


WIDE, CLEAR = Interval(-0.1, 0.3), Interval(0.05, 0.15)


@pytest.mark.parametrize(
    ("difference", "p", "intervals", "draws", "verdict"),
    [
        (0.1, 0.049, (CLEAR, CLEAR), 5, "better"),
        (0.1, 0.05, (CLEAR, CLEAR), 5, "no clear difference"),
        (0.1, 0.001, (CLEAR, WIDE), 8, "no clear difference"),
        (0.1, 0.001, (WIDE, CLEAR), 8, "no clear difference"),
        (0.1, NAN, (CLEAR, CLEAR), 8, "no clear difference"),
        (0.1, 0.001, (CLEAR, CLEAR), 4, "no verdict"),
        (-0.1, 0.001, (Interval(-0.15, -0.05),) * 2, 5, "worse"),
        (-0.1, 0.2, (WIDE, WIDE), 5, "no clear difference"),
    ],
)
def test_verdicts(
    difference: float, p: float, intervals: tuple[Interval, Interval], draws: int, verdict: Verdict
) -> None:
    assert classify_difference(difference, p, intervals, draws) == verdict


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.1, 0.1), "better"),
        ((0.1, 0.0), "no clear difference"),
        ((0.1, -0.1), "worse"),
        ((-0.1, -0.1), "worse"),
        ((), "no verdict"),
    ],
)
def test_against_all_baselines(gains: tuple[float, ...], verdict: Verdict) -> None:
    found = []
    for gain in gains:
        arm, baseline = shifted([gain + 0.01 * (draw % 2 or -1) for draw in range(6)])
        found.append(compare_arms({"arm": arm}, baseline)["arm"])
    assert classify_against_all(found) == verdict
    few = compare_arms({"arm": scores([[0.9]])}, scores([[0.1]]))["arm"]
    assert classify_against_all([*found, few]) == "no verdict"


def test_draws_in_words() -> None:
    assert [draws_in_words(number) for number in (0, 1, 3, 12, 13)] == [
        "no draws", "one draw", "three draws", "twelve draws", "13 draws",
    ]  # fmt: skip
    assert "at least five are needed" in explain_no_verdict(MIN_DRAWS - 1)
