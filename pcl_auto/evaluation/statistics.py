"""Compare the scores of several arms: means, paired differences, and how sure they are over draws of labeled cases.

Scores come as ``{draw: {case: value}}``: an arm's value of every draw and test case. A draw is one choice of labeled
cases and one training on them, the same cases in every arm. Draws are the sample, as every user labels other cases:
however many test cases there are, a difference over few draws speaks of these draws alone. Arms are compared on the
draws and cases that both have; NaN is no value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Scores = Mapping[int, Mapping[str, float]]
Verdict = Literal["better", "worse", "no clear difference", "no verdict"]

# With fewer draws no difference counts: the standard deviation of four draws is itself known to 40 % only.
MIN_DRAWS = 5
# Below this chance of the difference under no effect, adjusted for the number of arms, a difference counts.
MAX_P = 0.05
CONFIDENCE = 0.95
RESAMPLES = 10_000
_WORDS = "no one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905


@dataclass(frozen=True)
class Interval:
    """95 % interval; NaN at both ends: none, as one draw says nothing of the spread over draws."""

    low: float = math.nan
    high: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """All of the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Spread:
    """Mean over draws of the mean over cases, its t-interval, and the sample standard deviation over draws."""

    mean: float
    sd: float
    draws: int
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Comparison of an arm with a baseline, on the draws and cases of both.

    ``difference``: mean over draws of the mean paired difference over cases; ``sd``: over draws. ``t_interval``, ``p``:
    of the paired t-test over draws; ``p_holm``: adjusted for the arms that were compared with the same baseline.
    ``bootstrap_interval``: over draws and test cases, see :func:`bootstrap_interval`. ``draws_better``: draws with a
    difference above 0. ``per_draw``: the difference by draw. ``wilcoxon_over_cases_p``: Wilcoxon over test cases, each
    averaged over draws, which says nothing about other draws; no verdict uses it.
    """

    draws: int
    cases: int
    difference: float
    sd: float
    t_interval: Interval
    bootstrap_interval: Interval
    p: float
    p_holm: float
    verdict: Verdict
    draws_better: int
    per_draw: Mapping[int, float]
    wilcoxon_over_cases_p: float

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return asdict(self)


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN when there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def sample_sd(values: Sequence[float]) -> float:
    """Return the sample standard deviation; NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))


def spread(scores: Scores) -> Spread:
    """Return mean, standard deviation and interval of an arm over its draws."""
    means = [value for value in (mean(cases.values()) for cases in scores.values()) if not math.isnan(value)]
    return Spread(mean(means), sample_sd(means), len(means), t_interval(means))


def t_interval(values: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean by Student's t; none for fewer than two values."""
    if len(values) < 2:
        return Interval()
    from scipy import stats  # slow to import

    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * sample_sd(values) / math.sqrt(len(values))
    return Interval(mean(values) - reach, mean(values) + reach)


def t_test_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the paired t-test; 1 when none differs, NaN for fewer than two differences."""
    if len(differences) < 2:
        return math.nan
    if not any(differences):
        return 1.0
    from scipy import stats  # slow to import

    error = sample_sd(differences) / math.sqrt(len(differences))
    t = abs(mean(differences)) / error if error else math.inf
    return float(2 * stats.t.sf(t, len(differences) - 1))


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Return the two-sided Wilcoxon signed-rank p of paired differences; 1 when none differs, NaN without any."""
    if not differences:
        return math.nan
    if not any(differences):
        return 1.0
    from scipy import stats  # slow to import

    return float(stats.wilcoxon(differences).pvalue)


def bootstrap_interval(differences: npt.NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the two-way bootstrap interval (percentiles) of the mean over draws of the mean over test cases.

    Every resample takes as many draws and as many test cases as there are, both with replacement and independently of
    each other, and averages the differences where the drawn rows and columns cross (the pigeonhole bootstrap: Owen,
    Annals of Applied Statistics 1, 386, 2007). The differences are paired already, and remain so.

    Args:
        differences: (draws, cases); NaN where a case has no value.
        resamples: how many.
        seed: of the resamples.
    """
    draws, cases = differences.shape
    if draws < 2:
        return Interval()
    rng = np.random.default_rng(seed)
    draw_counts, case_counts = _counts(rng, draws, resamples), _counts(rng, cases, resamples)
    defined = ~np.isnan(differences)
    with np.errstate(invalid="ignore"):  # 0 / 0: no case of the resample has a value
        per_draw = (case_counts @ np.where(defined, differences, 0).T) / (case_counts @ defined.T)
        weights = draw_counts * ~np.isnan(per_draw)
        means = (weights * np.nan_to_num(per_draw)).sum(axis=1) / weights.sum(axis=1)
    low, high = np.nanquantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _counts(rng: np.random.Generator, size: int, resamples: int) -> npt.NDArray[np.float64]:
    """Draw ``size`` of ``size`` things with replacement; return how often each is among them: (resamples, size)."""
    drawn = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, Scandinavian Journal of Statistics 6, 65, 1979); NaN counts as none."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted


def paired_differences(arm: Scores, baseline: Scores) -> dict[int, dict[str, float]]:
    """Return arm minus baseline by draw and case, where both have a value; draws without any are left out."""
    paired = {}
    for draw in sorted(arm.keys() & baseline.keys()):
        own, other = arm[draw], baseline[draw]
        cases = {case: own[case] - other[case] for case in sorted(own.keys() & other.keys())}
        defined = {case: value for case, value in cases.items() if not math.isnan(value)}
        if defined:
            paired[draw] = defined
    return paired


def compare_arms(arms: Mapping[str, Scores], baseline: Scores) -> dict[str, Comparison]:
    """Compare each of ``arms`` with ``baseline``, p adjusted for their number; without those that share no score."""
    found = {name: _compare(paired) for name in arms if (paired := paired_differences(arms[name], baseline))}
    adjusted = holm([comparison.p for comparison in found.values()])
    return {
        name: replace(
            comparison,
            p_holm=p,
            verdict=classify_difference(
                comparison.difference, p, (comparison.t_interval, comparison.bootstrap_interval), comparison.draws
            ),
        )
        for (name, comparison), p in zip(found.items(), adjusted, strict=True)
    }


def _compare(paired: Mapping[int, Mapping[str, float]]) -> Comparison:
    """Describe paired differences; ``p_holm`` and ``verdict`` need the other arms and are not known yet."""
    names = sorted(set[str]().union(*paired.values()))
    table = np.array([[cases.get(name, math.nan) for name in names] for cases in paired.values()])
    per_draw = {draw: mean(cases.values()) for draw, cases in paired.items()}
    differences = list(per_draw.values())
    return Comparison(
        draws=len(paired),
        cases=len(names),
        difference=mean(differences),
        sd=sample_sd(differences),
        t_interval=t_interval(differences),
        bootstrap_interval=bootstrap_interval(table),
        p=t_test_p(differences),
        p_holm=math.nan,
        verdict="no verdict",
        draws_better=sum(difference > 0 for difference in differences),
        per_draw=per_draw,
        wilcoxon_over_cases_p=wilcoxon_p([mean(column) for column in table.T.tolist()]),
    )


def classify_difference(difference: float, p_holm: float, intervals: Iterable[Interval], draws: int) -> Verdict:
    """Classify a difference: it counts with p below .05 after adjustment and 0 outside of every interval."""
    if draws < MIN_DRAWS:
        return "no verdict"
    if not (p_holm < MAX_P and all(interval.excludes_zero for interval in intervals)):
        return "no clear difference"
    return "better" if difference > 0 else "worse"


def classify_against_all(comparisons: Iterable[Comparison]) -> Verdict:
    """Classify an arm by its comparisons with all baselines: better than every one, or worse than one, or neither."""
    verdicts = {comparison.verdict for comparison in comparisons}
    if not verdicts or "no verdict" in verdicts:
        return "no verdict"
    if verdicts == {"better"}:
        return "better"
    return "worse" if "worse" in verdicts else "no clear difference"


def draws_in_words(draws: int) -> str:
    """Return a number of draws in words, as "three draws"."""
    number = _WORDS[draws] if draws < len(_WORDS) else str(draws)
    return f"{number} draw{'s' * (draws != 1)}"


def explain_no_verdict(draws: int) -> str:
    """Say why so few draws allow no verdict."""
    interval = ", which has no interval" if draws == 1 else ""
    return f"no verdict: {draws_in_words(draws)}{interval} (at least {_WORDS[MIN_DRAWS]} are needed)"


def gap_closed(arm: Scores, baseline: Scores, ceiling: Scores) -> float:
    """Return (arm − baseline) / (ceiling − baseline) of the means over the draws and cases that all three have.

    NaN where the ceiling is no higher than the baseline, or nothing is shared.
    """
    gained, missing = [], []
    gains, gaps = paired_differences(arm, baseline), paired_differences(ceiling, baseline)
    for draw in sorted(gains.keys() & gaps.keys()):
        shared = gains[draw].keys() & gaps[draw].keys()
        gained.append(mean(gains[draw][case] for case in shared))
        missing.append(mean(gaps[draw][case] for case in shared))
    return mean(gained) / mean(missing) if mean(missing) > 0 else math.nan
