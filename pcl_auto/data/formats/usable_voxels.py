"""Intensities that a network can be shown: not one value alone, and neither too large nor too small for nnU-Net."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pcl_auto.errors import DataError, Problem

# nnU-Net adds up squares of intensities in 32 bits, which end at 3.4e38: this leaves room for 3e10 voxels.
MAX_INTENSITY = 1e14
# It divides by their standard deviation, or by this where that is smaller: such an image would stay nearly constant.
MIN_DEVIATION = 1e-8
# Intensities of a scan are more, and larger, than values of labels, unless there are many classes.
FEW_VALUES = 8


@dataclass
class Spread:
    """Smallest, largest and standard deviation of a channel's values, all finite, gathered part by part."""

    low: float = math.inf
    high: float = -math.inf
    _count: int = 0
    _mean: float = 0.0
    _squares: float = 0.0

    def add(self, values: npt.NDArray[np.number]) -> None:
        """Take in finite values, of any shape."""
        if not values.size:
            return
        self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())
        with np.errstate(over="ignore", invalid="ignore"):  # where squares overflow the range is refused anyway
            mean = float(values.mean(dtype=np.float64))
            squares = float(np.square(np.subtract(values, mean, dtype=np.float64)).sum())
            # Chan et al., Algorithms for computing the sample variance (1983), Eq. 1.5.
            count = self._count + values.size
            self._squares += squares + (mean - self._mean) ** 2 * self._count * values.size / count
            self._mean += (mean - self._mean) * values.size / count
        self._count = count

    @property
    def is_constant(self) -> bool:
        """True if there is one value alone, or none."""
        return self.low >= self.high

    @property
    def deviation(self) -> float:
        """Standard deviation; 0 where there are no values."""
        return math.sqrt(self._squares / self._count) if self._count else 0.0

    def out_of_range(self, where: str, channel: str = "") -> list[Problem]:
        """Return the problem of intensities that nnU-Net cannot normalize; a constant is none, it has its own.

        Args:
            where: the file, for the problem.
            channel: as in "channel 1", or empty where there is but one.
        """
        named = f" of {channel}" if channel else ""
        if self.is_constant:
            return []
        if not max(abs(self.low), abs(self.high)) <= MAX_INTENSITY:
            fix = "restore the image from its source, or scale its values: squares of these are infinite in 32 bits"
            found = f"{self.low:g} to {self.high:g}{named}"
            what, expected = "intensities are too large", f"at most {MAX_INTENSITY:g}"
            return [Problem("data.intensities-too-large", what, where, fix, expected, found)]
        if not self.deviation >= MIN_DEVIATION:
            fix = "restore the image from its source, or scale its values, for example to larger units"
            found = f"{self.deviation:.2g}{named}"
            what, expected = "intensities hardly differ", f"a standard deviation of {MIN_DEVIATION:g} or more"
            return [Problem("data.intensities-too-small", what, where, fix, expected, found)]
        return []


def remarks_on(image: npt.NDArray[np.number]) -> tuple[str, ...]:
    """Say what is odd about an image to segment, shape (C, z, y, x): channels that are alike, values of a label map."""
    pairs = [
        f"channels {first} and {second} are the same"
        for first, second in combinations(range(len(image)), 2)
        if np.array_equal(image[first], image[second])
    ]
    like_labels = [
        "the scan looks like a label map" + (f" in channel {index}" if len(image) > 1 else "")
        for index, channel in enumerate(image)
        if channel.min() >= 0 and channel.max() <= FEW_VALUES and (channel == np.rint(channel)).all()
    ]
    return (*pairs, *like_labels)


def refuse_unusable(image: npt.NDArray[np.number], where: str) -> None:
    """Refuse an image to segment in which there is nothing to be seen, or nothing that nnU-Net can see.

    Args:
        image: shape (C, z, y, x), finite.
        where: the scan, for the problems.

    Raises:
        DataError: channels that are constant, or whose intensities are too large or too small: all of them.
    """
    problems: list[Problem] = []
    for index, channel in enumerate(image):
        spread = Spread()
        # Slice by slice, so that no array is as large as the image.
        for plane in channel:
            spread.add(plane)
        name = f"channel {index}" if len(image) > 1 else ""
        if spread.is_constant:
            what, fix = "image is constant", "restore the image from its source: nothing is to be seen in it"
            found = f"{spread.low:g} everywhere" + (f" in {name}" if name else "")
            problems.append(Problem("data.constant", what, where, fix, "more than one value", found))
        problems += spread.out_of_range(where, name)
    if problems:
        raise DataError(problems)
