"""Find what is odd about a data set: scans that are there twice, or unlike the others.

Only a test scan whose label is trained on makes a data set unusable; the rest is for a person to look at.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pcl_auto.data.formats.nifti import Volume
from pcl_auto.errors import Problem, format_names

Features = npt.NDArray[np.float64]
# By case.
Scans = Mapping[str, Volume]

# A scan is an outlier beyond this many robust standard deviations from the median of all scans.
FAR = 6.0
# The spread of a measure counts as at least this, in its own (mostly logarithmic) units: protocols vary.
MIN_SPREAD = 0.1
# Fewer scans than this say nothing of what is usual.
MIN_SCANS = 5
# Groups are compared with as few as one or two labeled scans, which may differ by chance: only larger distances, and
# larger groups, than these are reported.
FAR_GROUP = 4.0
MIN_GROUP = 10
# Channels are swapped if another order of them fits better by this factor.
MUCH_BETTER = 3.0
_LISTED = 8


def examine(groups: Mapping[str, Scans], where: str, *, ct: bool) -> tuple[list[Problem], list[Problem]]:
    """Find what is wrong, and what is worth a look, in a data set whose files can be read.

    Args:
        groups: the scans by role: "labeled", "unlabeled", "test".
        where: the data set's folder.
        ct: intensities are Hounsfield units, which mean the same in every scan; in MR only their pattern does, since
            nnU-Net takes away scale and offset of each scan.

    Returns:
        The problems of test scans whose labels are trained on, and warnings.
    """
    wrong, warnings = _duplicates(groups, where)
    everything = {case: scan for scans in groups.values() for case, scan in scans.items()}
    if len(everything) >= MIN_SCANS:
        warnings += _orientations(everything, where)
        warnings += _swapped_channels(everything, where)
        warnings += _outliers(everything, where, ct=ct)
        warnings += _shifts(groups, where, ct=ct)
    return wrong, warnings


def _duplicates(groups: Mapping[str, Scans], where: str) -> tuple[list[Problem], list[Problem]]:
    """Find scans with the same voxels under different names, by the roles that they have."""
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for role, scans in groups.items():
        for case, scan in scans.items():
            same[scan.digest].append((role, case))
    wrong, warnings = [], []
    for twins in same.values():
        if len(twins) < 2:
            continue
        roles = {role for role, _ in twins}
        found = " = ".join(f"{case} ({role})" for role, case in twins)
        expected = "every scan once"
        if {"labeled", "test"} <= roles:
            code, what = "data.labeled-twin-in-test", "a labeled scan is a test scan too"
            fix = "take it out of the test scans: a score on it says nothing"
            wrong.append(Problem(code, what, where, fix, expected, found))
        elif {"unlabeled", "test"} <= roles:
            code, what = "data.unlabeled-twin-in-test", "an unlabeled scan is a test scan too"
            fix = "take it out of one of the two, or say with the scores that the model has seen it, without its label"
            warnings.append(Problem(code, what, where, fix, expected, found))
        else:
            code, what = "data.twins", "one scan under several names"
            fix = "take all but one of them out: twins count twice in every loss, and split what is to be held out"
            warnings.append(Problem(code, what, where, fix, expected, found))
    return wrong, warnings


def _orientations(scans: Scans, where: str) -> list[Problem]:
    """Find scans whose axes run otherwise than those of most."""
    codes = {case: "".join(nib.aff2axcodes(np.asarray(scan.affine))) for case, scan in scans.items()}
    usual, often = Counter(codes.values()).most_common(1)[0]
    others = [case for case, code in codes.items() if code != usual]
    if not others or often <= len(scans) / 2:
        return []
    fix = "nothing, if the headers are right; else reorient them: nnU-Net trains on the axes as they are stored"
    named = format_names((f"{case} {codes[case]}" for case in others), _LISTED)
    found = f"{len(others)} of {len(scans)} otherwise: {named}"
    return [Problem("data.other-axes", "scans are stored along other axes than the rest", where, fix, usual, found)]


def _features(scan: Volume) -> Features:
    """Return median and interquartile range of every channel, shape (channels, 2)."""
    return np.array([(middle, high - low) for low, middle, high in scan.quartiles])


def _swapped_channels(scans: Scans, where: str) -> list[Problem]:
    """Find scans whose channels look like those of the rest in another order."""
    channels = next(iter(scans.values())).channels
    if not 2 <= channels <= 6:
        return []
    table = {case: np.arcsinh(_features(scan)) for case, scan in scans.items() if scan.channels == channels}
    center, spread = _center_and_spread(np.stack(list(table.values())))
    swapped = []
    for case, own in table.items():
        far = {
            order: float(np.abs((own[list(order)] - center) / spread).mean())
            for order in itertools.permutations(range(channels))
        }
        best = min(far, key=far.__getitem__)
        as_it_is = far[tuple(range(channels))]
        if as_it_is > MUCH_BETTER and far[best] * MUCH_BETTER < as_it_is:
            swapped.append(f"{case} (as {', '.join(map(str, best))})")
    if not swapped:
        return []
    fix = "look at these scans, and store their channels in the order of dataset.json"
    what, expected = "channels look swapped", "the channels' intensities of the other scans"
    return [Problem("data.channels-swapped", what, where, fix, expected, format_names(swapped, _LISTED))]


def _outliers(scans: Scans, where: str, *, ct: bool) -> list[Problem]:
    """Find scans whose intensities, spacing or extent are far from those of all scans."""
    warnings = []
    for name, values in _measures(scans, ct=ct).items():
        numbers = np.array(list(values.values()))
        center, spread = _center_and_spread(numbers)
        far = [case for case, value in values.items() if abs(value - center) > FAR * spread]
        if far:
            shown = format_names((f"{case} {_to_units(name, values[case]):.3g}" for case in far), _LISTED)
            fix = "look at these scans: a unit, a rescaling or a crop may be wrong"
            expected = f"about {_to_units(name, float(center)):.3g}"
            warnings.append(Problem("data.outlier", f"{name} unlike the other scans", where, fix, expected, shown))
    return warnings


def _shifts(groups: Mapping[str, Scans], where: str, *, ct: bool) -> list[Problem]:
    """Find roles whose scans differ from the labeled ones as a whole."""
    labeled = groups.get("labeled")
    warnings = []
    for role, scans in groups.items():
        if not labeled or role == "labeled" or len(scans) < MIN_GROUP:
            continue
        ours, theirs = ({**_measures(each, ct=ct), **_skews(each)} for each in (labeled, scans))
        for name in sorted(ours.keys() & theirs.keys()):
            own, numbers = (np.array(list(each[name].values())) for each in (ours, theirs))
            low, high = np.quantile(numbers, (0.05, 0.95))
            # What the labels show is not what there is to segment: not one labeled scan lies among the others.
            outside = own.max() < low or own.min() > high
            center, spread = _center_and_spread(numbers)
            here, there = float(np.median(own)), float(center)
            if outside and abs(here - there) > FAR_GROUP * spread:
                what = f"{name} of {role} scans unlike the labeled ones"
                fix = "label some of these scans too, if they are what the model is for"
                found = f"about {_to_units(name, there):.3g}"
                warnings.append(Problem("data.shifted", what, where, fix, f"about {_to_units(name, here):.3g}", found))
    return warnings


def _measures(scans: Scans, *, ct: bool) -> dict[str, dict[str, float]]:
    """Return the numbers that scans are compared by, by name and case; lengths and ranges as logarithms."""
    measures: dict[str, dict[str, float]] = {}
    for axis, name in enumerate("xyz"):
        measures[f"spacing along {name} (mm)"] = {
            case: float(np.log(scan.spacing_mm[axis])) for case, scan in scans.items()
        }
        measures[f"extent along {name} (mm)"] = {
            case: float(np.log(scan.spacing_mm[axis] * scan.shape[axis])) for case, scan in scans.items()
        }
    for channel, which in _channels(scans) if ct else ():
        features = {case: _features(scan)[channel] for case, scan in scans.items()}
        measures[f"range of HU{which}"] = {
            case: float(np.log(max(width, 1e-6))) for case, (_, width) in features.items()
        }
        # In hundreds of Hounsfield units, so that a tenth of one is a tissue's worth.
        measures[f"median HU / 100{which}"] = {case: float(middle) / 100 for case, (middle, _) in features.items()}
    return measures


def _channels(scans: Scans) -> list[tuple[int, str]]:
    """Return the channels that all scans have, each with its name for a message."""
    channels = min(scan.channels for scan in scans.values())
    return [(channel, f" of channel {channel}" if channels > 1 else "") for channel in range(channels)]


def _skews(scans: Scans) -> dict[str, dict[str, float]]:
    """Return the skewness of intensities, for groups alone: in single scans it varies too much."""
    return {
        f"skew of intensities{which}": {case: _skew(scan, channel) for case, scan in scans.items()}
        for channel, which in _channels(scans)
    }


def _skew(scan: Volume, channel: int) -> float:
    """Return Bowley's skewness of a channel's nonzero voxels, from -1 to 1; scale and offset cancel out."""
    low, middle, high = scan.quartiles[channel]
    return (high + low - 2 * middle) / (high - low) if high > low else 0.0


def _to_units(name: str, value: float) -> float:
    """Return a measure in the unit that its name says."""
    return value if name.startswith(("median HU", "skew")) else float(np.exp(value))


def _center_and_spread(values: Features) -> tuple[Features, Features]:
    """Return the median and a robust standard deviation (from the median absolute deviation) along the first axis."""
    center = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - center), axis=0)
    return center, np.maximum(spread, MIN_SPREAD)
