"""Choose unlabeled cases to label next: uncertain ones, unlike the labeled cases and unlike each other.

Sener & Savarese (ICLR 2018, "Active learning for convolutional neural networks: a core-set approach") choose the case
that is farthest from all that is labeled or chosen already. Here that distance is weighted by how uncertain the case
is, so that a scan is not chosen for its oddity alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

# A sign is named as a reason where it is stronger than in this share of the cases.
STRIKING = 0.75


def standing(values: np.ndarray) -> np.ndarray:
    """Rank each value among those that are known, over their number, so in (0, 1]; equal values share their mean.

    Args:
        values: shape (N,); NaN where nothing is known, and stays NaN.
    """
    ranks: np.ndarray = rankdata(values, nan_policy="omit")
    ranks /= max(1, np.count_nonzero(~np.isnan(values)))
    return ranks


def uncertainty(signs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how uncertain each case is among the others, shape (N,), in (0, 1]; 0.5 where nothing is known of any.

    Args:
        signs: of disagreement, each of shape (N,), the larger the less certain; NaN where not known. A sign counts by
            its :func:`standing`, since a Dice and a number of remarks have no common scale.
    """
    ranks = np.stack([standing(values) for values in signs.values()])
    known = ~np.isnan(ranks)
    found: np.ndarray = np.where(known, ranks, 0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), found, 0.5)


def standardized(features: np.ndarray) -> np.ndarray:
    """Scale ``features`` (N, F) to mean 0 and deviation 1 in each column; 0 in a column in which all are equal.

    Raises:
        ValueError: a feature is not finite.
    """
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite")
    wide = features.astype(np.float64)
    constant = (wide == wide[:1]).all(0)
    deviation = np.where(constant, 1.0, wide.std(0))
    return np.where(constant, 0.0, (wide - wide.mean(0)) / deviation)


def nearest(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each of ``features`` (N, F) to the nearest of ``centers`` (M, F), shape (N,)."""
    found = np.full(len(features), np.inf)
    for center in centers:  # one after the other: all pairs at once would take N times M times F numbers
        found = np.minimum(found, np.linalg.norm(features - center, axis=1))
    return found


def diverse_batch(features: np.ndarray, labeled: np.ndarray, weights: np.ndarray, number: int) -> list[int]:
    """Choose the rows of ``features`` to label next, in the order in which they are chosen.

    Each is the one with the largest product of its weight and its distance to what is labeled or chosen; of equal
    ones that with the larger weight, then the first.

    Args:
        features: of the unlabeled cases, shape (N, F).
        labeled: of the labeled cases, shape (M, F), M ≥ 1.
        weights: of the unlabeled cases, shape (N,), positive.
        number: so many, or all where there are fewer.
    """
    distances, chosen = nearest(features, labeled), list[int]()
    open_ = np.ones(len(features), dtype=bool)
    for _ in range(min(number, len(features))):
        order = np.lexsort((np.arange(len(features)), -weights, -distances * weights))
        best = int(next(row for row in order if open_[row]))
        chosen.append(best)
        open_[best] = False
        distances = np.minimum(distances, np.linalg.norm(features - features[best], axis=1))
    return chosen


def reasons(
    row: int, dice: Mapping[str, np.ndarray], remarks: Sequence[Sequence[str]], distances: np.ndarray
) -> list[str]:
    """List in words and numbers what speaks for labeling the case of ``row``; never empty.

    Args:
        row: of a case.
        dice: what was measured of every case, each by what a low value means, shape (N,); NaN where not known.
        remarks: of every case, on its volumes.
        distances: of every case to the nearest labeled one, shape (N,).
    """
    found = []
    for meaning, values in dice.items():
        if standing(-values)[row] > STRIKING and values[row] < np.nanmedian(values):
            found.append(f"{meaning}: Dice {values[row]:.3f} (median of all {np.nanmedian(values):.3f})")
    found += remarks[row]
    nearer = np.count_nonzero(distances < distances[row]) / max(1, len(distances) - 1)
    if nearer >= STRIKING:
        found.append(f"unlike any labeled case: farther than {nearer:.0%} of the others")
    return found or [f"no sign stands out: farther from the labeled cases than {nearer:.0%} of the others"]
