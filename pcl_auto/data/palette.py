"""The colors of classes and of curves, the same in every picture: previews, reports and plots."""

from __future__ import annotations

# Told apart with any kind of color vision; at least 3:1 against a white page and a dark one, and seen on gray scans.
# Nearest neighbors in the list are farthest apart.
COLORS = ("#5b8ae8", "#a98a00", "#c000a0", "#507000", "#7040f0", "#cc6b8c")
# nnU-Net alone, where other things are compared with it.
BASELINE_COLOR = "#767c85"


def color(index: int) -> str:
    """Return the color of a class or a curve, by its place among them, as ``#rrggbb``; more than six begin again."""
    return COLORS[index % len(COLORS)]


def rgb(index: int) -> tuple[int, int, int]:
    """Return :func:`color` as red, green and blue, 0 to 255."""
    red, green, blue = bytes.fromhex(color(index)[1:])
    return red, green, blue
