"""Draw the curves of a run as inline SVG, colored by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from pcl_auto.data.palette import COLORS
from pcl_auto.training.run_facts import RunFacts
from pcl_auto.workspace.files import printable

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 22, 42
_MAX_MARKED = 40


@dataclass(frozen=True)
class Series:
    """A curve through ``points`` of (x, y); a y that is None or not finite leaves a gap.

    ``color``: the place of its class, None for what is of no class. ``dashed``: a baseline's.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    color: int | None = None
    dashed: bool = False

    @property
    def style(self) -> str:
        """Names of the style sheet; classes beyond the palette have its colors again, dotted."""
        if self.color is None:
            return "plain"
        again = " dotted" if self.color >= len(COLORS) else ""
        return f"c{self.color % len(COLORS)}" + (" dashed" if self.dashed else again)


def run_curves(run: RunFacts, baseline: RunFacts | None) -> list[dict[str, Any]]:
    """Draw every loss, the Dice of each class on patches and the change between rounds.

    The Dice of ``baseline``, which has as many steps, is added where both validate on the same cases.

    Returns:
        For each figure its ``title``, its ``svg`` and the ``keys`` of its legend: (style, name).
    """
    epochs = run.epochs
    on_epochs = {"x_name": "epoch", "boundaries": {number: start - 0.5 for number, start in run.round_starts().items()}}
    figures = []
    for name in dict.fromkeys(name for event in epochs for name in event.get("losses", ())):
        points = [(event["epoch"], event.get("losses", {}).get(name)) for event in epochs]
        figures.append(_figure("Loss" if name == "loss" else f"Loss: {name}", [Series(name, points)], **on_epochs))
    dice = _patch_dice(run)
    cases = next((event.get("patch_dice_of", "") for event in reversed(epochs)), "")
    if baseline is not None and run.split.validation and not run.steps_before:
        # Its epochs may have another number of steps.
        epoch = baseline.steps_per_epoch / run.steps_per_epoch
        alone = _patch_dice(baseline, epoch)
        dice += [replace(series, name=f"{series.name}, nnU-Net alone", dashed=True) for series in alone]
    figures.append(_figure(f"Dice on patches of {cases}", dice, **on_epochs, y_range=(0.0, 1.0)))
    changes = [(event["round"], event.get("dice_to_last_round")) for event in run.happened("pseudo_labels")]
    if sum(change is not None for _, change in changes) > 1:  # one stands in the table of rounds
        title = "Dice of pseudo-labels to those of the round before"
        figures.append(_figure(title, [Series("mean over cases", changes)], x_name="round"))
    return [figure for figure in figures if figure["svg"]]


def _patch_dice(run: RunFacts, epoch: float = 1.0) -> list[Series]:
    """Return the Dice of each class over the epochs, which are ``epoch`` wide."""
    return [
        Series(
            name, [(epoch * event["epoch"], _nth(event.get("patch_dice", ()), index)) for event in run.epochs], index
        )
        for index, name in enumerate(run.classes)
    ]


def _nth(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _figure(title: str, series: list[Series], **options: Any) -> dict[str, Any]:
    # Names are anyone's; the rest of the page prints its texts by itself.
    title, series = printable(title), [replace(one, name=printable(one.name)) for one in series]
    keys = [(one.style, one.name) for one in series]
    return {"title": title, "svg": draw_curves(series, title=title, **options), "keys": keys}


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Choose round numbers from ``low`` to ``high``, about as many as wanted and at least one."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)] or [low]


def draw_curves(
    series: Sequence[Series],
    *,
    title: str,
    x_name: str,
    boundaries: Mapping[int, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Draw ``series`` over a common axis, with a line and a number at each of ``boundaries``.

    Returns:
        An SVG; "" where no series has a finite value.
    """
    values = [y for one in series for _, y in one.points if y is not None and math.isfinite(y)]
    if not values:
        return Markup("")
    xs = [x for one in series for x, _ in one.points]
    low, high = y_range or _padded(min(values), max(values))
    start, end = min(xs), max(xs)
    if start == end:
        start, end = start - 1, end + 1

    def locate(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - start) / (end - start) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title),
    ]
    for value in ticks(low, high):
        _, y = locate(start, value)
        parts.append(_line("grid", LEFT, y, WIDTH - RIGHT, y) + _text("tick end", LEFT - 8, y + 4, f"{value:g}"))
    for value in ticks(start, end, 7):
        if value == int(value):
            x, _ = locate(value, low)
            parts.append(_text("tick middle", x, HEIGHT - BOTTOM + 18, f"{value:g}"))
    parts.append(_text("tick middle", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_name))
    shown = list((boundaries or {}).items())
    for index, (number, position) in enumerate(shown):
        x, _ = locate(position, low)
        parts.append(_line("boundary", x, TOP, x, HEIGHT - BOTTOM))
        if index % math.ceil(len(shown) / 10) == 0:
            parts.append(_text("tick middle", x, TOP - 7, f"{number}"))
    for one in series:
        parts += _curve(one, locate)
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _curve(one: Series, locate: Callable[[float, float], tuple[float, float]]) -> list[Markup]:
    style = f"series {one.style}"
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in one.points:
        if y is None or not math.isfinite(y):
            pieces.append([])
        else:
            pieces[-1].append(locate(x, y))
    parts = [
        Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(
            style, " ".join(f"{x},{y}" for x, y in piece), one.name
        )
        for piece in pieces
        if len(piece) > 1
    ]
    if len(one.points) <= _MAX_MARKED or any(len(piece) == 1 for piece in pieces):
        parts += [
            Markup('<circle class="{}" cx="{}" cy="{}" r="2.5"><title>{}</title></circle>').format(
                style, *locate(x, y), f"{one.name}: {y:.4g} at {x:g}"
            )
            for x, y in one.points
            if y is not None and math.isfinite(y)
        ]
    return parts


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.05 or max(abs(high) * 0.1, 0.1)
    return low - margin, high + margin


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(style, x1, y1, x2, y2)


def _text(style: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, x, y, text)
