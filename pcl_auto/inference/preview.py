"""Draw a mask on its scan, in three planes through the largest structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy import ndimage

from pcl_auto.data.palette import color
from pcl_auto.data.planes import PLANES, find_structure, orient, to_patient
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import printable

_WINDOW_PERCENT = (1.0, 99.0)
_PICTURE_INCHES = 4.0
_MAX_IN_LEGEND = 12
# A contour is drawn on so many points for each voxel, after a blur that leaves a row of single voxels standing; parts
# of a few voxels take a smaller one.
_POINTS_PER_VOXEL, _BLUR_VOXELS = 4, 0.7
_SMALL_VOXELS, _SMALL_BLUR_VOXELS = 9, 0.5
_MAX_REASONS = 2


def draw(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float],
    direction: Sequence[float],
    classes: Mapping[str, tuple[int, ...]],
    title: str,
    target: Path,
    quality: Mapping[str, Any] | None = None,
) -> None:
    """Draw the outlines of a mask on its image into the PNG ``target``, with the volume of every class.

    Args:
        image: one channel, shape (z, y, x).
        mask: the same shape, whole numbers.
        spacing_mm: along x, y and z.
        direction: the directions of x, y and z in (left, back, head), nine cosines, row by row as in ITK.
        classes: the values that each class has in the mask.
        title: the name of the scan.
        target: the file to write; replaced if it is there.
        quality: of the mask, as :class:`pcl_auto.method.confidence.Quality` has it.
    """
    axes, flips = to_patient(direction)
    image, mask = orient(image, axes, flips), orient(mask, axes, flips)
    steps_mm = [spacing_mm[2 - axis] for axis in axes]
    structure = find_structure(mask, list(classes.values()))
    found = {name: voxels for name, voxels in zip(classes, structure.voxels, strict=True) if voxels}
    sides_mm = [size * step for size, step in zip(mask.shape, steps_mm, strict=True)]
    widths = [sides_mm[plane.columns] for plane in PLANES]
    tallest = max(sides_mm[plane.rows] for plane in PLANES)
    height = _PICTURE_INCHES * min(1.0, 3 * tallest / sum(widths))
    figure = Figure(figsize=(3 * _PICTURE_INCHES, height + 1.2), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    colors = {name: color(index) for index, name in enumerate(classes)}
    pictures = figure.subplots(1, 3, width_ratios=widths)
    for picture, plane in zip(pictures, PLANES, strict=True):
        cut = structure.center[plane.axis]
        flat = image.take(cut, axis=plane.axis)
        low, high = np.percentile(flat, _WINDOW_PERCENT)
        shape = {"aspect": steps_mm[plane.rows] / steps_mm[plane.columns], "origin": "upper"}
        picture.imshow(flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bicubic", **shape)
        labels = mask.take(cut, axis=plane.axis)
        for name in found:
            draw_outline(picture, np.isin(labels, classes[name]), colors[name])
        # As the file numbers them, and as viewers count: from 1.
        number = mask.shape[plane.axis] - cut if plane.axis in flips else cut + 1
        text = f"{plane.name}, slice {number} of {mask.shape[plane.axis]}"
        picture.set_title(text, color="white", fontsize=10)
        picture.set_axis_off()
        for text, at, vertical in ((plane.left, (0.02, 0.5), "center"), (plane.top, (0.5, 0.98), "top")):
            letter = picture.text(*at, text, color="yellow", fontsize=10, transform=picture.transAxes, va=vertical)
            letter.set_path_effects([withStroke(linewidth=2, foreground="black")])
    voxel_ml = math.prod(spacing_mm) / 1000
    _caption(figure, title, quality, {f"{name} {found[name] * voxel_ml:.3g} ml": colors[name] for name in found})
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_outline(picture: Any, inside: np.ndarray, shade: str) -> None:
    """Draw a smooth contour around the pixels ``inside``, with a dark casing that sets it off from bright tissue."""
    if not inside.any() or min(inside.shape) < 2:
        return
    # Zeros around: a contour that reaches the border is closed there.
    parts, _ = ndimage.label(np.pad(inside, 2))
    small = (parts > 0) & (np.bincount(parts.ravel())[parts] < _SMALL_VOXELS)
    soft = ndimage.gaussian_filter(((parts > 0) & ~small).astype(np.float32), _BLUR_VOXELS)
    soft = np.maximum(soft, ndimage.gaussian_filter(small.astype(np.float32), _SMALL_BLUR_VOXELS))
    rows, columns = (size * _POINTS_PER_VOXEL for size in soft.shape)
    fine = np.asarray(Image.fromarray(soft).resize((columns, rows), Image.Resampling.BICUBIC))
    down, across = ((np.arange(size) + 0.5) / _POINTS_PER_VOXEL - 0.5 - 2 for size in (rows, columns))
    for width, each in ((3.4, "black"), (1.8, shade)):
        picture.contour(across, down, fine, levels=[0.5], colors=[each], linewidths=width)
    picture.set_xlim(-0.5, inside.shape[1] - 0.5)
    picture.set_ylim(inside.shape[0] - 0.5, -0.5)


def as_drawn(name: str) -> str:
    """Return a name that anyone may have chosen, for matplotlib: a dollar sign in it begins no formula."""
    return printable(name).replace("$", r"\$")


def _caption(figure: Figure, title: str, quality: Mapping[str, Any] | None, colors: Mapping[str, str]) -> None:
    judged = [] if quality is None else _judged(quality)
    figure.suptitle("\n".join([as_drawn(title), *map(as_drawn, judged)]), color="white", fontsize=11)
    shown = list(colors.items())[:_MAX_IN_LEGEND]
    if not shown:
        figure.supxlabel("nothing found", color="white", fontsize=9)
        return
    lines = [Line2D([], [], color=shade, linewidth=3) for _, shade in shown]
    names = [as_drawn(name) for name, _ in shown]
    if len(colors) > len(shown):
        lines.append(Line2D([], [], color="none"))
        names.append(f"and {len(colors) - len(shown)} more")
    figure.legend(
        lines,
        names,
        loc="outside lower center",
        ncols=min(len(names), 6),
        frameon=False,
        labelcolor="white",
        fontsize=10,
    )


def _judged(quality: Mapping[str, Any]) -> list[str]:
    """Return confidence, and whether and why somebody should review the mask, in a line."""
    # Records of version 0.2 and before have another name for it.
    confidence, reasons = quality.get("confidence", quality.get("certainty")), quality.get("reasons", ())
    more = f" and {len(reasons) - _MAX_REASONS} more" if len(reasons) > _MAX_REASONS else ""
    parts = [] if confidence is None else [f"confidence {confidence:.2f}"]
    if quality.get("review"):
        parts.append(f"review: {'; '.join(reasons[:_MAX_REASONS])}{more}")
    return [" · ".join(parts)] if parts else []
