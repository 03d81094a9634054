"""Scans with masks on them, as small pictures that lie in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from pcl_auto.data.formats.orientation import EDGES, PLANES, to_patient

# Pixels along the longer side of a picture; slices of a plane; channels that a reader may choose from.
LONGEST_SIDE, MAX_SLICES, MAX_CHANNELS = 160, 24, 4
QUALITY = 72
# After Okabe and Ito: told apart with any kind of color vision, and on gray.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_AREA_OPACITY = 110
# x to the left, y to the back, z to the head.
_AS_ITK = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Volume:
    """A scan to show: ``image`` (C, z, y, x); ``masks``: name to label map (z, y, x); ``spacing_mm`` along z, y, x.

    ``direction``: where x, y and z point to (left, back, head), nine cosines, row by row as ITK has them.
    """

    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    spacing_mm: Sequence[float]
    direction: Sequence[float] = _AS_ITK


@dataclass(frozen=True)
class Plane:
    """Slices of one plane, one below the other in a picture per channel and per mask (data URIs).

    ``slices``: their numbers in the file, from 0; ``start``: the place in ``slices`` of the one to begin with.
    ``left`` and ``top``: what of the patient is there.
    """

    name: str
    left: str
    top: str
    slices: list[int]
    start: int
    width: int
    height: int
    channels: list[str]
    masks: dict[str, str]


def planes(
    volume: Volume, classes: Sequence[int], outlined: Sequence[str] = (), *, most_slices: int = MAX_SLICES
) -> list[Plane]:
    """The planes of ``volume`` through the largest structure of its first mask, with the slices around it.

    Args:
        volume: the scan.
        classes: foreground values, in the order of their colors.
        outlined: masks drawn as outlines, so that others are seen below; the rest are areas.
        most_slices: of a plane.
    """
    axes, flips = to_patient(volume.direction)
    volume = Volume(
        np.flip(volume.image.transpose(0, *(axis + 1 for axis in axes)), tuple(axis + 1 for axis in flips)),
        {name: np.flip(labels.transpose(axes), flips) for name, labels in volume.masks.items()},
        [volume.spacing_mm[axis] for axis in axes],
    )
    center, extent = _structure(next(iter(volume.masks.values())), classes)
    windows = [_window(channel) for channel in volume.image[:MAX_CHANNELS]]
    return [
        _plane(
            volume,
            classes,
            outlined,
            name,
            axis,
            shown_slices(center[axis], extent[axis], volume.image.shape[axis + 1], most_slices),
            center[axis],
            windows,
            backwards=axis in flips,
        )
        for name, (axis, others) in PLANES.items()
        if all(volume.image.shape[1 + other] > 1 for other in others)
    ]


def _structure(labels: np.ndarray, classes: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Along each axis, the slice with most of the largest structure, and the first and last slice with foreground."""
    counts = {value: int(np.count_nonzero(labels == value)) for value in classes}
    largest = max(counts, key=lambda value: counts[value], default=0)
    if not counts.get(largest):
        return [size // 2 for size in labels.shape], [(0, size - 1) for size in labels.shape]
    components, _ = ndimage.label(labels == largest)
    mask = components == np.argmax(np.bincount(components.ravel())[1:]) + 1
    foreground = np.isin(labels, list(classes))
    center, extent = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        center.append(int(np.argmax(mask.sum(axis=others))))
        occupied = np.flatnonzero(foreground.any(axis=others))
        extent.append((int(occupied[0]), int(occupied[-1])))
    return center, extent


def _window(channel: np.ndarray) -> tuple[float, float]:
    values = channel[np.isfinite(channel)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, high if high > low else low + 1


def shown_slices(center: int, extent: tuple[int, int], size: int, most: int = MAX_SLICES) -> list[int]:
    """At most ``most`` of ``size`` slices, evenly over ``extent`` and a tenth around it, with ``center``."""
    margin = max(1, (extent[1] - extent[0]) // 10)
    first, last = max(0, extent[0] - margin), min(size - 1, extent[1] + margin)
    chosen = {round(place) for place in np.linspace(first, last, min(most, last - first + 1))}
    if center not in chosen:
        chosen.remove(min(chosen, key=lambda place: abs(place - center)))
    return sorted(chosen | {center})


def _plane(
    volume: Volume,
    classes: Sequence[int],
    outlined: Sequence[str],
    name: str,
    axis: int,
    slices: list[int],
    center: int,
    windows: Sequence[tuple[float, float]],
    *,
    backwards: bool,
) -> Plane:
    _, (rows, columns) = PLANES[name]
    shape, spacing = volume.image.shape[1:], volume.spacing_mm
    height_mm, width_mm = shape[rows] * spacing[rows], shape[columns] * spacing[columns]
    scale = LONGEST_SIDE / max(height_mm, width_mm)
    height, width = (max(1, round(length * scale)) for length in (height_mm, width_mm))

    def cut(array: np.ndarray) -> list[np.ndarray]:
        return [array.take(place, axis=axis) for place in slices]

    channels = [
        _gray_strip(cut(channel), window, (width, height))
        for channel, window in zip(volume.image[:MAX_CHANNELS], windows, strict=True)
    ]
    masks = {
        mask: _mask_strip(cut(labels), classes, (width, height), outline=mask in outlined)
        for mask, labels in volume.masks.items()
    }
    numbers = [shape[axis] - 1 - place for place in slices] if backwards else slices
    return Plane(name, *EDGES[name], numbers, slices.index(center), width, height, channels, masks)


def _gray_strip(pieces: Sequence[np.ndarray], window: tuple[float, float], size: tuple[int, int]) -> str:
    low, high = window
    scaled = [np.clip((np.nan_to_num(piece.astype(float), nan=low) - low) / (high - low), 0, 1) for piece in pieces]
    resized = [
        np.asarray(Image.fromarray((piece * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC))
        for piece in scaled
    ]
    return _uri(Image.fromarray(np.concatenate(resized)), "webp", quality=QUALITY, method=4)


def _mask_strip(pieces: Sequence[np.ndarray], classes: Sequence[int], size: tuple[int, int], *, outline: bool) -> str:
    strips = []
    for piece in pieces:
        # Colors by place, not by value: values may be any.
        places = np.zeros(piece.shape, np.uint8)
        for place, value in enumerate(classes):
            places[piece == value] = place + 1
        strips.append(np.asarray(Image.fromarray(places).resize(size, Image.Resampling.NEAREST)))
    if outline:
        strips = [strip * _edges(strip) for strip in strips]
    picture = Image.fromarray(np.concatenate(strips), mode="P")
    picture.putpalette([0, 0, 0, *(value for place in range(len(classes)) for value in color(place))])
    return _uri(picture, "png", transparency=bytes([0, *[255 if outline else _AREA_OPACITY] * len(classes)]))


def color(place: int) -> tuple[int, int, int]:
    """The color of the class at ``place`` among the foreground classes, in red, green and blue."""
    return PALETTE[place % len(PALETTE)]


def _edges(strip: np.ndarray) -> np.ndarray:
    """Where a pixel's class differs from one in its neighborhood."""
    edges: np.ndarray = ndimage.maximum_filter(strip, 3) != ndimage.minimum_filter(strip, 3)
    return edges


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
