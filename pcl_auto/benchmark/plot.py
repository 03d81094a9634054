"""Write the results of a study, and draw mean Dice over the number of labels, one line per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pcl_auto.benchmark.study import Study
from pcl_auto.benchmark.table import Row, Runs, as_csv, as_json, find_ceiling, make_rows
from pcl_auto.data.palette import BASELINE_COLOR, color
from pcl_auto.evaluation.statistics import draws_in_words
from pcl_auto.inference.preview import as_drawn
from pcl_auto.report.verdict import count
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import finite, write_json, write_text

# Dice that an axis spans at least, so that close values look close.
MIN_SPAN = 0.1
# A marker for each baseline: they share a color.
_BASELINES = {
    "nnunet": ("nnU-Net alone", "o"),
    "nnunet_no_mirroring": ("nnU-Net alone, no mirroring", "s"),
    "nnunet_symmetric": ("nnU-Net alone, mirrored as default", "^"),
}


def write_results(study: Study, runs: Runs) -> tuple[list[Row], dict[str, Any]]:
    """Write ``results.json``, ``results.csv`` and ``results.png``; return the rows of the table, and the JSON."""
    rows = make_rows(study, runs)
    results = as_json(study, runs, rows)
    write_json(study.folder / "results.json", finite(results))
    write_text(study.folder / "results.csv", as_csv(runs))
    draws = f"{draws_in_words(len(study.draws))} of labeled cases ({_seeds(study.draws)})"
    about = f"{count(len(study.held_out.scans), 'test case')}, {draws}"
    draw(rows, study.data.name, study.folder / "results.png", about)
    return rows, results


def draw(rows: Sequence[Row], title: str, target: Path, about: str = "") -> None:
    """Draw ``rows`` into the PNG ``target``: bars are 95 % t-intervals over draws, the ceiling is dashed.

    ``about``: a line below the title, on cases and draws. Baselines are gray.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    numbers = sorted({row.labeled for row in rows if not row.all_labels})
    # Numbers of labels may be far apart, as 1, 2 and 100: evenly spaced.
    positions = {number: index for index, number in enumerate(numbers)}
    names = list(dict.fromkeys(row.arm for row in rows if not row.all_labels))
    recipes = [row.arm for row in rows if not row.baseline]
    for index, name in enumerate(names):
        is_baseline = name not in recipes
        label, marker = _BASELINES.get(name, (name, "o")) if is_baseline else (name, "D")
        line = [row for row in rows if row.arm == name and not row.all_labels]
        # A little apart, so that bars of two arms do not cover one another.
        shift = 0.03 * (index - (len(names) - 1) / 2)
        axes.errorbar(
            [positions[row.labeled] + shift for row in line],
            [row.dice.mean for row in line],
            yerr=[_reach(row) for row in line],
            marker=marker,
            capsize=3,
            color=BASELINE_COLOR if is_baseline else color(list(dict.fromkeys(recipes)).index(name)),
            zorder=2 if is_baseline else 3,
            label=as_drawn(label),
        )
    if ceiling := find_ceiling(rows):
        name, _ = _BASELINES.get(ceiling.arm, (ceiling.arm, ""))
        label = f"{as_drawn(name)}, all {ceiling.labeled} labels"
        axes.axhline(ceiling.dice.mean, linestyle="--", color=BASELINE_COLOR, label=label)
    axes.set_xticks(list(positions.values()), [str(number) for number in numbers])
    axes.set_xlim(-0.5, max(len(numbers), 1) - 0.5)
    _widen(axes)
    axes.set_xlabel("labeled cases")
    axes.set_ylabel("mean Dice, 95 % interval over draws")
    axes.set_title(as_drawn(title), loc="left", fontweight="bold", pad=24 if about else 6)
    axes.text(0, 1.03, about, transform=axes.transAxes, color="#566270", fontsize=9)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _seeds(draws: Sequence[int]) -> str:
    if len(draws) == 1:
        return f"seed {draws[0]}"
    is_run = list(draws) == list(range(draws[0], draws[0] + len(draws)))
    return f"seeds {draws[0]} to {draws[-1]}" if is_run else f"seeds {', '.join(map(str, draws))}"


def _reach(row: Row) -> float:
    """Return half of the interval; 0, that is no bar, for a single draw."""
    half = (row.dice.interval.high - row.dice.interval.low) / 2
    return 0.0 if math.isnan(half) else half


def _widen(axes: Any) -> None:
    low, high = axes.get_ylim()
    missing = max(0.0, MIN_SPAN - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)
    axes.ticklabel_format(axis="y", useOffset=False)
