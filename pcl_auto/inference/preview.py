"""Draw a mask on its scan, in three planes through the largest structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from pcl_auto.data.planes import PLANES, find_structure, orient, to_patient
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import printable

_WINDOW_PERCENT = (1.0, 99.0)
_PICTURE_INCHES = 4.0
_MAX_IN_LEGEND = 12


def draw(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float],
    direction: Sequence[float],
    classes: Mapping[str, tuple[int, ...]],
    title: str,
    target: Path,
) -> None:
    """Draw the outlines of a mask on its image into the PNG ``target``.

    Args:
        image: one channel, shape (z, y, x).
        mask: the same shape, whole numbers.
        spacing_mm: along x, y and z.
        direction: the directions of x, y and z in (left, back, head), nine cosines, row by row as in ITK.
        classes: the values that each class has in the mask.
        title: the name of the scan.
        target: the file to write; replaced if it is there.
    """
    axes, flips = to_patient(direction)
    image, mask = orient(image, axes, flips), orient(mask, axes, flips)
    steps_mm = [spacing_mm[2 - axis] for axis in axes]
    structure = find_structure(mask, list(classes.values()))
    present = [name for name, voxels in zip(classes, structure.voxels, strict=True) if voxels]
    sides_mm = [size * step for size, step in zip(mask.shape, steps_mm, strict=True)]
    widths = [sides_mm[plane.columns] for plane in PLANES]
    tallest = max(sides_mm[plane.rows] for plane in PLANES)
    height = _PICTURE_INCHES * min(1.0, 3 * tallest / sum(widths))
    figure = Figure(figsize=(3 * _PICTURE_INCHES, height + 1), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    colors = dict(zip(classes, colormaps["tab10"](np.arange(len(classes)) % 10), strict=True))
    pictures = figure.subplots(1, 3, width_ratios=widths)
    for picture, plane in zip(pictures, PLANES, strict=True):
        cut = structure.center[plane.axis]
        flat = image.take(cut, axis=plane.axis)
        low, high = np.percentile(flat, _WINDOW_PERCENT)
        shape = {"aspect": steps_mm[plane.rows] / steps_mm[plane.columns], "origin": "upper"}
        picture.imshow(flat, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest", **shape)
        labels = mask.take(cut, axis=plane.axis)
        for label in present:
            outline = np.isin(labels, classes[label])
            if outline.any() and min(outline.shape) > 1:
                # Zeros around: an outline that reaches the border is closed there.
                around = np.pad(outline, 1)
                grid = (np.arange(-1, size + 1) for size in outline.shape[::-1])
                picture.contour(*grid, around, levels=[0.5], colors=[colors[label]], linewidths=1.2)
        picture.set_title(plane.name, color="white", fontsize=10)
        picture.set_axis_off()
        for text, at, vertical in ((plane.left, (0.02, 0.5), "center"), (plane.top, (0.5, 0.98), "top")):
            letter = picture.text(*at, text, color="yellow", fontsize=10, transform=picture.transAxes, va=vertical)
            letter.set_path_effects([withStroke(linewidth=2, foreground="black")])
    _caption(figure, title, {name: colors[name] for name in present})
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def as_drawn(name: str) -> str:
    """Return a name that anyone may have chosen, for matplotlib: a dollar sign in it begins no formula."""
    return printable(name).replace("$", r"\$")


def _caption(figure: Figure, title: str, colors: Mapping[str, Sequence[float]]) -> None:
    figure.suptitle(as_drawn(title), color="white", fontsize=11)
    shown = list(colors.items())[:_MAX_IN_LEGEND]
    if not shown:
        figure.supxlabel("nothing found", color="white", fontsize=9)
        return
    lines = [Line2D([], [], color=color) for _, color in shown]
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
        fontsize=9,
    )
