"""Draw scans with masks on them, as small pictures that lie in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from pcl_auto.data.palette import COLORS, rgb
from pcl_auto.data.planes import PLANES, find_structure, orient, to_patient

# Pixels along the longer side of a picture, slices of a plane, and channels to choose from.
LONGEST_SIDE, MAX_SLICES, MAX_CHANNELS = 208, 24, 4
QUALITY = 72
_AREA_OPACITY = 110
# Pixels of an outline, and of its casing on either side, without which it is lost on an area of its color.
_OUTLINE, _CASING = 2, 1
_CASING_COLOR = (255, 255, 255)
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

    ``left`` and ``top``: the letters of the side of the patient there. ``slices``: their numbers in the file, from 0
    and ascending, of ``total``. ``start``: the index in ``slices`` of the one to begin with. ``width`` and ``height``:
    of a slice, in pixels. ``outlined``: names of the masks that are outlines.
    """

    name: str
    left: str
    top: str
    slices: list[int]
    total: int
    start: int
    width: int
    height: int
    channels: list[str]
    masks: dict[str, str]
    outlined: tuple[str, ...]


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
        if axis in flips:  # as they are numbered in the file
            slices.reverse()
        scale = LONGEST_SIDE / max(sides_mm[rows], sides_mm[columns])
        width, height = (max(1, round(sides_mm[side] * scale)) for side in (columns, rows))
        drawn.append(
            PlanePictures(
                name,
                left,
                top,
                slices=[shape[axis] - 1 - index for index in slices] if axis in flips else slices,
                total=shape[axis],
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
                outlined=tuple(mask for mask in masks if mask in outlined),
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
    return _uri(Image.fromarray(np.concatenate(gray)), "webp", quality=QUALITY, method=2)


def _mask_strip(slices: np.ndarray, classes: Sequence[int], size: tuple[int, int], *, outline: bool) -> str:
    # Colors by index, not by value: values may be any, and more than a picture has colors.
    indices = np.zeros(slices.shape, np.int32)
    for index, value in enumerate(classes, start=1):
        indices[slices == value] = index
    strips = [_smooth(each, size) for each in indices]
    colors = min(len(classes), len(COLORS))
    drawn = [_outlined(strip, colors + 1) if outline else _colored(strip) for strip in strips]
    picture = Image.fromarray(np.concatenate(drawn), mode="P")
    values = [value for index in range(colors) for value in rgb(index)]
    picture.putpalette([0, 0, 0, *values, *_CASING_COLOR])
    return _uri(picture, "png", transparency=bytes([0, *[255 if outline else _AREA_OPACITY] * colors, 255]))


def _smooth(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a slice of class indices; of each pixel the class that has most of it, so that edges have no steps."""
    found, most = np.zeros(size[::-1], np.int32), np.zeros(size[::-1], np.float32)
    for index in np.unique(labels):
        inside = Image.fromarray((labels == index).astype(np.float32))
        share = np.asarray(inside.resize(size, Image.Resampling.BILINEAR))
        found, most = np.where(share > most, index, found), np.maximum(share, most)
    return found


def _colored(strip: np.ndarray) -> np.ndarray:
    """Return the colors of class indices: 0 for none, else from 1 on."""
    return np.where(strip > 0, 1 + (strip - 1) % len(COLORS), 0).astype(np.uint8)


def _outlined(strip: np.ndarray, casing: int) -> np.ndarray:
    """Return the colors of the pixels along the inner edge of each class, with the color ``casing`` around them."""
    reach = 2 * _OUTLINE + 1
    edge = (strip > 0) & (ndimage.maximum_filter(strip, reach) != ndimage.minimum_filter(strip, reach))
    around = ndimage.binary_dilation(edge, np.ones((3, 3)), iterations=_CASING)
    return np.where(edge, _colored(strip), np.where(around, casing, 0)).astype(np.uint8)


def _resized(slices: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> list[np.ndarray]:
    return [np.asarray(Image.fromarray(each).resize(size, method)) for each in slices]


def _uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
