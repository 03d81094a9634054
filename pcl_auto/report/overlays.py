"""Draw scans with masks on them, as small pictures that lie in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from pcl_auto.data.planes import PLANES, find_structure, orient, to_patient

# Pixels along the longer side of a picture, slices of a plane, and channels to choose from.
LONGEST_SIDE, MAX_SLICES, MAX_CHANNELS = 160, 24, 4
QUALITY = 72
# After Okabe and Ito: told apart with any kind of color vision, and on gray.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_AREA_OPACITY = 110
# x to the left, y to the back, z to the head.
_AS_ITK = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Volume:
    """A scan to show.

    ``image``: shape (C, z, y, x). ``masks``: label maps by name, shape (z, y, x). ``spacing_mm``: along z, y, x.
    ``direction``: the directions of x, y and z in (left, back, head), nine cosines, row by row as in ITK.
    """

    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    spacing_mm: Sequence[float]
    direction: Sequence[float] = _AS_ITK


@dataclass(frozen=True)
class PlanePictures:
    """Slices of one plane, one below the other in a picture (a data URI) for each channel and each mask.

    ``left`` and ``top``: the letters of the side of the patient there. ``slices``: their numbers in the file, from 0.
    ``start``: the index in ``slices`` of the one to begin with. ``width`` and ``height``: of a slice, in pixels.
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


def draw_planes(
    volume: Volume, classes: Sequence[int], outlined: Sequence[str] = (), *, max_slices: int = MAX_SLICES
) -> list[PlanePictures]:
    """Draw the planes of ``volume`` through the largest structure of its first mask, with the slices around it.

    Args:
        volume: the scan.
        classes: foreground values, in the order of their colors.
        outlined: names of the masks to draw as outlines, so that others are seen below; the rest become areas.
        max_slices: the number of slices of a plane.
    """
    axes, flips = to_patient(volume.direction)
    channels = orient(volume.image[:MAX_CHANNELS], axes, flips)
    masks = {name: orient(labels, axes, flips) for name, labels in volume.masks.items()}
    structure = find_structure(next(iter(masks.values())), [(value,) for value in classes])
    windows = [_window(channel) for channel in channels]
    shape = channels.shape[1:]
    sides_mm = [size * volume.spacing_mm[axis] for size, axis in zip(shape, axes, strict=True)]
    drawn = []
    for name, axis, rows, columns, left, top in PLANES:
        if min(shape[rows], shape[columns]) < 2:
            continue
        slices = shown_slices(structure.center[axis], structure.extent[axis], shape[axis], max_slices)
        scale = LONGEST_SIDE / max(sides_mm[rows], sides_mm[columns])
        width, height = (max(1, round(sides_mm[side] * scale)) for side in (columns, rows))
        drawn.append(
            PlanePictures(
                name,
                left,
                top,
                slices=[shape[axis] - 1 - index for index in slices] if axis in flips else slices,
                start=slices.index(structure.center[axis]),
                width=width,
                height=height,
                channels=[
                    _gray_strip(_cut(channel, axis, slices), window, (width, height))
                    for channel, window in zip(channels, windows, strict=True)
                ],
                masks={
                    mask: _mask_strip(_cut(labels, axis, slices), classes, (width, height), outline=mask in outlined)
                    for mask, labels in masks.items()
                },
            )
        )
    return drawn


def _cut(volume: np.ndarray, axis: int, slices: Sequence[int]) -> np.ndarray:
    """Return slices across an axis, shape (slices, rows, columns)."""
    return np.moveaxis(volume.take(slices, axis=axis), axis, 0)


def _window(channel: np.ndarray) -> tuple[float, float]:
    values = channel[np.isfinite(channel)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, high if high > low else low + 1


def shown_slices(center: int, extent: tuple[int, int], size: int, max_slices: int = MAX_SLICES) -> list[int]:
    """Choose at most ``max_slices`` of ``size`` slices, evenly over ``extent`` and a tenth around, with ``center``."""
    margin = max(1, (extent[1] - extent[0]) // 10)
    first, last = max(0, extent[0] - margin), min(size - 1, extent[1] + margin)
    chosen = {round(index) for index in np.linspace(first, last, min(max_slices, last - first + 1))}
    if center not in chosen:
        chosen.remove(min(chosen, key=lambda index: abs(index - center)))
    return sorted(chosen | {center})


def _gray_strip(slices: np.ndarray, window: tuple[float, float], size: tuple[int, int]) -> str:
    low, high = window
    scaled = np.clip((np.nan_to_num(slices.astype(float), nan=low) - low) / (high - low), 0, 1)
    gray = _resized((scaled * 255).astype(np.uint8), size, Image.Resampling.BICUBIC)
    return _uri(Image.fromarray(np.concatenate(gray)), "webp", quality=QUALITY, method=4)


def _mask_strip(slices: np.ndarray, classes: Sequence[int], size: tuple[int, int], *, outline: bool) -> str:
    # Colors by index, not by value: values may be any, and more than a picture has colors.
    indices = np.zeros(slices.shape, np.int32)
    for index, value in enumerate(classes, start=1):
        indices[slices == value] = index
    strips = _resized(indices, size, Image.Resampling.NEAREST)
    if outline:
        # Keep the pixels whose class differs from one in their neighborhood.
        strips = [strip * (ndimage.maximum_filter(strip, 3) != ndimage.minimum_filter(strip, 3)) for strip in strips]
    colors = min(len(classes), len(PALETTE))
    found = np.concatenate(strips)
    colored = np.where(found > 0, 1 + (found - 1) % len(PALETTE), 0).astype(np.uint8)
    picture = Image.fromarray(colored, mode="P")
    picture.putpalette([0, 0, 0, *(value for index in range(colors) for value in color(index))])
    return _uri(picture, "png", transparency=bytes([0, *[255 if outline else _AREA_OPACITY] * colors]))


def _resized(slices: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> list[np.ndarray]:
    return [np.asarray(Image.fromarray(each).resize(size, method)) for each in slices]


def color(index: int) -> tuple[int, int, int]:
    """Return the color of a foreground class, by its index among them: red, green and blue."""
    return PALETTE[index % len(PALETTE)]


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
