"""Draw docs/images/two_labels.png: nnU-Net alone, pclauto and the expert on two scans, with two labels to learn from.

    pclauto plan Task04_Hippocampus -w W --gpu-memory-gb 8
    pclauto benchmark --labeled 2 --draws 1 --arms nnunet,default --test-cases 30 -w W
    python docs/make_images.py Task04_Hippocampus W/benchmarks/Dataset004_Hippocampus

No training sees the test cases. Those at the upper and at the lower quartile of the gain in Dice are drawn, whatever
they look like, and the picture says so.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.data.palette import color
from pcl_auto.data.planes import PLANES, find_structure, orient, to_patient
from pcl_auto.workspace.atomic import atomic_path

TARGET = Path(__file__).resolve().parent / "images" / "two_labels.png"
ARMS = {"nnunet": "stock nnU-Net", "default": "pclauto"}
SHOWN = PLANES[2]
# Around the structure, in voxels.
MARGIN = 9


def read_scores(folders: list[Path]) -> dict[str, dict[str, float]]:
    """Read the mean Dice of every test case by arm, over the classes; draw 0."""
    found: dict[str, dict[str, list[float]]] = {}
    for folder in folders:
        with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["arm"] in ARMS and row["draw"] == "0" and row["labeled"] == "2":
                    found.setdefault(row["arm"], {}).setdefault(row["case"], []).append(float(row["dice"]))
    return {arm: {case: statistics.mean(dice) for case, dice in cases.items()} for arm, cases in found.items()}


def model_of(arm: str, folders: list[Path]) -> Path:
    """Find the model that an arm has trained on two labels, in the results of a benchmark."""
    runs = [run for folder in folders for run in json.loads((folder / "results.json").read_text())["runs"]]
    return Path(next(run["model"] for run in runs if (run["arm"], run["labeled"], run["draw"]) == (arm, 2, 0)))


def segment(scan: Path, model: Path) -> np.ndarray:
    """Segment a scan as the benchmark did; return the mask (z, y, x)."""
    import SimpleITK

    from pcl_auto.inference.predict import Outputs, predict
    from pcl_auto.workspace.events import silent

    with tempfile.TemporaryDirectory() as folder:
        (made,) = predict([scan], Path(folder), model, outputs=Outputs(quality=False), listener=silent)
        if made.output is None:
            raise SystemExit(f"{scan}: {made.error}")
        return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(made.output)))


@dataclass(frozen=True)
class Row:
    """A scan and the masks to draw side by side; every array (head-foot, front-back, right-left)."""

    name: str
    image: np.ndarray
    masks: dict[str, np.ndarray]


def draw(rows: Sequence[Row], classes: list[str], caption: str) -> None:
    """Draw one scan in each row, the same slice of it with each mask; the last mask says where the structure lies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(9.6, 2.6 * len(rows) + 0.7), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for row, grid in zip(rows, figure.subplots(len(rows), len(rows[0].masks), squeeze=False), strict=True):
        draw_row(row, grid, classes)
    patches = [Patch(color=color(index), label=name) for index, name in enumerate(classes)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(classes), frameon=False, title=caption)
    TARGET.parent.mkdir(exist_ok=True)
    with atomic_path(TARGET) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def draw_row(row: Row, grid: np.ndarray, classes: list[str]) -> None:
    """Draw the slice through the center of the structure, cut to its surroundings, with each mask outlined."""
    from matplotlib.patheffects import withStroke

    from pcl_auto.inference.preview import draw_outline

    truth = [*row.masks.values()][-1]
    structure = find_structure(truth, [(value,) for value in range(1, len(classes) + 1)])
    cut = structure.center[SHOWN.axis]
    window = tuple(
        slice(max(0, structure.extent[axis][0] - MARGIN), structure.extent[axis][1] + MARGIN)
        for axis in (SHOWN.rows, SHOWN.columns)
    )
    flat = row.image.take(cut, axis=SHOWN.axis)[window]
    low, high = np.percentile(flat, [1, 99])
    for axes, (title, mask) in zip(grid, row.masks.items(), strict=True):
        axes.imshow(flat, cmap="gray", interpolation="bicubic", vmin=low, vmax=high)
        for value in range(1, len(classes) + 1):
            draw_outline(axes, mask.take(cut, axis=SHOWN.axis)[window] == value, color(value - 1))
        axes.set_title(title, fontsize=12)
        axes.set_xticks([])
        axes.set_yticks([])
        letter = axes.text(0.02, 0.5, SHOWN.left, color="yellow", transform=axes.transAxes, fontsize=9)
        letter.set_path_effects([withStroke(linewidth=2, foreground="black")])
    grid[0].set_ylabel(row.name, fontsize=11)


def main(task: Path, folders: list[Path]) -> None:
    """Choose the scans at the quartiles of the gain, segment them with both models and draw them."""
    scores = read_scores(folders)
    gains = {case: scores["default"][case] - scores["nnunet"][case] for case in scores["nnunet"]}
    ranked = sorted(gains, key=lambda each: (gains[each], each))
    chosen = {"upper quartile": ranked[3 * len(ranked) // 4], "lower quartile": ranked[len(ranked) // 4]}
    models = {arm: model_of(arm, folders) for arm in ARMS}
    names = json.loads((task / "dataset.json").read_text())["labels"]
    classes = [name for value, name in sorted(names.items(), key=lambda each: int(each[0])) if int(value)]
    rows = [read_row(name, task, case, scores, models) for name, case in chosen.items()]
    means = ", ".join(f"{title} {statistics.mean(scores[arm].values()):.3f}" for arm, title in ARMS.items())
    caption = (
        f"Scans at the quartiles of the gain in Dice; means of {len(gains)} scans: {means}; one draw of two labels"
    )
    draw(rows, classes, caption)
    better, worse = (sum(sign * gain > 0 for gain in gains.values()) for sign in (1, -1))
    print(f"{TARGET}: {caption}; {', '.join(chosen.values())}; {better} scans better, {worse} worse")  # noqa: T201


def read_row(name: str, task: Path, case: str, scores: dict[str, dict[str, float]], models: dict[str, Path]) -> Row:
    """Read a scan and its label, and segment it with both models."""
    import SimpleITK

    scan = task / "imagesTr" / f"{case}.nii.gz"
    read = SimpleITK.ReadImage(str(scan))
    axes, flips = to_patient(read.GetDirection())
    masks: dict[str, Any] = {
        f"{title}: Dice {scores[arm][case]:.2f}": segment(scan, models[arm]) for arm, title in ARMS.items()
    }
    masks["the expert"] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(task / "labelsTr" / scan.name)))
    turned = {title: orient(mask, axes, flips) for title, mask in masks.items()}
    return Row(name, orient(SimpleITK.GetArrayFromImage(read), axes, flips), turned)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
