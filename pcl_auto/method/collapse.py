"""Tell unusable pseudo-labels and collapsed networks from volumes and the validation Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pcl_auto.method.pseudo_labels import labeled_range

# The validation Dice of a moment is the mean over so many epochs: that of one epoch is a few patches' alone.
EPOCHS_OF_A_DICE = 5

# Case to class to volume in milliliters.
Volumes = Mapping[str, Mapping[str, float]]


def unusable_reasons(volumes: Volumes, labeled_volumes_ml: Mapping[str, np.ndarray], *, margin: float) -> list[str]:
    """List why a round should not learn from pseudo-labels of these ``volumes``; empty where it may.

    They hold no foreground at all, or a class is far from what the labeled cases show, as where one has swallowed the
    others: a network that learns from such masks only becomes surer of them.

    Args:
        volumes: of the cases that the round would use.
        labeled_volumes_ml: volumes of each class in the labeled cases; none where they are not known.
        margin: widens the labeled range, which the median of a class must not leave; 0 for any volume.
    """
    if not any(volume for classes in volumes.values() for volume in classes.values()):
        return ["all background"]
    reasons = []
    for name, known in labeled_volumes_ml.items() if margin else ():
        median = np.median([classes[name] for classes in volumes.values()])
        low, high = labeled_range(known, margin)
        # Of a class that no labeled case holds nothing is known.
        if not low <= median <= high and known.max() > 0:
            reasons.append(f"the median volume of {name} is {median:.3g} ml, {_labeled(known)}")
    return reasons


def _labeled(volumes_ml: np.ndarray) -> str:
    return f"labeled cases {volumes_ml.min():.3g} to {volumes_ml.max():.3g}"


def collapse(
    before: Volumes, after: Volumes, labeled_volumes_ml: Mapping[str, np.ndarray], *, margin: float
) -> list[str]:
    """List the signs of a collapse in the segmentations ``after`` a round; empty where there is none.

    A class collapses where it vanishes from more than half of the cases that had it, or where its median volume leaves
    the labeled range. What was so before the round is not the round's doing, and going back would not mend it.

    Args:
        before: volumes as segmented at the start of the round; at least the cases of ``after``.
        after: volumes as segmented by the network that came out of it.
        labeled_volumes_ml: volumes of each class in the labeled cases; none where they are not known.
        margin: widens the labeled range, see :func:`pcl_auto.method.pseudo_labels.labeled_range`.
    """
    reasons = []
    for name, known in labeled_volumes_ml.items() if after else ():
        earlier = np.array([before[case][name] for case in after])
        now = np.array([after[case][name] for case in after])
        had, lost = np.count_nonzero(earlier), np.count_nonzero((earlier > 0) & (now == 0))
        if lost > had / 2 and (not known.size or known.max() > 0):
            where = "everywhere" if not now.any() else f"in {lost} of the {had} cases that had it"
            reasons.append(f"{name} has vanished {where}")
            continue
        low, high = labeled_range(known, margin)
        if low <= np.median(earlier) <= high and not low <= np.median(now) <= high:
            reasons.append(
                f"the median volume of {name} went from {np.median(earlier):.3g} to {np.median(now):.3g} ml, "
                f"{_labeled(known)}"
            )
    return reasons


def validation_collapse(dice: Sequence[float], start: int, first: int, last: int, *, drop: float) -> list[str]:
    """List the signs of a collapse in the validation Dice of the epochs ``first <= epoch < last``.

    Args:
        dice: mean foreground Dice of every epoch so far.
        start: epochs that the network had behind it, in its own past, when the round began; ``first`` but where an
            earlier round was rolled back.
        first: the round's first epoch.
        last: the epoch after its last.
        drop: the largest drop that is no collapse.
    """
    if start == 0:  # the network comes from another training, whose Dice is not known here
        return []
    before = float(np.mean(dice[max(0, start - EPOCHS_OF_A_DICE) : start]))
    after = float(np.mean(dice[max(first, last - EPOCHS_OF_A_DICE) : last]))
    return [f"the validation Dice fell from {before:.3f} to {after:.3f}"] if before - after > drop else []
