"""Compare the scores of several arms: means, paired differences, and how sure they are.

Scores come as ``{seed: {case: value}}``, an arm's value of every test case and training seed. Arms are compared on the
seeds and cases that both have. The test takes cases as the sample, averaged over seeds: it speaks of these draws of
labeled cases, which is why a verdict also asks every seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Scores = Mapping[int, Mapping[str, float]]
Verdict = Literal["helped", "did not help", "no clear difference"]

# Below this chance of the difference under no effect a gain counts.
MAX_P = 0.01


@dataclass(frozen=True)
class Spread:
    """Mean over seeds of the mean over cases, and the sample standard deviation over seeds; NaN: none."""

    mean: float
    sd: float
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """Comparison of an arm with the supervised one, on the seeds and cases of both."""

    seeds: int
    cases: int
    difference: float
    p: float
    """Two-sided Wilcoxon signed-rank test over cases, each averaged over seeds; NaN without any."""
    seeds_better: int
    per_seed: tuple[dict[str, float], ...]
    """Per seed the ``difference`` and the ``p`` over its cases."""
    gap_closed: float
    """Share of the way from supervised to all labels; NaN where all labels are no better, or not there."""
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return asdict(self)


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN when there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def spread(scores: Scores) -> Spread:
    """Return mean and standard deviation of an arm over its seeds."""
    means = [value for value in (mean(cases.values()) for cases in scores.values()) if not math.isnan(value)]
    if not means:
        return Spread(math.nan, math.nan, 0)
    center = mean(means)
    squares = math.fsum((value - center) ** 2 for value in means)
    return Spread(center, math.sqrt(squares / (len(means) - 1)) if len(means) > 1 else math.nan, len(means))


def paired_p(differences: Sequence[float]) -> float:
    """Return the two-sided Wilcoxon signed-rank p of paired differences; 1 when none differs, NaN without any."""
    if not differences:
        return math.nan
    if not any(differences):
        return 1.0
    from scipy import stats  # slow to import

    return float(stats.wilcoxon(differences).pvalue)


def least_p(cases: int) -> float:
    """Return the smallest p that ``cases`` paired cases can give: all of them differ in one direction."""
    return min(1.0, 2.0 ** (1 - cases))


def differences(arm: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return arm minus other, case by case, for the cases in which both have a value."""
    both = {case: arm[case] - other[case] for case in sorted(arm.keys() & other.keys())}
    return {case: value for case, value in both.items() if not math.isnan(value)}


def compare(arm: Scores, supervised: Scores, all_labels: Scores | None = None) -> Comparison | None:
    """Compare ``arm`` with ``supervised``; None when they share no seed with a case that both have scored."""
    paired = {seed: differences(arm[seed], supervised[seed]) for seed in sorted(arm.keys() & supervised.keys())}
    paired = {seed: cases for seed, cases in paired.items() if cases}
    if not paired:
        return None
    names = sorted(set[str]().union(*paired.values()))
    averaged = [mean(cases[name] for cases in paired.values() if name in cases) for name in names]
    per_seed = tuple(
        {"seed": seed, "difference": mean(cases.values()), "p": paired_p(list(cases.values()))}
        for seed, cases in paired.items()
    )
    difference = mean(entry["difference"] for entry in per_seed)
    better = sum(entry["difference"] > 0 for entry in per_seed)
    p = paired_p(averaged)
    return Comparison(
        seeds=len(paired),
        cases=len(names),
        difference=difference,
        p=p,
        seeds_better=better,
        per_seed=per_seed,
        gap_closed=_gap_closed(arm, supervised, all_labels or {}),
        verdict=classify_effect(difference, p, better, len(paired)),
    )


def classify_effect(difference: float, p: float, seeds_better: int, seeds: int) -> Verdict:
    """Say that an arm helped if better on every seed with p below 0.01, and did not if on average no better."""
    if difference <= 0:
        return "did not help"
    return "helped" if seeds_better == seeds and p < MAX_P else "no clear difference"


def _gap_closed(arm: Scores, supervised: Scores, all_labels: Scores) -> float:
    seeds = arm.keys() & supervised.keys() & all_labels.keys()
    low, reached, high = (
        mean(mean(scores[seed].values()) for seed in seeds) for scores in (supervised, arm, all_labels)
    )
    return (reached - low) / (high - low) if high > low else math.nan
