"""Estimate the confidence of a segmentation without the truth: expected Dice, and consistency under perturbations.

A scan is judged by its place among the scans that the network was trained with and had no labels of, and by what the
labeled cases show of volumes; a flagged scan comes with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pcl_auto.method.label_maps import Classes, mean_dice
from pcl_auto.method.pseudo_labels import volume_remark

# Of the scans of the training that had no label: the least certain share of them is what "review" means.
REVIEW_SHARE = 0.1
# Fewer scans than this have no tenth.
MIN_REFERENCES = 10
# What an image is perturbed by: a blur (standard deviation in voxels), and more brightness (in its normalized units).
BLUR_VOXELS = 1.0
BRIGHTNESS = 0.4
# Segmentations behind a confidence: of the scan, and of the scan perturbed in both ways.
PASSES = 3


@dataclass(frozen=True)
class Reference:
    """Confidences of the training's unlabeled scans, and for each class the range of volumes (ml) to expect."""

    confidences: tuple[float, ...] = ()
    ranges_ml: Mapping[str, tuple[float, float]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the reference as plain values; ``Reference.from_dict`` reads it back."""
        ranges = None if self.ranges_ml is None else {name: list(bounds) for name, bounds in self.ranges_ml.items()}
        return {"confidences": sorted(self.confidences), "ranges_ml": ranges}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reference:
        """Make the reference of :meth:`as_dict`."""
        ranges = values["ranges_ml"]
        bounds = None if ranges is None else {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
        # "certainties" in files of version 0.1.
        return cls(tuple(map(float, values.get("confidences", values.get("certainties", ())))), bounds)


@dataclass(frozen=True)
class Quality:
    """Confidence of a segmentation, and whether somebody should review it.

    ``confidence``: see :func:`confidence`, from 0 to 1; an order among scans, not a Dice; None where nobody looked.
    ``percentile``: the share of the reference scans that are less certain, None without a reference.
    ``review``: whether somebody should look at it, and ``reasons`` why.
    """

    confidence: float | None
    percentile: float | None
    review: bool
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the quality as plain values; ``certainty`` is the name of ``confidence`` until version 0.3."""
        return {**self.__dict__, "reasons": list(self.reasons), "certainty": self.confidence}


def expected_dice(logits: Tensor, *, regions: bool = False) -> float:
    """Return the mean Dice to a truth drawn from the network's own probabilities; 1 where all is background.

    Args:
        logits: shape (K, z, y, x); of classes with the background first, or of regions.
        regions: whether channels are regions, which may overlap.
    """
    sums = np.zeros((3, len(logits)))  # probability inside the segmentation, of the whole scan, and voxels
    for part in torch.split(logits, 8, dim=1):  # probabilities of a whole scan would take several times its logits
        values = torch.sigmoid(part.float()) if regions else torch.softmax(part.float(), 0)
        inside = values > 0.5 if regions else _one_hot(part.argmax(0), len(part))
        sums += np.array([[float(x.sum()) for x in each] for each in (values * inside, values, inside)])
    certain, whole, voxels = sums[:, 0 if regions else 1 :]
    there = voxels > 0
    return float(np.mean(2 * certain[there] / (whole + voxels)[there])) if there.any() else 1.0


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.stack([labels == value for value in range(classes)])


def perturbed(image: np.ndarray, *, in_plane: bool) -> list[np.ndarray]:
    """Return a scan (C, z, y, x) blurred and brightened: changes that would mislead no reader.

    Args:
        image: with normalized intensities.
        in_plane: whether slices are left apart, as for a network of two dimensions.
    """
    blur = (0.0, 0.0 if in_plane else BLUR_VOXELS, BLUR_VOXELS, BLUR_VOXELS)
    return [ndimage.gaussian_filter(image, blur), image + np.asarray(BRIGHTNESS, dtype=image.dtype)]


def confidence(
    segment: Callable[[np.ndarray], Tensor],
    labels_of: Callable[[Tensor], np.ndarray],
    image: np.ndarray,
    classes: Classes,
    *,
    regions: bool,
    in_plane: bool,
) -> float:
    """Return the mean of :func:`expected_dice` and of the Dice under each perturbation, from 0 to 1.

    Args:
        segment: logits (K, z, y, x) of a preprocessed image (C, z, y, x).
        labels_of: the label map (z, y, x) of logits.
        image: preprocessed, shape (C, z, y, x).
        classes: foreground classes or regions.
        regions: whether the logits are of regions.
        in_plane: see :func:`perturbed`.
    """
    logits = segment(image)
    labels, sure = labels_of(logits), expected_dice(logits, regions=regions)
    del logits  # of a large scan they are larger than it
    return float(np.mean([sure, *consistency(labels, segment, labels_of, image, classes, in_plane=in_plane)]))


def consistency(
    labels: np.ndarray,
    segment: Callable[[np.ndarray], Tensor],
    labels_of: Callable[[Tensor], np.ndarray],
    image: np.ndarray,
    classes: Classes,
    *,
    in_plane: bool,
) -> list[float]:
    """Return the Dice of a segmentation to that of the scan under each perturbation; see :func:`confidence`.

    Args:
        labels: the segmentation, shape (z, y, x).
        segment: as there.
        labels_of: as there.
        image: preprocessed, shape (C, z, y, x).
        classes: foreground classes or regions.
        in_plane: see :func:`perturbed`.
    """
    return [mean_dice(labels, labels_of(segment(other)), classes) for other in perturbed(image, in_plane=in_plane)]


def assess(
    value: float | None, volumes_ml: Mapping[str, float], reference: Reference, remarks: Iterable[str] = ()
) -> Quality:
    """Compare a segmentation's :func:`confidence` ``value``, if known, and its volumes with those of the training.

    What is odd about the scan, in ``remarks``, is worth a look too.
    """
    known: Sequence[float] = reference.confidences
    percentile, reasons = None, [*remarks]
    if value is not None and len(known) >= MIN_REFERENCES:
        percentile = sum(each < value for each in known) / len(known)
        if percentile < REVIEW_SHARE:
            reasons.append(f"less certain than {1 - percentile:.0%} of the unlabeled scans of the training")
    for name, (low, high) in (reference.ranges_ml or {}).items():
        if remark := volume_remark(name, volumes_ml.get(name, 0.0), low, high):
            reasons.append(remark)
    return Quality(None if value is None else round(value, 4), percentile, bool(reasons), tuple(reasons))
